/** One random command after another. */
import { command, type Message } from '../qmp-talk.ts'
import type { Random } from '../random.ts'
import { amendOptions, createOptions } from './create.ts'
import { guestStep } from './guest.ts'
import { backup, beginJob, driveJob, type Said, steerJob } from './jobs.ts'
import { Names } from './names.ts'
import { nodeOptions } from './nodes.ts'
import { type Members, spoilt, type Value } from './spoilt.ts'
import type { View } from './world.ts'

type Maker = (names: Names) => Said

const bitmapCommands: readonly Maker[] = [
  (names) => [
    'block-dirty-bitmap-add',
    {
      node: names.disk(),
      name: names.freshBitmap(),
      ...names.some(0.2, {
        granularity: () => names.random.pick([512, 65536, 1000, 0, 2 ** 31]),
        persistent: () => names.flag(),
        disabled: () => names.flag(),
      }),
    },
  ],
  ...['remove', 'clear', 'enable', 'disable'].map(
    (verb): Maker =>
      (names) => [`block-dirty-bitmap-${verb}`, names.bitmap()],
  ),
  (names) => {
    const { node, name } = names.bitmap()
    const source = (): Value => (names.flag() ? names.bitmap() : names.bitmapOf(node))
    const bitmaps = Array.from({ length: names.random.below(3) }, source)
    return ['block-dirty-bitmap-merge', { node, target: name, bitmaps }]
  },
]
const changeBitmap: Maker = (names) => names.random.pick(bitmapCommands)(names)

const snapshotCommands: readonly Maker[] = [
  (names) => ['blockdev-snapshot', { node: names.disk(), overlay: names.qcow2() }],
  (names) => [
    'blockdev-snapshot-sync',
    {
      ...(names.flag() ? { 'node-name': names.disk() } : { device: names.disk() }),
      'snapshot-file': names.random.pick(['over0.qcow2', 'over1.qcow2', 'no-such/x']),
      ...names.some(0.5, {
        'snapshot-node-name': () => names.freshNode(),
        format: () => names.random.pick(['qcow2', 'qcow2', 'raw', 'no-such']),
      }),
      ...names.some(0.15, { mode: () => names.random.pick(['existing', 'absolute-paths']) }),
    },
  ],
  (names) => [
    'blockdev-snapshot-internal-sync',
    { device: names.qcow2(), name: names.random.pick(['s0', 's1']) },
  ],
]
const snapshot: Maker = (names) => names.random.pick(snapshotCommands)(names)

function transaction(names: Names): Said {
  const { random } = names
  const actions = Array.from({ length: random.below(4) + 1 }, () => {
    const made = random.pick([changeBitmap, changeBitmap, backup, snapshot])(names)
    const [type, data] = random.chance(0.1) ? ['abort', {}] : made
    return { type, data }
  })
  const grouped = { properties: { 'completion-mode': random.pick(['individual', 'grouped']) } }
  return ['transaction', { actions, ...(random.chance(0.4) ? grouped : {}) }]
}

function reopen(names: Names): Said {
  const { random } = names
  const options = Array.from({ length: random.chance(0.8) ? 1 : 2 }, (): Value => {
    const made = nodeOptions(names)
    const named = names.view.nodes.filter((node) => !String(node['node-name']).startsWith('#'))
    const same = named.filter(({ drv }) => drv === made.driver)
    const node = same.length > 0 ? random.pick(same) : undefined
    if (!node) return { ...made, 'node-name': 'no-such' }
    const filename = made.driver === 'file' ? { filename: String(node.file) } : undefined
    return { ...made, ...filename, 'node-name': String(node['node-name']) } as Members
  })
  return ['blockdev-reopen', { options }]
}

function object(names: Names): Said {
  const { random } = names
  const id = `o${random.below(5)}`
  const limits = names.some(0.1, {
    limits: () => ({ 'iops-total': random.pick([0, 1000, -1]), 'bps-read': 1 << 30 }),
    'x-iops-total': () => 1000,
    'x-bps-total-max': () => 1000,
  })
  const more = random.pick<Members>([
    { 'qom-type': 'throttle-group', ...limits },
    { 'qom-type': 'throttle-group', ...limits },
    { 'qom-type': 'secret', data: 'open sesame' },
    { 'qom-type': 'secret', file: 'no-such' },
    { 'qom-type': 'tls-creds-anon', endpoint: random.pick(['server', 'client', 'both']) },
    { 'qom-type': 'tls-creds-psk', dir: 'no-such', endpoint: 'server' },
    { 'qom-type': 'tls-creds-x509', dir: '.', endpoint: random.pick(['server', 'client']) },
    { 'qom-type': 'authz-simple', identity: 'somebody' },
    { 'qom-type': 'authz-list', policy: random.pick(['allow', 'deny', 'no-such']) },
    { 'qom-type': 'iothread' },
  ])
  return ['object-add', { id, ...more }]
}

function newExport(names: Names): Said {
  const { random } = names
  return [
    'block-export-add',
    {
      type: 'nbd',
      id: `e${random.below(5)}`,
      'node-name': names.disk(),
      ...names.some(0.15, {
        name: () => `x${random.below(4)}`,
        writable: () => names.flag(),
        writethrough: () => names.flag(),
        description: () => 'text',
        'allocation-depth': () => names.flag(),
        bitmaps: () => [names.random.chance(0.5) ? names.bitmap().name : names.bitmap()] as Value,
      }),
    },
  ]
}

