/** What else may be done while jobs run, and what becomes of errors, as with the peer. */
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { chain, disks, on, prepare, query, raw } from '../support/job-images.ts'
import { command, QmpPair, type Step } from '../support/qmp-pair.ts'
import type { Message } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img', 'qemu-io')

qsd.describe('jobs of the storage daemon', () => {
  const folder = scratchFolder('jobs-beside')
  let count = 0
  const start = () => QmpPair.start(join(folder, String(count++)), qsd.path as string, prepare)

  it('filters of jobs: nothing else may stand on them', async () => {
    await using pair = await start()
    const begin = (verb: string, args: Message) =>
      command(verb, { 'job-id': 'j', device: 'top', 'filter-node-name': 'flt', speed: 1, ...args })
    const targets = ['t1', 't2', 't3'].map((name) =>
      command('blockdev-add', { driver: 'null-co', 'node-name': name, size: 4 * MiB }),
    )
    const onFilter = [
      command('blockdev-mirror', { 'job-id': 'k', device: 'flt', target: 't2', sync: 'full' }),
      command('blockdev-backup', { 'job-id': 'k', device: 'flt', target: 't3', sync: 'none' }),
      command('block-stream', { 'job-id': 'k', device: 'flt' }),
      command('block-commit', { 'job-id': 'k', device: 'flt' }),
      command('blockdev-snapshot', { node: 'flt', overlay: 't3' }),
      command('blockdev-del', { 'node-name': 'flt' }),
    ]
    const cancel = [on('block-job-cancel', { force: true }), { until: 'gone' }]
    await pair.same([...chain, ...targets])
    for (const verb of ['blockdev-mirror', 'blockdev-backup']) {
      const args = { target: 't1', sync: 'full' }
      await pair.same([begin(verb, args), ...onFilter, ...cancel], ['offset', 'len'])
    }
    const commit = begin('block-commit', { 'top-node': 'mid', 'base-node': 'base' })
    // The others are refused, too, for the chain's sake.
    const refused = onFilter.filter((_, index) => [0, 1, 3].includes(index))
    await pair.same([commit, ...refused, ...cancel], ['offset', 'len'])
  })

  it.each(['stream', 'commit', 'active commit', 'mirror', 'backup'])(
    'while a %s runs: what others may do to its nodes',
    async (kind) => {
      const long = { 'job-id': 'j', speed: 4096 }
      const mirror = (args: Message) =>
        command('blockdev-mirror', { 'job-id': 'k', device: 'big', sync: 'full', ...args })
      const running: Readonly<Record<string, Message>> = {
        stream: command('block-stream', { ...long, device: 'top', 'base-node': 'base' }),
        commit: command('block-commit', { ...long, device: 'top', 'top-node': 'mid' }),
        'active commit': command('block-commit', { ...long, device: 'top', 'base-node': 'base' }),
        mirror: command('blockdev-mirror', { ...long, device: 'top', target: 't', sync: 'full' }),
        backup: command('blockdev-backup', { ...long, device: 'top', target: 't', sync: 'full' }),
      }
      const attempts = (node: string) => [
        command('blockdev-snapshot-internal-sync', { device: node, name: 'x' }),
        mirror({ device: node, target: 's' }),
        mirror({ target: node }),
        mirror({ target: 's', replaces: node }),
        command('block-commit', { 'job-id': 'k', device: node }),
        command('change-backing-file', {
          device: node,
          'image-node-name': node,
          'backing-file': 'x',
        }),
        command('blockdev-del', { 'node-name': node }),
      ]
      await using pair = await start()
      await pair.differences([...chain, ...disks.slice(0, 1), raw('big'), running[kind]])
      // Answers only: how far the job gets meanwhile is a matter of the moment.
      const different = await pair.differences(['top', 'mid', 't'].flatMap(attempts))
      // Of several permissions that conflict each names another one.
      const both =
        /theirs .*Permission conflict on node '(\w+)'.*\n.*Permission conflict on node '\1'/
      expect(different.filter((each) => !both.test(each))).toEqual([])
    },
  )

  it('a transaction that is given up tells of a job that never began', async () => {
    await using pair = await start()
    const backup = (id: string, target: string) => ({
      type: 'blockdev-backup',
      data: { 'job-id': id, device: 's', target, sync: 'full' },
    })
    const together = (...actions: Message[]) => command('transaction', { actions })
    await pair.same([
      ...disks,
      together(backup('j', 't'), { type: 'abort', data: {} }),
      together(backup('j', 't'), backup('k', 'small')),
      ...query,
    ])
  })

  it('errors: what each policy makes of them', async () => {
    const faulty = (errno: number, event: string, iotype: string) => ({
      driver: 'blkdebug',
      'inject-error': [{ event, iotype, errno, once: true }],
    })
    const broken = (name: string, file: Message) =>
      command('blockdev-add', { driver: 'raw', 'node-name': name, file })
    const target = (errno: number) =>
      broken('d', {
        ...faulty(errno, 'pwritev', 'write'),
        image: { driver: 'file', filename: 't.raw' },
      })
    const source = broken('d', {
      ...faulty(5, 'read_aio', 'read'),
      image: { driver: 'file', filename: 's.raw' },
    })
    const remove = command('blockdev-del', { 'node-name': 'd' })
    const gone: Step = { until: 'gone' }
    const ready: Step = { until: 'ready' }
    const resumed = [{ until: 'paused' }, ...query, on('block-job-cancel'), on('block-job-resume')]
    const mirror = (args: Message) =>
      command('blockdev-mirror', { device: 's', target: 'd', sync: 'full', 'job-id': 'j', ...args })
    const backup = (args: Message) =>
      command('blockdev-backup', { device: 's', target: 'd', sync: 'full', 'job-id': 'j', ...args })
    const left = [ready, ...query, on('block-job-cancel'), gone, remove]
    await using pair = await start()
    await pair.same(
      [
        ...disks.slice(0, 2),
        ...[target(5), mirror({ 'on-target-error': 'report' }), gone, remove],
        ...[target(5), mirror({ 'on-target-error': 'enospc' }), gone, remove],
        ...[target(5), mirror({ 'on-target-error': 'stop' }), ...resumed, ...left],
        ...[target(28), mirror({ 'on-target-error': 'enospc' }), ...resumed, ...left],
        ...[target(28), mirror({}), gone, remove],
        ...[target(5), mirror({ 'on-target-error': 'ignore' }), ...left],
        ...[source, mirror({ device: 'd', target: 't' }), gone, remove],
        ...[
          source,
          mirror({ device: 'd', target: 't', 'on-source-error': 'stop' }),
          ...resumed,
          ...left,
        ],
        ...[target(5), backup({ 'on-target-error': 'report' }), gone, remove],
        ...[target(5), backup({ 'on-target-error': 'stop' }), ...resumed, gone, remove],
        ...[target(28), backup({ 'on-target-error': 'enospc' }), ...resumed, gone, remove],
      ],
      // How many requests were in flight beside the one that failed.
      ['offset', 'current-progress', 'len', 'total-progress'],
    )
  })
})
