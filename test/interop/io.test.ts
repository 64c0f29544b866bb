/**
 * `varve io` beside qemu-io: the same scripts give the same output, complaints and exit status, and
 * the same random operations leave the same disk.
 */
import { copyFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { qemuIo, realIo, varveIo } from '../support/io-tools.ts'
import { Random, seedNote } from '../support/random.ts'

const folder = scratchFolder('io')
const qemuImg = peer('qemu-img', 'qemu-io')
let images = 0

/** Makes an image, twice: one for each program. */
type Maker = (path: string) => void | Promise<void>

const raw: Maker = (path) => {
  writeFileSync(path, '')
  truncateSync(path, 1024 * 1024)
}

const oddRaw: Maker = (path) => writeFileSync(path, Buffer.alloc(1000, 0x41))

const patterned: Maker = (path) => {
  const bytes = Buffer.alloc(64 * 1024, 0)
  for (let at = 0; at < 256; at++) bytes[at] = at
  writeFileSync(path, bytes)
}

async function compareBoth(
  make: Maker,
  args: (image: string) => readonly string[],
  input = '',
): Promise<void> {
  const image = join(folder, `image${images++}`)
  await make(image)
  const expected = await realIo(args(image), input)
  await make(image)
  expect(await varveIo(args(image), input)).toEqual(expected)
}

function commands(...lines: readonly string[]): string[] {
  return lines.flatMap((line) => ['-c', line])
}

/** Each runs to the end; their status is 0. */
const successes: Readonly<Record<string, readonly string[]>> = {
  reading: [
    'read 0 4k',
    'read 0 1',
    'read 1 512',
    'read 0 0',
    'read 1M 0',
    'r 0 1536',
    'read 0 1025',
    'read 0 1048575',
    'read 10k 1023',
    'read 1.5k 512',
    'read 0x10 0x20',
    'read 1.1k 0X1f',
    'read -q 0 4k',
    'read -C 0 4k',
    'read -q -C 0 4k',
    'read -p 0 512',
    'read 0 512 -q',
    'read 0 -q 512',
    'read -- 0 512',
    ' read  0   512 ',
    'read 010 1',
    'readv 0 512 512',
    'readv 0 0',
    'readv 1 511',
    'readv -C 0 8 8',
    'readv -qv 0 8 8',
    '',
  ],
  'reading with a pattern': [
    'read -P 0 0 4k',
    'read -P 0x0 -q 0 4k',
    'read -P 00 0 4k',
    'read -P 0 -s 1k -l 1k 0 4k',
    'read -P 0 -s 1k 0 4k',
    'read -P 0 -s 4k 0 4k',
    'read -qP 0 0 1',
    'read -P 1 -l 0 0 512',
    'readv -P 0 0 512 512',
  ],
  dumping: [
    'read -v 0 256',
    'read -v 32 20',
    'read -v 65 1',
    'read -q -v 0 16',
    'read -C -v 0 16',
    'readv -v 120 16 16',
    'read -v 65520 16',
  ],
  writing: [
    'write 0 4k',
    'w 4k 100',
    'write -P 5 1 3',
    'read -v 0 16',
    'write -q 0 4k',
    'write -z 0 4k',
    'write -z -u 0 4k',
    'write -zun 4k 4k',
    'write -z -c 0 4k',
    'write -f 0 4k',
    'write -f -z 0 4k',
    'write -C 0 4k',
    'write -p 0 4k',
    'write -s /etc/passwd 5 100',
    'read -v 0 120',
    'write -P 010 0 1',
    'write -P 0xff 1 1',
    'read -v 0 2',
    'writev 0 512 512',
    'writev -P 7 3 512 1',
    'writev -f 0 512',
    'writev -C 0 512',
    'writev -q 0 512',
    'write -zu 1 10',
    'read -v 0 16',
    'flush',
    'f',
  ],
  discarding: [
    'write -q 0 128k',
    'discard 0 4k',
    'discard -q 0 4k',
    'discard -C 0 4k',
    'discard 1 511',
    'discard 0 0',
    'd 64k 64k',
    'read -P 0 64k 64k',
  ],
  size: [
    'length',
    'l',
    'truncate 2M',
    'length',
    'truncate 1536',
    'length',
    'truncate 0',
    'length',
    'truncate 3G',
    'length',
    'truncate 3000000000',
    'length',
    't -m off 7T',
    'length',
    'truncate 512 2',
    'length',
  ],
  allocation: [
    'map',
    'alloc 0',
    'alloc 0 1',
    'alloc 0 1M',
    'alloc 0 2M',
    'alloc 1M',
    'alloc 2M 1',
    'alloc 512 512',
    'alloc 1 512',
    'a 0 0',
    'alloc 0 3G',
    'alloc 1. 1',
    'alloc 1.0 1',
    'alloc 1.5E 1',
    'alloc 0.3333333k 1',
    'info',
    'i',
  ],
  help: [
    'help',
    '?',
    ...[
      'abort',
      'aio_flush',
      'aio_read',
      'aio_write',
      'alloc',
      'break',
      'close',
      'discard',
      'flush',
      'help',
      'info',
      'length',
      'map',
      'open',
      'quit',
      'read',
      'readv',
      'remove_break',
      'reopen',
      'resume',
      'sigraise',
      'sleep',
      'truncate',
      'wait_break',
      'write',
      'writev',
      'r',
      'w',
      't',
    ].map((name) => `help ${name}`),
  ],
  'the session': [
    'sleep 1',
    'sleep 0x1',
    'sleep 010',
    'sigraise 0',
    'reopen',
    'reopen -c writethrough',
    'write 0 512',
    'reopen -w',
    'reopen -o discard=ignore',
    'reopen -o driver=raw',
    'aio_flush',
    'close',
    'quit 1 2',
    'length',
  ],
}

/** Each fails; run one by one, for the status. */
const failures: readonly string[] = [
  'read x 4k',
  'read 0 x',
  'read -1 4k',
  'read 0 3G',
  'read 0 2147483136',
  'read 1M 512',
  'read 2M 0',
  'read 1048000 1000',
  'read',
  'read 0',
  'read -q 0',
  'read 0 1 2',
  'read -Z 0 4k',
  'r -Z 0 4k',
  'read -P x 0 4k',
  'read -P 256 0 4k',
  'read -P -1 0 4k',
  'read -P 08 0 1',
  'read -P 1 0 4k',
  'read -P 1 -q 100 50',
  'read -P 1 -C 0 16',
  'read -P 1 -s 10 -l 20 100 50',
  'read -P 0 -s 5k -l 1k 0 4k',
  'read -P 0 -l 8k 0 4k',
  'read -s 1k -l 1k 0 4k',
  'read -P',
  'read -b 0 512',
  'read -b 1 3',
  'read 0.5 512',
  'read 1e3 512',
  'read 8E 512',
  'read 9223372036854774784 512',
  'read 9223372036854775808 512',
  'read .5k 1',
  'read 0x 1',
  'read 1kb 1',
  'read 1.5b 1',
  'read - 1',
  'read --quiet 0 1',
  'readv 0',
  'readv 0 512 x',
  'readv 0 3G',
  'readv 0 1G 1G',
  'readv -P 1 0 512 512',
  'readv -b 0 512',
  'write -n 0 4k',
  'write -u 0 4k',
  'write -z -P 1 0 4k',
  'write -c 0 64k',
  'write -c 1 64k',
  'write -b 0 4k',
  'write -b -z 0 4k',
  'write -f -c 0 4k',
  'write -s nofile 0 4k',
  'write -s /dev/null 0 100',
  'write -s /etc 0 1',
  'write -s /etc/passwd -P 3 0 1',
  'write 0 3G',
  'write -z 0 3G',
  'write -zn 0 3G',
  'write 1M 512',
  'write 0 2M',
  'write 0 1 2',
  'write -P 300 0 4k',
  'write -i 0 4k',
  'writev 0 x',
  'writev 0',
  'writev -z 0 512',
  'discard 0 3G',
  'discard 0 2M',
  'discard 0',
  'discard 0 1 2',
  'flush x',
  'length x',
  'map x',
  'truncate x',
  'truncate',
  'truncate -1',
  'read -s -1 -l 0x 0 512',
  'read -l x -P x 0 512',
  'truncate -m off x',
  't',
  'd 0',
  'r 0',
  'write -z -c 1 512',
  'write -s /etc/hostname 0 0',
  'write -s /nosuch 2M 512',
  'truncate -m foo 2M',
  'truncate -m metadata 2M',
  'alloc x',
  'alloc -1',
  'alloc 0 9E',
  'info x',
  'sleep x',
  'sleep',
  'sleep -1',
  'sleep 1.5',
  'close x',
  'sigraise x',
  'sigraise',
  'sigraise 99',
  'break a b',
  'break',
  'resume A',
  'remove_break A',
  'wait_break',
  'abort x',
  'aio_flush x',
  'aio_read x 512',
  'aio_read 0 x',
  'aio_read 0',
  'aio_read 0 1 -Z',
  'aio_write -u 0 512',
  'aio_write -z 0 512 512',
  'aio_write 0 3G',
  'aio_read -P x 0 512',
  'reopen -r -w',
  'reopen -c foo',
  'reopen -c writeback -o cache.direct=on',
  'reopen -o x=y',
  'reopen -x',
  'reopen a',
  'reopen -o driver=qcow2',
  'reopen -o node-name=x',
  'open',
  'open a',
  'open -n',
  'open -x a',
  'open -o',
  'foo',
  'foo bar',
  'help foo',
  'help read write',
  '"read" 0 512',
  '#x',
]

qemuIo.describe('varve io, beside qemu-io', () => {
  test.each(Object.entries(successes))('%s', async (_, lines) => {
    const make = lines.some((line) => line.includes('-v')) ? patterned : raw
    await compareBoth(make, (image) => ['-f', 'raw', ...commands(...lines), image])
  })

  test.each(failures)('%s', async (line) => {
    await compareBoth(raw, (image) => ['-f', 'raw', '-c', line, image])
  })

  test('commands after a failed one still run', async () => {
    await compareBoth(raw, (image) => [
      '-f',
      'raw',
      ...commands('read 2M 1', 'read -P 1 0 1', 'foo', 'length'),
      image,
    ])
  })

  test('a file that ends inside a sector is filled up with zeroes', async () => {
    const lines = [
      'length',
      'read -v 992 32',
      'write -P 1 1001 10',
      'length',
      'map',
      'alloc 0 2k',
      'read -v 992 32',
      'discard 0 1024',
    ]
    await compareBoth(oddRaw, (image) => ['-f', 'raw', ...commands(...lines), image])
    await compareBoth(oddRaw, (image) => ['-f', 'raw', ...commands('read 0 1025'), image])
  })

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

  test.each([
    ['aio_read 0 512'],
    ['aio_write 0 512'],
    ['aio_read -q 0 512'],
    ['aio_read -i 0 512'],
    ['aio_write -i 0 512'],
    ['aio_write -z 0 512'],
    ['aio_write -zu 0 512'],
    ['aio_write -z -P 1 0 512'],
    ['aio_write -f 0 512'],
    ['aio_read -C 0 512'],
    ['aio_read -v 0 32'],
    ['aio_read -P 1 0 512'],
    ['aio_read 2M 512'],
    ['aio_write 2M 512'],
    ['aio_write -z 0 3G'],
    ['aio_read 0 8 8 16'],
    ['aio_write -q -P 3 0 16 16', 'aio_flush', 'read -v 0 32'],
  ])('%s and the rest of it', async (...lines) => {
    await compareBoth(raw, (image) => ['-f', 'raw', ...commands(...lines), image])
  })
})

/** What a qcow2 image is made like, by the options of qemu-img. */
const qcow2Kinds: Readonly<Record<string, string>> = {
  'version 3': 'compat=1.1',
  'version 2': 'compat=0.10',
  'clusters of 512 bytes, refcounts of one bit': 'cluster_size=512,refcount_bits=1',
  'clusters of 2 MiB, lazy refcounts': 'cluster_size=2M,lazy_refcounts=on',
}

qemuIo.describe('qcow2', () => {
  for (const [kind, options] of Object.entries(qcow2Kinds)) {
    test(`${kind}: the same output`, async () => {
      const make = async (path: string) => {
        await qemuImg.run('create', '-q', '-f', 'qcow2', '-o', options, path, '1M')
      }
      const lines = [
        ...['length', 'info', 'map', 'write 0 1', 'write -P 3 128k 64k', 'map', 'alloc 0'],
        ...['alloc 0 1M', 'alloc 64k 64k', 'alloc 64k 1M', 'alloc 128k 1', 'read -v 0 20'],
        ...['write -zu 130k 2k', 'read -P 0 130k 2k', 'read -P 3 132k 60k', 'flush'],
        ...['write -f 700k 3', 'discard 0 1M', 'length', 'truncate 64M', 'length', 'info'],
        ...['write -P 9 60000000 100', 'read -P 9 60000000 100', 'aio_write 40M 8k 8k'],
        ...['aio_flush', 'read -q -P 0xcd 40M 16k', 'reopen -r', 'write 0 1', 'reopen -w'],
        ...['write 0 1', 'truncate 1', 'truncate 48M', 'length'],
      ]
      await compareBoth(make, (image) => [...commands(...lines), image])
    })
  }

  test('compressed writes', async () => {
    const make = async (path: string) => {
      await qemuImg.run('create', '-q', '-f', 'qcow2', path, '1000k')
    }
    const lines = [
      ...['write -c -P 1 0 64k', 'write -c 64k 128k', 'write -c 0 512', 'write -c 512 64k'],
      ...['write -c 1 64k', 'write -c -P 2 960k 40k', 'map', 'read -P 1 0 64k'],
      ...['read -P 2 960k 40k', 'read -P 0xcd 64k 128k', 'write -P 4 10k 1', 'read -v 10k 2'],
    ]
    await compareBoth(make, (image) => [...commands(...lines), image])
  })

  test('an overlay shows what it has itself, and reads through', async () => {
    const make = async (path: string) => {
      await qemuImg.run('create', '-q', '-f', 'qcow2', `${path}.base`, '1M')
      await realIo(['-c', 'write -P 1 0 256k', `${path}.base`])
      const backing = ['-b', `${path}.base`, '-F', 'qcow2']
      await qemuImg.run('create', '-q', '-f', 'qcow2', ...backing, path, '2M')
    }
    const lines = [
      ...['map', 'read -P 1 0 256k', 'write -P 2 100 100', 'read -v 96 10', 'map'],
      ...['write -z 64k 64k', 'map', 'alloc 0 1M', 'discard 128k 64k', 'map', 'read -P 0 1M 1M'],
      ...['read -P 1 192k 64k', 'truncate 3M', 'read -P 0 1M 2M', 'map'],
    ]
    await compareBoth(make, (image) => [...commands(...lines), image])
  })

  test('-s leaves the image as it was', async () => {
    const make = async (path: string) => {
      await qemuImg.run('create', '-q', '-f', 'qcow2', path, '1M')
    }
    const lines = ['write -P 1 0 512', 'read -P 1 0 512', 'read -P 0 512 512', 'length']
    await compareBoth(make, (image) => ['-s', ...commands(...lines), image])
    await compareBoth(make, (image) => ['-s', '-r', ...commands(...lines), image])
    const image = join(folder, `image${images - 1}`)
    expect(await realIo(['-c', 'read -P 0 0 1M', image])).toMatchObject({ status: 0 })
  })

  test.each<[string, (image: string) => string[]]>([
    ['a file that is none', (image) => ['-f', 'qcow2', '-c', 'length', `${image}.base`]],
    ['-U and writing', (image) => ['-U', '-c', 'length', image]],
    ['-U and reading', (image) => ['-U', '-r', '-c', 'length', image]],
    ['-t none', (image) => ['-n', '-c', 'write 1 1', '-c', 'read -v 0 4', image]],
    ['reopen', (image) => commands('close', `open -o driver=qcow2 ${image}`, 'length', 'info')],
    ...[
      ['reopen -o lazy-refcounts=on', 'write 0 512'],
      ['reopen -o overlap-check=all,cache-clean-interval=3', 'write 0 512'],
      ['reopen -o data-file=x'],
      ['truncate -m falloc 2M', 'length', 'map'],
      ['truncate -m full 2M', 'length', 'map'],
      ['truncate -m metadata 2M', 'length', 'map'],
      ['truncate -m falloc 4k', 'length'],
    ].map((lines): [string, (image: string) => string[]] => [
      lines[0],
      (image) => ['-f', 'qcow2', ...commands(...lines), image],
    ]),
  ])('%s', async (_, args) => {
    const make = async (path: string) => {
      raw(`${path}.base`)
      await qemuImg.run('create', '-q', '-f', 'qcow2', path, '1M')
    }
    await compareBoth(make, args)
  })
})

/** Lines of a script, whose bytes depend on the seed alone. */
function randomScript(random: Random, size: number, count: number): string[] {
  return Array.from({ length: count }, () => {
    const [offset, length] = random.range(size, random.pick([1, 512, 4096]), 256 * 1024)
    const pattern = random.below(256)
    return random.pick([
      `write -P ${pattern} ${offset} ${length}`,
      `writev -P ${pattern} ${offset} ${length}`,
      `write -f -P ${pattern} ${offset} ${length}`,
      `write -z ${offset} ${length}`,
      `write -zu ${offset} ${length}`,
      `read ${offset} ${length}`,
      'flush',
    ])
  })
}

qemuImg.describe('random scripts', () => {
  test(`leave the same raw disk (${seedNote})`, async () => {
    const random = new Random()
    const theirs = join(folder, 'theirs.raw')
    const ours = join(folder, 'ours.raw')
    raw(theirs)
    copyFileSync(theirs, ours)
    const script = randomScript(random, 1024 * 1024, 120).join('\n')
    const expected = await realIo(['-f', 'raw', theirs], script)
    expect(await varveIo(['-f', 'raw', ours], script)).toEqual(expected)
    await qemuImg.run('compare', '-f', 'raw', '-F', 'raw', theirs, ours)
  })

  for (const [kind, options] of Object.entries(qcow2Kinds)) {
    test(`leave the same chain of qcow2 images, ${kind} (${seedNote})`, async () => {
      const random = new Random()
      const base = join(folder, `base${images++}.qcow2`)
      await qemuImg.run('create', '-q', '-f', 'qcow2', '-o', options, base, '700k')
      await realIo([base], randomScript(random, 700 * 1024, 20).join('\n'))
      const [theirs, ours] = [`${base}.theirs`, `${base}.ours`]
      for (const overlay of [theirs, ours]) {
        const create = ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', '-o', options]
        await qemuImg.run(...create, overlay, '1M')
      }
      const script = randomScript(random, 1024 * 1024, 120).join('\n')
      const expected = await realIo([theirs], script)
      expect(await varveIo([ours], script)).toEqual(expected)
      await qemuImg.run('compare', theirs, ours)
      await qemuImg.run('check', '-q', ours)
    })
  }

  test(`that keep many requests in flight leave what they wrote (${seedNote})`, async () => {
    const random = new Random()
    const image = join(folder, 'flight.raw')
    raw(image)
    const parts = Array.from({ length: 64 }, (_, at) => ({
      at: at * 16384,
      pattern: random.below(256),
    }))
    const lines = [
      ...parts.map(({ at, pattern }) => `aio_write -q -P ${pattern} ${at} 8k 8k`),
      'aio_flush',
      ...parts.map(({ at, pattern }) => `aio_read -q -P ${pattern} ${at} 16k`),
    ]
    const outcome = await varveIo(['-f', 'raw', image], lines.join('\n'))
    expect(outcome.stdout.replaceAll('qemu-io> ', '')).toBe('')
    const checks = parts.map(({ at, pattern }) => `read -q -P ${pattern} ${at} 16k`)
    expect(await realIo(['-f', 'raw', image], checks.join('\n'))).toMatchObject({ status: 0 })
  })
})
