/** Mirrors by QMP: the same conversation, events and images as the peer's. */
import { join } from 'node:path'
import { it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { chain, disks, on, prepare, qcow2, query, raw } from '../support/job-images.ts'
import { command, QmpPair, type Step } from '../support/qmp-pair.ts'
import type { Message } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img', 'qemu-io')

qsd.describe('mirrors of the storage daemon', () => {
  const folder = scratchFolder('jobs-mirror')
  let count = 0
  const start = () => QmpPair.start(join(folder, String(count++)), qsd.path as string, prepare)

  it('mirror: refuses alike', async () => {
    await using pair = await start()
    const mirror = (args: Message) =>
      command('blockdev-mirror', { device: 's', target: 't', sync: 'full', 'job-id': 'j', ...args })
    await pair.same([
      ...disks,
      command('blockdev-mirror', { device: 's', target: 't', sync: 'full' }),
      command('blockdev-mirror', { device: 's', target: 't', 'job-id': 'j' }),
      mirror({ device: 'zz' }),
      mirror({ target: 'zz' }),
      mirror({ target: 's' }),
      mirror({ device: 's-file' }),
      mirror({ sync: 'incremental' }),
      mirror({ sync: 'bitmap' }),
      mirror({ sync: 'x' }),
      ...[1, 256, 511, 513, 128 * MiB].map((granularity) => mirror({ granularity })),
      mirror({ 'buf-size': -1 }),
      mirror({ replaces: 'zz' }),
      mirror({ replaces: 't' }),
      mirror({ 'copy-mode': 'x' }),
      mirror({ 'filter-node-name': 's' }),
      mirror({ target: 'big' }),
      { until: 'gone' },
      mirror({ target: 'small' }),
      { until: 'gone' },
    ])
  })

  it('mirror: to the end, in every way it can end', async () => {
    await using pair = await start()
    const mirror = (args: Message = {}) =>
      command('blockdev-mirror', { device: 's', target: 't', sync: 'full', 'job-id': 'j', ...args })
    const ready: Step = { until: 'ready' }
    const gone: Step = { until: 'gone' }
    await pair.same([
      ...disks,
      mirror({ 'filter-node-name': 'flt', 'auto-finalize': false, 'auto-dismiss': false }),
      ready,
      ...query,
      mirror({ 'job-id': 'k', target: 'big' }),
      mirror({ 'job-id': 'k', device: 'big' }),
      command('blockdev-del', { 'node-name': 't' }),
      command('blockdev-del', { 'node-name': 's' }),
      command('block_resize', { 'node-name': 's', size: MiB }),
      on('job-complete'),
      { until: 'pending' },
      on('job-complete'),
      command('query-jobs'),
      on('job-finalize'),
      { until: 'concluded' },
      command('query-jobs'),
      on('job-dismiss'),
      ...[
        [on('block-job-cancel')],
        [on('block-job-cancel', { force: true })],
        [on('job-cancel')],
        [on('job-complete')],
        [on('block-job-complete')],
        [
          on('block-job-pause'),
          { until: 'standby' },
          on('block-job-pause'),
          on('block-job-cancel'),
          on('block-job-complete'),
          ...query,
          on('block-job-resume'),
        ],
        [on('block-job-pause'), { until: 'standby' }, on('block-job-cancel', { force: true })],
      ].flatMap((steps) => [mirror(), ready, ...query, ...steps, gone]),
      mirror({ 'auto-finalize': false }),
      ready,
      on('block-job-cancel'),
      { until: 'pending' },
      command('query-jobs'),
      on('block-job-finalize'),
      gone,
      mirror({ sync: 'none', 'copy-mode': 'write-blocking' }),
      ready,
      ...query,
      on('job-complete'),
      gone,
      mirror({ sync: 'top' }),
      ready,
      ...query,
      on('job-complete'),
      gone,
    ])
    await pair.sameImages('t.raw')
  })

  it('mirror: of a chain, onto images', async () => {
    await using pair = await start()
    const mirror = (args: Message) =>
      command('blockdev-mirror', { device: 'top', target: 'new', 'job-id': 'j', ...args })
    await pair.same([
      ...chain,
      qcow2('new'),
      mirror({ sync: 'top', target: 't' }),
      { until: 'ready' },
      ...query,
      on('block-job-cancel'),
      { until: 'gone' },
      mirror({ sync: 'none', target: 't' }),
      { until: 'ready' },
      ...query,
      on('block-job-cancel'),
      { until: 'gone' },
      mirror({ sync: 'full' }),
      { until: 'ready' },
      ...query,
      on('job-complete'),
      { until: 'gone' },
    ])
    await pair.sameImages('new.qcow2')
  })

  it('mirror: of a quorum in the place of one of its children', async () => {
    await using pair = await start()
    const mirror = (args: Message) =>
      command('blockdev-mirror', { device: 'q', sync: 'full', 'job-id': 'j', ...args })
    const other = (name: string): Message => ({
      driver: 'null-co',
      'node-name': name,
      size: 8 * MiB,
      'read-zeroes': true,
    })
    const quorum = command('blockdev-add', {
      driver: 'quorum',
      'node-name': 'q',
      'vote-threshold': 1,
      'read-pattern': 'fifo',
      children: ['s', other('b'), other('c')],
    })
    await pair.same([
      raw('s'),
      raw('t'),
      quorum,
      mirror({ target: 't', replaces: 's-file' }),
      mirror({ target: 't', replaces: 's' }),
      { until: 'ready' },
      on('block-job-complete'),
      { until: 'gone' },
      // What the monitor has opened stays, and is free.
      command('blockdev-del', { 'node-name': 't' }),
      command('blockdev-del', { 'node-name': 's' }),
      command('x-debug-query-block-graph'),
      raw('s'),
      mirror({ target: 's', replaces: 'b' }),
      ...[{ until: 'ready' }, on('block-job-complete'), { until: 'gone' }],
      command('x-debug-query-block-graph'),
    ])
  })
})
