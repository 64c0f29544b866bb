/** Options of `blockdev-add`, of every driver that both daemons have, and how nodes are changed. */
import type { Names } from './names.ts'
import type { Members, Value } from './spoilt.ts'

const KiB = 1024

/** Without `force-share`: such a node cannot be reopened in QEMU, not even as it is. */
function common(names: Names): Record<string, Value> {
  const { random } = names
  return names.some(0.08, {
    'read-only': () => names.flag(),
    'auto-read-only': () => names.flag(),
    discard: () => random.pick(['ignore', 'unmap']),
    'detect-zeroes': () => random.pick(['off', 'on', 'unmap']),
    // With nothing in it, QEMU takes it for an option of the driver's.
    cache: () => ({ direct: false, ...names.some(0.5, { 'no-flush': () => names.flag() }) }),
  })
}

function storage(names: Names, format?: string): Members {
  return {
    driver: 'file',
    filename: names.file(format),
    ...names.some(0.05, {
      locking: () => names.random.pick(['auto', 'on', 'off']),
      'drop-cache': () => names.flag(),
      aio: () => 'threads',
    }),
    ...common(names),
  }
}

/** A child: by name, or with options of its own. */
function child(names: Names, depth: number, wanted?: (driver: string) => boolean): Value {
  if (names.random.chance(0.7)) return names.node(wanted)
  return depth > 1 ? storage(names) : nodeOptions(names, depth + 1)
}

function fileOf(names: Names, format: string): Value {
  const { random } = names
  if (random.chance(0.35)) return names.node((driver) => driver === 'file')
  const named: Members = random.chance(0.4) ? { 'node-name': names.freshNode() } : {}
  return { ...storage(names, format), ...named }
}

type Maker = (names: Names, depth: number) => Members

const makers: Readonly<Record<string, Maker>> = {
  file: (names) => storage(names),
  qcow2: (names, depth) => ({
    driver: 'qcow2',
    file: fileOf(names, 'qcow2'),
    ...names.some(0.2, {
      backing: () =>
        names.random.chance(0.3) ? null : child(names, depth, (driver) => driver === 'qcow2'),
    }),
    ...names.some(0.04, {
      'lazy-refcounts': () => names.flag(),
      'pass-discard-request': () => names.flag(),
      'pass-discard-snapshot': () => names.flag(),
      'pass-discard-other': () => names.flag(),
      'overlap-check': () => names.random.pick<Value>(['none', 'cached', { template: 'all' }]),
      'cache-size': () => names.random.pick([0, 65536, 1 << 20]),
      'l2-cache-size': () => names.random.pick([0, 65536, 1 << 20]),
      'refcount-cache-size': () => names.random.pick([0, 65536, 1 << 20]),
      'l2-cache-entry-size': () => names.random.pick([512, 4096, 1000]),
      'cache-clean-interval': () => names.random.pick([0, 600]),
    }),
  }),
  luks: (names) => ({
    driver: 'luks',
    file: { driver: 'file', filename: names.random.chance(0.9) ? 'luks.img' : names.file() },
    ...names.some(0.95, { 'key-secret': () => names.one(names.view.objects) }),
  }),
  raw: (names) => ({
    driver: 'raw',
    file: fileOf(names, 'raw'),
    ...names.some(0.1, {
      offset: () => names.random.pick([0, 512, 100, 65536, 8 << 20]),
      size: () => names.random.pick([0, 512, 100, 65536, 1 << 20, 8 << 20]),
    }),
  }),
  'null-co': (names) => ({
    driver: 'null-co',
    ...names.some(0.4, {
      size: () => names.random.pick([0, 512, 1000, 1 << 20, 4 << 20]),
      'read-zeroes': () => names.flag(),
      'latency-ns': () => 0,
    }),
  }),
  'null-aio': (names) => ({ driver: 'null-aio', size: 4 << 20, 'read-zeroes': names.flag() }),
  throttle: (names, depth) => ({
    driver: 'throttle',
    'throttle-group': names.one(names.view.objects),
    file: child(names, depth),
  }),
  'copy-on-read': (names, depth) => ({
    driver: 'copy-on-read',
    file: child(names, depth),
    ...names.some(0.2, { bottom: () => names.qcow2() }),
  }),
  'copy-before-write': (names, depth) => ({
    driver: 'copy-before-write',
    file: child(names, depth),
    target: child(names, depth),
    ...names.some(0.2, {
      bitmap: () => names.bitmap(),
      'on-cbw-error': () => names.random.pick(['break-guest-write', 'break-snapshot']),
      'cbw-timeout': () => names.random.pick([0, 1, 30]),
    }),
  }),
  'snapshot-access': (names) => ({
    driver: 'snapshot-access',
    file: names.node((driver) => driver === 'copy-before-write'),
  }),
  preallocate: (names, depth) => ({
    driver: 'preallocate',
    file: child(names, depth, (driver) => driver === 'file'),
    ...names.some(0.2, {
      'prealloc-align': () => names.random.pick([512, 1 << 20, 1000]),
      'prealloc-size': () => 1 << 20,
    }),
  }),
  compress: (names, depth) => ({
    driver: 'compress',
    file: child(names, depth, (driver) => driver === 'qcow2'),
  }),
  blkdebug: (names, depth) => ({
    driver: 'blkdebug',
    image: child(names, depth),
    ...names.some(0.15, {
      align: () => names.random.pick([512, 4096, 1000]),
      'max-transfer': () => names.random.pick([512, 64 * KiB, 1000]),
      'opt-write-zero': () => names.random.pick([512, 64 * KiB]),
      'inject-error': () => [
        {
          event: names.random.pick(['read_aio', 'pwritev', 'none', 'l2_load']),
          errno: 5,
          once: true,
        },
      ],
      'set-state': () => [{ event: 'pwritev', state: 1, new_state: 2 }],
      'take-child-perms': () => names.random.pick<Value>([['write'], ['resize']]),
    }),
  }),
  blkverify: (names, depth) => ({
    driver: 'blkverify',
    test: child(names, depth),
    raw: child(names, depth, (driver) => driver === 'raw'),
  }),
  blklogwrites: (names, depth) => ({
    driver: 'blklogwrites',
    file: child(names, depth),
    log: child(names, depth, (driver) => driver === 'file'),
    ...names.some(0.1, { 'log-sector-size': () => names.random.pick([512, 4096, 1000]) }),
  }),
  quorum: (names, depth) => ({
    driver: 'quorum',
    children: Array.from({ length: 1 + names.random.below(3) }, () => child(names, depth)),
    'vote-threshold': names.random.below(4),
    ...names.some(0.1, {
      blkverify: () => names.flag(),
      'rewrite-corrupted': () => names.flag(),
      'read-pattern': () => names.random.pick(['quorum', 'fifo']),
    }),
  }),
  nbd: () => ({ driver: 'nbd', server: { type: 'unix', path: 'nobody.sock' } }),
}

const weights = Object.keys(makers).flatMap((name) =>
  Array(['qcow2'].includes(name) ? 14 : ['file', 'raw'].includes(name) ? 5 : 1).fill(name),
) as string[]

export function nodeOptions(names: Names, depth = 0): Members {
  const made = makers[names.random.pick(weights)](names, depth)
  const named = depth === 0 || names.random.chance(0.3)
  return {
    ...made,
    ...(named ? { 'node-name': names.freshNode() } : {}),
    ...(made.driver === 'file' ? {} : common(names)),
  }
}
