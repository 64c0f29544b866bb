/** `varve io` beside qemu-io on qcow2 images of several kinds: the same output. */
import { expect, test } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { commands, comparingIn, qcow2Kinds, raw } from '../support/io-pair.ts'
import { qemuIo, realIo } from '../support/io-tools.ts'

const qemuImg = peer('qemu-img', 'qemu-io')
const compareBoth = comparingIn(scratchFolder('io-qcow2'))

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
    const args = ['-s', '-r', ...commands(...lines)]
    const image = await compareBoth(make, (path) => [...args, path])
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
