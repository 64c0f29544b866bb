/** Stream and commit by QMP: the same conversation, events and images as the peer's. */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { chain, on, prepare, qcow2, query } from '../support/job-images.ts'
import { command, QmpPair, type Step } from '../support/qmp-pair.ts'
import type { Message } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img', 'qemu-io')

qsd.describe('stream and commit of the storage daemon', () => {
  const folder = scratchFolder('jobs-stream-commit')
  let count = 0
  const start = () => QmpPair.start(join(folder, String(count++)), qsd.path as string, prepare)

  it('stream: refuses alike', async () => {
    await using pair = await start()
    const stream = (args: Message) =>
      command('block-stream', { device: 'top', 'job-id': 'j', ...args })
    await pair.same([
      ...chain,
      command('block-stream', { device: 'top' }),
      command('block-stream', { 'job-id': 'j' }),
      stream({ device: 'zz' }),
      stream({ base: 'x', 'base-node': 'base' }),
      stream({ base: 'x', bottom: 'base' }),
      stream({ bottom: 'x', 'base-node': 'base' }),
      stream({ base: 'x' }),
      stream({ 'base-node': 'zz' }),
      stream({ 'base-node': 'top' }),
      stream({ 'base-node': 'top-file' }),
      stream({ bottom: 'zz' }),
      stream({ device: 'mid', bottom: 'top' }),
      stream({ 'backing-file': 'x' }),
      stream({ 'on-error': 'x' }),
      stream({ 'job-id': '1' }),
    ])
  })

  it('stream: of a part and then of all, step by step', async () => {
    await using pair = await start()
    const stream = (args: Message) =>
      command('block-stream', { device: 'top', 'job-id': 'j', ...args })
    await pair.same([
      ...chain,
      stream({
        'base-node': 'base',
        speed: 65536,
        'auto-finalize': false,
        'auto-dismiss': false,
        'filter-node-name': 'flt',
      }),
      stream({ device: 'mid', 'job-id': 'k' }),
      command('block-commit', { device: 'top', 'job-id': 'k' }),
      command('change-backing-file', {
        device: 'top',
        'image-node-name': 'top',
        'backing-file': 'x',
      }),
      command('blockdev-del', { 'node-name': 'flt' }),
      command('blockdev-del', { 'node-name': 'top' }),
      command('blockdev-del', { 'node-name': 'mid' }),
      on('job-complete'),
      on('block-job-complete'),
      on('job-pause'),
      on('block-job-cancel'),
      on('job-resume'),
      on('block-job-set-speed', { speed: 0 }),
      { until: 'pending' },
      ...query,
      on('job-finalize'),
      { until: 'concluded' },
      ...query,
      on('job-dismiss'),
      ...query,
      command('query-named-block-nodes', { flat: true }),
      stream({}),
      { until: 'gone' },
      stream({}),
      { until: 'gone' },
      command('query-named-block-nodes', { flat: true }),
    ])
    await pair.sameImages('top.qcow2', 'mid.qcow2', 'base.qcow2')
  })

  it('stream: bases by file name and by the node above, a name to record', async () => {
    for (const args of [
      { base: 'base.qcow2' },
      { base: 'mid.qcow2' },
      { bottom: 'mid' },
      { bottom: 'top' },
      { 'base-node': 'mid', 'backing-file': '../ours/mid.qcow2' },
    ]) {
      await using pair = await start()
      await pair.same([
        ...chain,
        command('block-stream', { device: 'top', 'job-id': 'j', ...args }),
        { until: 'gone' },
      ])
      await pair.sameImages('top.qcow2', 'mid.qcow2')
    }
  })

  it('commit: refuses alike', async () => {
    await using pair = await start()
    const commit = (args: Message) =>
      command('block-commit', { device: 'top', 'job-id': 'j', ...args })
    await pair.same([
      ...chain,
      command('block-commit', { device: 'top' }),
      commit({ device: 'zz' }),
      commit({ device: 'mid' }),
      commit({ device: 'base' }),
      commit({ base: 'x', 'base-node': 'base' }),
      commit({ top: 'x', 'top-node': 'base' }),
      commit({ top: 'x' }),
      commit({ base: 'x' }),
      commit({ 'top-node': 'zz' }),
      commit({ 'base-node': 'zz' }),
      commit({ 'base-node': 'top' }),
      commit({ 'top-node': 'base' }),
      commit({ 'top-node': 'base', 'base-node': 'mid' }),
      commit({ 'top-node': 't' }),
      commit({ 'base-node': 't' }),
      commit({ 'backing-file': 'x' }),
      commit({ device: 't' }),
    ])
  })

  it('commit: of inner images and of the active one, step by step', async () => {
    await using pair = await start()
    const commit = (args: Message) =>
      command('block-commit', { device: 'top', 'job-id': 'j', ...args })
    await pair.same([
      ...chain,
      commit({
        'top-node': 'mid',
        speed: 65536,
        'auto-finalize': false,
        'auto-dismiss': false,
        'filter-node-name': 'flt',
      }),
      on('job-complete'),
      command('block-stream', { device: 'top', 'job-id': 'k' }),
      commit({ 'job-id': 'k' }),
      command('blockdev-del', { 'node-name': 'top' }),
      command('blockdev-del', { 'node-name': 'mid' }),
      command('blockdev-del', { 'node-name': 'base' }),
      on('block-job-set-speed', { speed: 0 }),
      { until: 'pending' },
      ...query,
      on('job-finalize'),
      { until: 'concluded' },
      on('job-dismiss'),
      command('query-named-block-nodes', { flat: true }),
      commit({ 'filter-node-name': 'flt' }),
      { until: 'ready' },
      ...query,
      on('job-finalize'),
      on('job-dismiss'),
      on('job-pause'),
      { until: 'standby' },
      ...query,
      on('job-complete'),
      on('job-resume'),
      { until: 'gone' },
      on('job-complete'),
      command('blockdev-del', { 'node-name': 'top' }),
      command('blockdev-del', { 'node-name': 'base' }),
      command('blockdev-del', { 'node-name': 'mid' }),
      command('blockdev-del', { 'node-name': 'base' }),
    ])
    await pair.sameImages('base.qcow2', 'top.qcow2')
  })

  it('commit: names to record, and a base that is smaller', async () => {
    await using pair = await start()
    for (const side of pair.folders)
      execFileSync('qemu-img', ['resize', '-q', '-f', 'qcow2', join(side, 'top.qcow2'), '12M'])
    await pair.same([
      ...chain,
      command('block-commit', {
        device: 'top',
        'job-id': 'j',
        top: 'mid.qcow2',
        base: 'base.qcow2',
        'backing-file': '../ours/base.qcow2',
      }),
      { until: 'gone' },
    ])
    await pair.sameImages('top.qcow2', 'base.qcow2')
    await using second = await start()
    for (const side of second.folders)
      execFileSync('qemu-img', ['resize', '-q', '-f', 'qcow2', join(side, 'top.qcow2'), '12M'])
    await second.same([
      ...chain,
      command('block-commit', { device: 'top', 'job-id': 'j' }),
      { until: 'ready' },
      ...query,
      on('block-job-cancel'),
      { until: 'gone' },
    ])
    await second.sameImages('top.qcow2', 'base.qcow2')
  })

  it('chains that images name themselves, open for reading until a job writes', async () => {
    const gone: Step = { until: 'gone' }
    await using pair = await start()
    await pair.same([
      qcow2('top'),
      command('block-commit', { device: 'top', 'job-id': 'j', top: 'mid.qcow2' }),
      gone,
      command('block-commit', { device: 'top', 'job-id': 'j' }),
      { until: 'ready' },
      on('block-job-cancel'),
      gone,
      command('block-stream', { device: 'top', 'job-id': 'j' }),
      gone,
      command('blockdev-del', { 'node-name': 'top' }),
      command('query-named-block-nodes', { flat: true }),
    ])
    await pair.sameImages('top.qcow2', 'mid.qcow2', 'base.qcow2')
  })
})
