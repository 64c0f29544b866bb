/** Stream, commit and mirror by QMP: the same conversation, events and images as the peer's. */
import { execFileSync } from 'node:child_process'
import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { command, QmpPair, type Step } from '../support/qmp-pair.ts'
import type { Message } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img', 'qemu-io')

qsd.describe('jobs of the storage daemon', () => {
  const folder = scratchFolder('qmp-jobs')
  let count = 0
  const start = () => QmpPair.start(join(folder, String(count++)), qsd.path as string, prepare)

  const on = (verb: string, args: Message = {}) =>
    command(verb, {
      [verb.startsWith('job-') || /finalize|dismiss/.test(verb) ? 'id' : 'device']: 'j',
      ...args,
    })
  const query = [command('query-jobs'), command('query-block-jobs')]

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

const raw = (name: string): Message =>
  command('blockdev-add', {
    driver: 'raw',
    'node-name': name,
    file: { driver: 'file', filename: `${name}.raw`, 'node-name': `${name}-file` },
  })

const qcow2 = (name: string, backing?: string): Message =>
  command('blockdev-add', {
    driver: 'qcow2',
    'node-name': name,
    file: { driver: 'file', filename: `${name}.qcow2`, 'node-name': `${name}-file` },
    ...(backing === undefined ? {} : { backing }),
  })

const chain = [qcow2('base'), qcow2('mid', 'base'), qcow2('top', 'mid'), raw('t')]
const disks = ['s', 't', 'big', 'small'].map(raw)

function prepare(folder: string): void {
  const image = (name: string, ...options: string[]) =>
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...options, `${name}.qcow2`], {
      cwd: folder,
    })
  const fill = (name: string, pattern: number, range: string) =>
    execFileSync('qemu-io', ['-c', `write -q -P ${pattern} ${range}`, `${name}.qcow2`], {
      cwd: folder,
    })
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', 'base.qcow2', '8M'], { cwd: folder })
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', 'new.qcow2', '8M'], { cwd: folder })
  image('mid', '-b', 'base.qcow2', '-F', 'qcow2')
  image('top', '-b', 'mid.qcow2', '-F', 'qcow2')
  fill('base', 1, '0 3M')
  fill('mid', 2, '1M 3M')
  fill('top', 3, '2M 1M')
  writeFileSync(join(folder, 's.raw'), Buffer.alloc(3 * MiB, 'varve'))
  for (const [name, size] of [
    ['s', 8],
    ['t', 8],
    ['big', 9],
    ['small', 4],
  ] as const) {
    const path = join(folder, `${name}.raw`)
    if (name !== 's') writeFileSync(path, '')
    truncateSync(path, size * MiB)
  }
}
