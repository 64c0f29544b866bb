/** Random command lines of a storage daemon, sound and not, with every option and its sub-options. */
import type { Random } from '../random.ts'
import { chardev } from './chardevs.ts'
import { object } from './objects.ts'
import { joined, some, spoilt } from './words.ts'

type Argument = (random: Random) => string

const blockdev: Argument = (random) => {
  const node = () => random.pick(['n0', 'n1', 'n2', 'n3', '1n', 'no-such', ''])
  const named = random.chance(0.9) ? [`node-name=${node()}`] : []
  const common = some(random, 0.08, [
    `read-only=${flag(random)}`,
    `auto-read-only=${flag(random)}`,
    `force-share=${flag(random)}`,
    `discard=${random.pick(['unmap', 'ignore', 'on', 'x'])}`,
    `detect-zeroes=${random.pick(['on', 'off', 'unmap', 'x'])}`,
    `cache.direct=${flag(random)}`,
    `cache.no-flush=${flag(random)}`,
    'cache=x',
  ])
  const own = random.pick<() => string[]>([
    () => [
      'null-co',
      ...some(random, 0.4, ['size=1M', 'read-zeroes=on', 'latency-ns=1', 'size=x']),
    ],
    () => ['null-co', `size=${random.pick(['0', '512', '4096', '-1', '1k', '1e3', '0x200', ''])}`],
    () => ['file', `filename=${random.pick(['a.raw', 'no-such', 'b.qcow2', ''])}`],
    () => ['raw', 'file.driver=file', 'file.filename=a.raw', ...some(random, 0.2, ['offset=512'])],
    () => ['raw', `file=${node()}`, ...some(random, 0.2, ['size=512', 'offset=x'])],
    () => [
      'qcow2',
      'file.driver=file',
      'file.filename=b.qcow2',
      ...some(random, 0.1, qcow2Options),
    ],
    () => ['throttle', `throttle-group=${random.pick(['o0', 'o1', 'x'])}`, `file=${node()}`],
    () => ['quorum', `children.0=${node()}`, `children.1=${node()}`, 'vote-threshold=1'],
    () => ['nbd', 'server.type=unix', 'server.path=nobody.sock'],
    () => [random.pick(['no-such', 'driver=raw', 'driver=', 'host_device', 'bochs'])],
  ])()
  if (random.chance(0.2)) return asJson([...own, ...named, ...common], 'driver')
  return joined(random, [...own, ...named, ...common])
}

const qcow2Options = [
  'lazy-refcounts=on',
  'lazy-refcounts=x',
  'l2-cache-size=1M',
  'l2-cache-size=65536',
  'cache-clean-interval=0',
  'overlap-check=all',
  'overlap-check.template=none',
  'overlap-check=x',
  'backing=n0',
  'backing=',
  'encrypt.format=luks',
  'pass-discard-other=on',
]

const nbdServer: Argument = (random) => {
  const address = random.pick<() => string[]>([
    () => ['addr.type=unix', `addr.path=${random.pick(['n.sock', 'm.sock', '/no-such/x', ''])}`],
    () => ['addr.type=unix', 'addr.path=n.sock'],
    () => [
      'addr.type=inet',
      'addr.host=127.0.0.1',
      `addr.port=${random.pick(['0', 'x', '', '-1'])}`,
    ],
    () => ['addr.type=inet', ...some(random, 0.5, inetOptions)],
    () => ['addr.type=fd', `addr.str=${random.pick(['99', 'x', '', '-1'])}`],
    () => ['addr.type=vsock', ...some(random, 0.6, ['addr.cid=1', 'addr.port=x'])],
    () => [random.pick(['addr.type=x', 'addr.path=x', 'addr=x', 'unix', 'addr.type='])],
  ])()
  const more = some(random, 0.15, [
    `max-connections=${random.pick(['1', '0', 'x', '-1', '4294967296', ''])}`,
    `tls-creds=${random.pick(['o0', 'o1', 'no-such', ''])}`,
    `tls-authz=${random.pick(['o0', 'no-such'])}`,
  ])
  if (random.chance(0.2)) return asJson([...address, ...more])
  return joined(random, [...address, ...more])
}

const inetOptions = [
  'addr.host=127.0.0.1',
  'addr.port=0',
  'addr.to=5',
  'addr.to=x',
  'addr.ipv4=on',
  'addr.ipv6=x',
  'addr.keep-alive=on',
  'addr.mptcp=off',
  'addr.numeric=on',
]

