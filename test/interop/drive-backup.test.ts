/** `drive-backup` to an image that is there: what it is taken for, and what it holds afterwards. */
import { join } from 'node:path'
import { it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { disks, prepare, qcow2 } from '../support/job-images.ts'
import { command, QmpPair } from '../support/qmp-pair.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img', 'qemu-io')

qsd.describe('drive-backup to what exists', () => {
  const folder = scratchFolder('drive-backup')
  const backup = (device: string, target: string, more: object = {}) =>
    command('drive-backup', {
      ...{ 'job-id': 'j', device, target, sync: 'full', mode: 'existing' },
      ...more,
    })
  const gone = { until: 'gone' }

  it('takes it for what it looks like, not for what the source is', async () => {
    await using pair = await QmpPair.start(join(folder, 'a'), qsd.path as string, prepare)
    await pair.same([
      disks[0],
      qcow2('base'),
      ...[backup('s', 'new.qcow2'), gone],
      ...[backup('base', 't.raw'), gone],
      backup('s', 'no-such.qcow2'),
      backup('s', 'mid.qcow2', { format: 'no-such' }),
      ...[backup('s', 'top.qcow2', { format: 'raw' }), gone],
    ])
    await pair.sameImages('new.qcow2', 't.raw', 'top.qcow2')
  })
})
