/** Backing files by QMP: what may not be done to one, and what an image says of it. */
import { join } from 'node:path'
import { it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { chain, disks, prepare, query } from '../support/job-images.ts'
import { command, QmpPair } from '../support/qmp-pair.ts'
import type { Message } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img', 'qemu-io')

qsd.describe('backing files of the storage daemon', () => {
  const folder = scratchFolder('change-backing-file')
  let count = 0
  const start = () => QmpPair.start(join(folder, String(count++)), qsd.path as string, prepare)

  it('a backing file: what may not be done to it', async () => {
    await using pair = await start()
    const mirror = (args: Message) =>
      command('blockdev-mirror', { device: 't', sync: 'full', 'job-id': 'j', ...args })
    await pair.same([
      ...chain,
      ...disks.slice(0, 1),
      ...['mid', 'base'].flatMap((node) => [
        command('block_resize', { 'node-name': node, size: 9 * MiB }),
        command('blockdev-del', { 'node-name': node }),
        command('blockdev-snapshot', { node, overlay: 's' }),
        mirror({ target: node }),
        mirror({ target: 's', replaces: node }),
      ]),
      query[0],
    ])
  })

  it('change-backing-file', async () => {
    await using pair = await start()
    const change = (device: string, image: string, name = 'y') =>
      command('change-backing-file', { device, 'image-node-name': image, 'backing-file': name })
    await pair.same([
      ...chain,
      change('zz', 'top'),
      change('top', 'zz'),
      change('mid', 'mid'),
      change('top', 't'),
      change('top', 'base'),
      change('t', 't'),
      command('blockdev-add', { driver: 'copy-on-read', 'node-name': 'cor', file: 't' }),
      change('top', 'cor'),
      change('cor', 'cor'),
      change('top', 'top', '../ours/mid.qcow2'),
      change('top', 'mid', '../ours/base.qcow2'),
    ])
    await pair.sameImages('top.qcow2', 'mid.qcow2')
  })

  it('change-backing-file: a header that cannot be written, and then can', async () => {
    await using pair = await start()
    const change = command('change-backing-file', {
      device: 'top',
      'image-node-name': 'top',
      'backing-file': '../ours/mid.qcow2',
    })
    const fault = { event: 'none', iotype: 'write', sector: 0, once: true }
    const top = command('blockdev-add', {
      driver: 'qcow2',
      'node-name': 'top',
      backing: 'mid',
      file: {
        driver: 'blkdebug',
        'inject-error': [{ ...fault, errno: 28 }, fault],
        image: { driver: 'file', filename: 'top.qcow2' },
      },
    })
    await pair.same([...chain.slice(0, 2), top, change, change, change])
    await pair.sameImages('top.qcow2', 'mid.qcow2')
  })
})