const nodeExport: Argument = (random) => {
  const node = random.pick(['n0', 'n1', 'n2', 'no-such'])
  const common = ['id=e0', 'id=e1', 'id=1e'].filter(() => random.chance(0.5)).slice(0, 1)
  const more = some(random, 0.12, [
    `writable=${flag(random)}`,
    `writethrough=${flag(random)}`,
    'iothread=o0',
    'iothread=no-such',
    'fixed-iothread=on',
    'name=x',
    'name=',
    `name=${'x'.repeat(300)}`,
    'description=text, with comma',
    `description=${'x'.repeat(5000)}`,
    'bitmap=m',
    'bitmaps.0=m',
    'bitmaps.0.node=n0',
    'allocation-depth=on',
    'growable=on',
    'allow-other=x',
  ])
  const own = random.pick<() => string[]>([
    () => ['nbd'],
    () => ['nbd'],
    () => ['nbd'],
    () => ['type=nbd'],
    () => ['fuse', ...some(random, 0.7, ['mountpoint=no-such/file'])],
    () => [random.pick(['no-such', 'type=', '', 'nbd=on'])],
  ])()
  const words = [...own, ...common, `node-name=${node}`, ...more]
  return random.chance(0.2) ? asJson(words, 'type') : joined(random, words)
}

const monitor: Argument = (random) => {
  const words = [
    random.pick(['c0', 'c1', 'chardev=c0', 'chardev=no-such', '']),
    ...some(random, 0.2, [
      'mode=control',
      'mode=readline',
      'mode=x',
      'pretty=on',
      'pretty=x',
      'pretty',
      'id=m0',
      'id=1',
      'x=y',
    ]),
  ]
  return random.chance(0.2) ? asJson(words, 'chardev') : joined(random, words)
}

const options: readonly (readonly [
  weight: number,
  name: string,
  argument: Argument | undefined,
])[] = [
  [6, 'blockdev', blockdev],
  [5, 'chardev', chardev],
  [4, 'object', object],
  [3, 'nbd-server', nbdServer],
  [4, 'export', nodeExport],
  [2, 'monitor', monitor],
  [0.3, 'pidfile', (random) => random.pick(['/no-such/pid', '.', ''])],
  [0.2, 'trace', (random) => random.pick(['enable=no-such', 'x', 'file=log', 'events=no-such'])],
  [0.1, 'help', undefined],
  [0.1, 'no-such', undefined],
]
const total = options.reduce((sum, [weight]) => sum + weight, 0)

/** One to five options, each with its argument; often those that later ones need come first. */
export function daemonLine(random: Random): string[] {
  const words = random.chance(0.6) ? ['--blockdev', 'null-co,node-name=n0,size=1M'] : []
  if (random.chance(0.3)) words.push('--object', 'throttle-group,id=o0')
  if (random.chance(0.3)) words.push('--nbd-server', 'addr.type=unix,addr.path=n.sock')
  if (random.chance(0.2)) words.push('--chardev', 'null,id=c0')
  for (let count = 1 + random.below(4); count > 0; count--) words.push(...oneOption(random))
  return words
}

function oneOption(random: Random): string[] {
  let left = random.next() * total
  for (const [weight, name, argument] of options) {
    left -= weight
    if (left >= 0) continue
    if (!argument) return [`--${name}`]
    const text = random.chance(0.06) ? help(random, argument(random)) : argument(random)
    const given = random.chance(0.05) ? spoilt(random, text) : text
    return random.chance(0.1) ? [`--${name}=${given}`] : [`--${name}`, given]
  }
  throw new Error('weights do not add up')
}

/** Asked for in all the ways there are. */
function help(random: Random, text: string): string {
  return random.pick(['help', '?', `${text},help`, `${text},?`, `${text.split(',')[0]},help`])
}

export function flag(random: Random): string {
  return random.pick(['on', 'off', 'on', 'off', 'yes', 'true', '', '1'])
}

/** The same as keys and values say, as far as values are what they look like. */
function asJson(words: readonly string[], implied?: string): string {
  const object: Record<string, unknown> = {}
  for (const word of words) {
    const [key, value] = word.includes('=') ? split(word) : [implied ?? 'x', word]
    const path = key.split('.')
    let into = object
    for (const part of path.slice(0, -1)) {
      const there = into[part]
      const inner = typeof there === 'object' ? (there as Record<string, unknown>) : {}
      into[part] = inner
      into = inner
    }
    into[path.at(-1) as string] = typed(value)
  }
  return JSON.stringify(object)
}

function split(word: string): [string, string] {
  const at = word.indexOf('=')
  return [word.slice(0, at), word.slice(at + 1)]
}

function typed(text: string): unknown {
  if (text === 'on' || text === 'off') return text === 'on'
  return /^-?\d+$/.test(text) ? Number(text) : text
}
