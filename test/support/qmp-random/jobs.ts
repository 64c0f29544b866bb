/** Commands that begin jobs, and those that steer them. */
import type { Names } from './names.ts'
import type { Members, Value } from './spoilt.ts'

export type Said = readonly [command: string, args: Members]

/**
 * Slow jobs stay under way; the others end before the next command. Only where there is much to be
 * copied: for QEMU zeroes take time as well, for us they do not.
 */
function common(names: Names, device: string, slow: readonly string[]): Record<string, Value> {
  const { random, view } = names
  const file = view.nodes.find((node) => node['node-name'] === device)?.file
  const speed = slow.includes(String(file)) ? random.pick([1, 1, 0]) : 0
  return {
    'job-id': names.freshJob(),
    ...names.some(0.3, {
      speed: () => speed,
      'auto-finalize': () => names.flag(),
      'auto-dismiss': () => names.flag(),
    }),
    ...names.some(0.1, { 'filter-node-name': () => names.freshNode() }),
  }
}

/** Files of several pieces of data. */
const full = ['a.raw', 'base.qcow2', 'top.qcow2']

const policies = ['report', 'ignore', 'stop', 'enospc']

export function backup(names: Names): Said {
  const { random } = names
  const device = names.disk()
  const sync = random.pick(['full', 'full', 'top', 'none', 'incremental', 'bitmap'])
  const withBitmap = sync === 'incremental' || sync === 'bitmap' || random.chance(0.05)
  return [
    'blockdev-backup',
    {
      ...common(names, device, full),
      device,
      target: names.disk(),
      sync,
      ...(withBitmap ? { bitmap: names.bitmapOf(device) } : {}),
      ...(sync === 'bitmap' || random.chance(0.05)
        ? { 'bitmap-mode': random.pick(['on-success', 'never', 'always']) }
        : {}),
      ...names.some(0.1, {
        compress: () => names.flag(),
        'on-source-error': () => random.pick(policies),
        'on-target-error': () => random.pick(policies),
        'x-perf': () => ({
          'max-workers': random.pick([0, 1, 64]),
          'max-chunk': random.pick([0, 65536, 1000]),
        }),
      }),
    },
  ]
}

/** Jobs that make, or open, their target themselves. */
export function driveJob(names: Names): Said {
  const { random } = names
  const device = names.disk()
  const verb = random.pick(['drive-backup', 'drive-mirror'])
  return [
    verb,
    {
      'job-id': names.freshJob(),
      device,
      target: random.pick(['over0.qcow2', 'over1.qcow2', 'no-such/x']),
      sync: random.pick(['full', 'full', 'top', 'none']),
      ...names.some(0.4, {
        format: () => random.pick(['qcow2', 'raw', 'no-such']),
        'auto-finalize': () => names.flag(),
      }),
      ...names.some(0.15, {
        mode: () => random.pick(['existing', 'absolute-paths']),
        'auto-dismiss': () => names.flag(),
      }),
      ...(verb === 'drive-mirror'
        ? names.some(0.15, { 'node-name': () => names.freshNode(), replaces: () => names.node() })
        : {}),
    },
  ]
}

function mirror(names: Names): Said {
  const { random } = names
  const device = names.disk()
  return [
    'blockdev-mirror',
    {
      ...common(names, device, full),
      device,
      target: names.disk(),
      sync: random.pick(['full', 'full', 'top', 'none', 'incremental']),
      ...names.some(0.1, {
        'copy-mode': () => random.pick(['background', 'write-blocking']),
        granularity: () => random.pick([0, 512, 4096, 65536, 1000, 128 << 20]),
        'buf-size': () => random.pick([0, 65536, -1, 1 << 20]),
        replaces: () => names.node(),
        'on-source-error': () => random.pick(policies),
        'on-target-error': () => random.pick(policies),
      }),
    },
  ]
}

function commit(names: Names): Said {
  const device = names.qcow2()
  return [
    'block-commit',
    {
      ...common(names, device, ['top.qcow2']),
      device,
      ...names.some(0.3, {
        'base-node': () => names.qcow2(),
        'top-node': () => names.qcow2(),
      }),
      ...names.some(0.06, {
        base: () => names.file('qcow2'),
        top: () => names.file('qcow2'),
        'backing-file': () => 'base.qcow2',
        'on-error': () => names.random.pick(policies),
      }),
    },
  ]
}

function stream(names: Names): Said {
  const device = names.qcow2()
  return [
    'block-stream',
    {
      ...common(names, device, ['mid.qcow2']),
      device,
      ...names.some(0.2, { 'base-node': () => names.qcow2() }),
      ...names.some(0.06, {
        base: () => names.file('qcow2'),
        bottom: () => names.qcow2(),
        'backing-file': () => 'base.qcow2',
        'on-error': () => names.random.pick(policies),
      }),
    },
  ]
}

export const beginJob = (names: Names): Said =>
  names.random.pick([backup, backup, mirror, mirror, commit, commit, stream, stream])(names)

const verbs: readonly (readonly [string, string, string | undefined])[] = [
  ['job-pause', 'id', undefined],
  ['job-resume', 'id', 'paused'],
  ['job-cancel', 'id', undefined],
  ['job-complete', 'id', 'ready'],
  ['job-finalize', 'id', 'pending'],
  ['job-dismiss', 'id', 'concluded'],
  ['block-job-pause', 'device', undefined],
  ['block-job-resume', 'device', 'paused'],
  ['block-job-cancel', 'device', undefined],
  ['block-job-complete', 'device', 'ready'],
  ['block-job-finalize', 'id', 'pending'],
  ['block-job-dismiss', 'id', 'concluded'],
  ['block-job-set-speed', 'device', undefined],
]

/** What is done with a job: half of the time what its status calls for. */
export function steerJob(names: Names): Said {
  const { random, view } = names
  const present = new Set(view.jobs.map(({ status }) => status))
  const called = verbs.filter(([, , status]) => status !== undefined && present.has(status))
  const [verb, key, status] = random.pick(called.length > 0 && random.chance(0.6) ? called : verbs)
  const args: Record<string, Value> = { [key]: names.job(status) }
  if (verb === 'block-job-set-speed') args.speed = random.pick([0, 1, -1, 65536])
  if (verb === 'block-job-cancel' && random.chance(0.4)) args.force = names.flag()
  return [verb, args]
}