const chardevs: readonly Maker[] = [
  (names) => [
    names.random.pick(['chardev-add', 'chardev-add', 'chardev-change']),
    {
      id: `c${names.random.below(4)}`,
      backend: names.random.pick<Value>([
        { type: 'null', data: {} },
        { type: 'ringbuf', data: { size: names.random.pick([64, 100]) } },
        { type: 'file', data: { out: 'log.txt' } },
        { type: 'mux', data: { chardev: names.one(names.view.chardevs) } },
      ]),
    },
  ],
  (names) => ['chardev-remove', { id: names.one(names.view.chardevs) }],
  (names) => ['chardev-send-break', { id: names.one(names.view.chardevs) }],
  (names) => ['ringbuf-write', { device: names.one(names.view.chardevs), data: 'abc' }],
  (names) => ['ringbuf-read', { device: names.one(names.view.chardevs), size: 2 }],
]

const nbdAddress = { type: 'unix', data: { path: 'nbd.sock' } }

/** What is said, and how often. */
const makers: readonly (readonly [number, Maker])[] = [
  [22, (names) => ['blockdev-add', nodeOptions(names)]],
  [6, (names) => ['blockdev-del', { 'node-name': names.node() }]],
  [4, reopen],
  [
    3,
    (names) => ['blockdev-create', { 'job-id': names.freshJob(), options: createOptions(names) }],
  ],
  [
    1,
    (names) => [
      'x-blockdev-amend',
      { 'job-id': names.freshJob(), 'node-name': names.qcow2(), options: amendOptions(names) },
    ],
  ],
  [18, beginJob],
  [2, driveJob],
  [18, steerJob],
  [8, changeBitmap],
  [1, (names) => ['x-debug-block-dirty-bitmap-sha256', names.bitmap()]],
  [6, snapshot],
  [
    1,
    (names) => [
      'blockdev-snapshot-delete-internal-sync',
      {
        device: names.qcow2(),
        ...names.some(0.6, {
          name: () => names.random.pick(['s0', 's1']),
          id: () => names.random.pick(['1', '2']),
        }),
      },
    ],
  ],
  [7, transaction],
  [
    2,
    (names) => [
      'block_resize',
      {
        ...(names.random.chance(0.7) ? { 'node-name': names.disk() } : { device: names.disk() }),
        size: names.random.pick([4 << 20, 5 << 20, 1 << 20, 1000, 0, -1]),
      },
    ],
  ],
  [
    1,
    (names) => [
      'change-backing-file',
      { device: names.qcow2(), 'image-node-name': names.qcow2(), 'backing-file': 'base.qcow2' },
    ],
  ],
  [
    1,
    (names) => [
      'x-blockdev-change',
      {
        parent: names.node((driver) => driver === 'quorum'),
        ...names.some(0.5, { child: () => 'children.1', node: () => names.node() }),
      },
    ],
  ],
  [
    1,
    (names) => [
      'block-set-write-threshold',
      { 'node-name': names.node(), 'write-threshold': names.random.pick([0, 4096, 1 << 20]) },
    ],
  ],
  [5, object],
  [2, (names) => ['object-del', { id: names.one(names.view.objects) }]],
  [1, (names) => ['qom-list', { path: `/objects/${names.one(names.view.objects)}` }]],
  [
    1,
    (names) => [
      'qom-get',
      { path: `/objects/${names.one(names.view.objects)}`, property: 'limits' },
    ],
  ],
  [
    1,
    (names) => [
      'qom-set',
      {
        path: `/objects/${names.one(names.view.objects)}`,
        ...names.random.pick<Members>([
          { property: 'limits', value: { 'iops-total': names.random.pick([0, 10_000]) } },
          { property: 'x-iops-total', value: names.random.pick([0, 10_000, -1]) },
          { property: 'poll-max-ns', value: names.random.pick([0, 32_768, -1]) },
          { property: 'no-such', value: 1 },
        ]),
      },
    ],
  ],
  [
    1,
    (names) => [
      'x-blockdev-set-iothread',
      {
        'node-name': names.node(),
        iothread: names.flag() ? null : names.one(names.view.objects),
        ...names.some(0.1, { force: () => names.flag() }),
      },
    ],
  ],
  [2, () => ['nbd-server-start', { addr: nbdAddress }]],
  [1, () => ['nbd-server-stop', {}]],
  [
    1,
    (names) => [
      'nbd-server-add',
      {
        device: names.disk(),
        ...names.some(0.3, {
          name: () => `x${names.random.below(4)}`,
          writable: () => names.flag(),
          bitmap: () => names.bitmap().name,
        }),
      },
    ],
  ],
  [1, (names) => ['nbd-server-remove', { name: names.one(names.view.exports) }]],
  [4, newExport],
  [2, (names) => ['block-export-del', { id: names.one(names.view.exports) }]],
  [2, (names) => names.random.pick(chardevs)(names)],
]
const total = makers.reduce((sum, [weight]) => sum + weight, 0)

/** The next thing to say in a world that looks like `view`. One in twelve has something wrong. */
export function nextCommand(random: Random, view: View, step: number): Message {
  const names = new Names(random, view)
  const guest = random.chance(0.08) ? guestStep(names) : undefined
  if (guest) return guest
  const [verb, args] = choose(step < 8 && random.chance(0.6) ? makers[0] : undefined)
  const begun = random.chance(0.08) ? spoilt(args, random) : args
  return command(verb, begun)

  function choose(given: (typeof makers)[number] | undefined): Said {
    if (given) return given[1](names)
    let left = random.below(total)
    for (const [weight, maker] of makers) {
      left -= weight
      if (left < 0) return maker(names)
    }
    throw new Error('weights do not add up')
  }
}
