/** Options of `varve io`, images opened and reopened, and scripts from standard input, beside qemu-io. */
import { test } from 'vitest'
import { scratchFolder } from '../support/folder.ts'
import { commands, comparingIn, raw } from '../support/io-pair.ts'
import { qemuIo } from '../support/io-tools.ts'

const compareBoth = comparingIn(scratchFolder('io-session'))

qemuIo.describe('varve io, beside qemu-io', () => {
  test.each([
    [['-r'], ['write 0 512', 'write', 'write x y', 'writev 0 1', 'discard 0 1', 'aio_write 0 1']],
    [['-r'], ['truncate 2M', 'flush', 'read 0 512', 'help write', 'reopen -w', 'write 0 512']],
    [[], ['reopen -r', 'write 0 512', 'reopen -w', 'write 0 512']],
    [['-n'], ['read 0 512', 'write 1 511', 'read -P 0xcd 1 511', 'write 4k 8k', 'flush']],
    [
      ['-n', '-m'],
      ['write 1 5000', 'read -P 0xcd 1 5000', 'aio_write 4k 4k', 'aio_flush'],
    ],
    [['-k', '-n'], ['length']],
    [['-k'], ['length']],
    [
      ['-t', 'writethrough'],
      ['write 0 512', 'write -z 0 4k', 'length'],
    ],
    [
      ['-t', 'directsync'],
      ['write 0 512', 'length'],
    ],
    [
      ['-t', 'unsafe'],
      ['write 0 512', 'flush'],
    ],
    [['-t', 'foo'], ['length']],
    [['-d', 'foo'], ['length']],
    [['-i', 'foo'], ['length']],
    [['-i', 'native'], ['length']],
    [
      ['-i', 'io_uring', '-d', 'ignore'],
      ['write -q 0 64k', 'discard 0 64k'],
    ],
    [['-r', '-U'], ['read 0 512']],
    [['-U'], ['read 0 512']],
    [['-C', '-r'], ['read 0 512']],
    [['-k', '-i', 'threads'], ['length']],
    [['-k', '-i', 'x'], ['length']],
    [['-U', '-k'], ['length']],
    [['-m'], ['read 0 512', 'write 1 3']],
    [[], ['close', 'length', 'flush', 'map', 'close', 'aio_flush']],
  ])('%j %j', async (options, lines) => {
    await compareBoth(raw, (image) => ['-f', 'raw', ...options, ...commands(...lines), image])
  })

  test.each<[string, (image: string) => string[]]>([
    ['an absent file', (image) => ['-c', 'length', `${image}.absent`]],
    ['no format, and a wrong mode', (image) => ['-f', 'foo', '-k', '-c', 'length', image]],
    ['nothing, and a wrong mode', (image) => ['-C', '-r', '-k', '-c', 'length', `${image}.absent`]],
    [
      'a disk that is not for writing',
      (image) => ['--image-opts', '-c', 'length', `driver=raw,read-only=on,file.filename=${image}`],
    ],
    ['a guess, reopened', (image) => ['-c', 'reopen -o discard=unmap', '-c', 'write 0 512', image]],
    [
      'open -o beside option strings',
      (image) => [
        '--image-opts',
        '-c',
        'open -o driver=raw x',
        `driver=raw,file.filename=${image}`,
      ],
    ],
    ['a word that is no option string', () => ['--image-opts', '-c', 'length', 'x']],
    ['a file as such', (image) => ['-f', 'file', '-c', 'info', image]],
    ['an absent folder', (image) => [`${image}.absent/x`]],
    ['a wrong format', (image) => ['-f', 'foo', '-c', 'length', image]],
    ['an unknown protocol', () => ['-c', 'length', 'foo:bar']],
    ['an empty name', () => ['-c', 'length', '-f', 'raw', '']],
    ['a probed raw image', (image) => ['-c', 'length', '-c', 'write 0 512', image]],
    ['a probed raw image, for reading', (image) => ['-r', '-c', 'length', image]],
    ['no image', () => commands('read 0 1', 'length', 'info', 'close', 'sleep 1', 'sigraise 0')],
    ['opening later', (image) => commands(`open -o driver=raw ${image}`, 'length')],
    ['opening options', (image) => commands(`open -o driver=raw,file.filename=${image}`, 'length')],
    [
      'opening what fails',
      (image) =>
        commands(
          `open -o driver=nosuch ${image}`,
          `open ${image}.absent`,
          `open -t foo ${image}`,
          `open -d foo ${image}`,
          `open -i foo ${image}`,
          `open -U ${image}`,
          `open -k ${image}`,
          'open -o driver=raw',
          'open a b',
          'length',
        ),
    ],
    [
      'opening twice',
      (image) => [
        '-f',
        'raw',
        ...commands(`open ${image}`, 'close', `open -n -o driver=raw ${image}`, 'length'),
        image,
      ],
    ],
    [
      '--image-opts',
      (image) => ['--image-opts', '-c', 'length', `driver=raw,file.filename=${image}`],
    ],
    ['--image-opts and -f', (image) => ['--image-opts', '-f', 'raw', '-c', 'length', image]],
    ['long options', (image) => ['--cmd=length', '--format', 'raw', '--read-only', image]],
    ['options cut short', (image) => ['--form', 'raw', '-rc', 'length', image]],
    ['options last', (image) => [image, '-f', 'qcow2', '-f', 'raw', '-c', 'length', '--']],
    [
      'json:',
      (image) => [
        '-c',
        'length',
        `json:{"driver":"raw","file":{"driver":"file","filename":"${image}"}}`,
      ],
    ],
  ])('%s', async (_, args) => {
    await compareBoth(raw, args)
  })

  test.each([
    'length\nread 0 512\nfoo\nquit\nlength\n',
    'length\n\n\nread x 1\n',
    'length',
    '',
    'read 2M 1\n',
    'aio_write 0 4k\naio_flush\naio_read -P 0xcd 0 4k\naio_flush\nlength\n',
    'aio_write -P 7 0 4k\nquit\n',
    'close\nlength\nq\n',
  ])('standard input %j', async (input) => {
    await compareBoth(raw, (image) => ['-f', 'raw', image], input)
  })
})
