/** The command line of `varve nbd`: qemu-nbd's, with its checks in its order and its words. */
import { NBD_DEFAULT_PORT, NBD_MAX_STRING } from '../../wire/nbd/constants.ts'
import type { NamedIo } from '../command.ts'
import { type LongOption, OptionParser } from '../getopt.ts'
import type { SnapshotParam } from '../img/snapshot-param.ts'
import { addImageObject } from '../object-option.ts'
import { type CacheMode, cacheMode } from '../open-image.ts'
import { NbdFailure } from './failure.ts'
import { parseSnapshotOption } from './snapshot-option.ts'

export interface NbdArguments {
  /** What to do; `help` and `version` as soon as they are met. */
  readonly mode: 'serve' | 'list' | 'help' | 'version'
  readonly filename: string
  readonly imageOpts: boolean
  readonly format?: string
  readonly readOnly: boolean
  /** Writes go to a temporary overlay. */
  readonly snapshot: boolean
  /** An internal snapshot that is served instead of the disk. */
  readonly loadSnapshot?: SnapshotParam
  /** Bytes into the image. */
  readonly offset: number
  readonly cache?: CacheMode
  readonly aio?: string
  readonly unmap: boolean
  readonly detectZeroes?: string
  readonly socket?: string
  readonly host: string
  readonly port: number
  /** Clients at a time; 0 for any number. */
  readonly shared: number
  readonly persistent: boolean
  readonly verbose: boolean
  readonly exportName: string
  readonly description?: string
  readonly allocationDepth: boolean
  /** Names of dirty bitmaps to show. */
  readonly bitmaps: readonly string[]
  readonly fork: boolean
  readonly pidFile?: string
  readonly tlsCreds?: string
  /** Whom the certificate of a listed server must name. */
  readonly tlsHostname?: string
  /** Object that says who of those with credentials may come in. */
  readonly tlsAuthz?: string
}

const short = 'hVb:o:p:rsnc:dvk:e:f:tl:x:T:D:AB:L'

const required = (name: string, as?: string): LongOption => ({ name, as, argument: 'required' })

const long: readonly LongOption[] = [
  { name: 'help', as: 'h' },
  { name: 'version', as: 'V' },
  required('bind', 'b'),
  required('port', 'p'),
  required('socket', 'k'),
  required('offset', 'o'),
  { name: 'read-only', as: 'r' },
  { name: 'allocation-depth', as: 'A' },
  required('bitmap', 'B'),
  required('connect', 'c'),
  { name: 'disconnect', as: 'd' },
  { name: 'list', as: 'L' },
  { name: 'snapshot', as: 's' },
  required('load-snapshot', 'l'),
  { name: 'nocache', as: 'n' },
  required('cache'),
  required('aio'),
  required('discard'),
  required('detect-zeroes'),
  required('shared', 'e'),
  required('format', 'f'),
  { name: 'persistent', as: 't' },
  { name: 'verbose', as: 'v' },
  required('object'),
  required('export-name', 'x'),
  required('description', 'D'),
  required('tls-creds'),
  required('tls-hostname'),
  required('tls-authz'),
  { name: 'image-opts' },
  required('trace', 'T'),
  { name: 'fork' },
  required('pid-file'),
  required('selinux-label'),
]

/** What qemu-nbd can do and we cannot, by option. */
const unsupported: Readonly<Record<string, string>> = {
  c: 'kernel NBD devices (-c) are not supported; attach nbd-client to a socket (-k) instead',
  d: 'kernel NBD devices (-d) are not supported; detach with nbd-client -d instead',
  'selinux-label': 'SELinux labels (--selinux-label) are not supported',
}

/** Options as they were given. */
type Given = ReadonlyMap<string, readonly string[]>

/** Throws `NbdFailure`. What `--object` makes goes to the tables of `io`. */
export function parseArguments(words: readonly string[], io: NamedIo): NbdArguments {
  const given = new Map<string, string[]>()
  let snapshot: SnapshotParam | undefined
  const parser = new OptionParser(words, short, long)
  for (let option = parser.next(); option; option = parser.next()) {
    if (option.kind === 'error') throw new NbdFailure(option.message, 'named')
    if (option.name === 'h') return { ...serving(given, ['']), mode: 'help' }
    if (option.name === 'V') return { ...serving(given, ['']), mode: 'version' }
    accept(given, option.name, option.argument ?? '')
    if (option.name === 'object') addImageObject(option.argument ?? '', io)
    if (option.name === 'l') snapshot = parseSnapshotOption(option.argument ?? '', io)
  }
  const found = given.has('L') ? listing(given, parser.rest) : serving(given, parser.rest)
  return { ...found, loadSnapshot: snapshot }
}

/** Checks one option as it comes, as qemu-nbd does. */
function accept(given: Map<string, string[]>, name: string, value: string): void {
  if (Object.hasOwn(unsupported, name)) throw new NbdFailure(unsupported[name])
  if (['n', 'cache'].includes(name) && (given.has('n') || given.has('cache'))) {
    throw new NbdFailure('-n and --cache can only be specified once')
  }
  if (['aio', 'discard'].includes(name) && given.has(name)) {
    throw new NbdFailure(`--${name} can only be specified once`)
  }
  // Tracing is accepted: none of QEMU's trace events happens here.
  if (name === 'T') return
  checks[name]?.(value, given)
  given.set(name, [...(given.get(name) ?? []), value])
}

const checks: Readonly<Record<string, (value: string, given: Given) => void>> = {
  cache(value) {
    if (!cacheMode(value)) throw new NbdFailure(`Invalid cache mode \`${value}'`)
  },
  aio(value) {
    if (!['native', 'threads', 'io_uring'].includes(value)) {
      throw new NbdFailure(`Invalid aio mode '${value}'`)
    }
  },
  discard(value) {
    discardMode(value)
  },
  'detect-zeroes'(value, given) {
    checkDetectZeroes(value, given)
  },
  o(value) {
    offsetOf(value)
  },
  e(value) {
    sharedOf(value)
  },
  k(value) {
    if (!value.startsWith('/')) throw new NbdFailure('socket path must be absolute')
  },
  x(value) {
    if (Buffer.byteLength(value) > NBD_MAX_STRING) {
      throw new NbdFailure(`export name '${value}' too long`)
    }
  },
  D(value) {
    if (Buffer.byteLength(value) > NBD_MAX_STRING) {
      throw new NbdFailure(`export description '${value}' too long`)
    }
  },
}

function checkDetectZeroes(value: string, given: Given): void {
  if (!['off', 'on', 'unmap'].includes(value)) {
    throw new NbdFailure(`Failed to parse detect_zeroes mode: invalid parameter value: ${value}`)
  }
  if (value === 'unmap' && !discardMode(last(given, 'discard') ?? 'ignore')) {
    throw new NbdFailure(
      'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
    )
  }
}

/** Whether discards are done. */
function discardMode(value: string): boolean {
  if (['unmap', 'on'].includes(value)) return true
  if (['ignore', 'off'].includes(value)) return false
  throw new NbdFailure(`Invalid discard mode \`${value}'`)
}

/** A number as C writes it: decimal, 0x… or octal, without a unit. */
function cNumber(text: string): number | undefined {
  const trimmed = text.trimStart()
  const digits = trimmed.replace(/^\+/, '')
  if (!/^(?:0[xX][0-9a-fA-F]+|\d+)$/.test(digits)) return undefined
  if (/^0\d/.test(digits)) return /^0[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : undefined
  return Number(digits)
}

function offsetOf(text: string): number {
  const offset = cNumber(text)
  if (offset !== undefined && Number.isSafeInteger(offset)) return offset
  throw new NbdFailure(`Invalid offset '${text}'`)
}

function sharedOf(text: string): number {
  const count = cNumber(text)
  if (count !== undefined && count < 2 ** 31) return count
  throw new NbdFailure(`Invalid shared device number '${text}'`)
}

function portOf(text: string, host: string): number {
  const port = cNumber(text)
  if (port !== undefined && port < 65536) return port
  throw new NbdFailure(
    `address resolution failed for ${host}:${text}: Servname not supported for ai_socktype`,
  )
}

/** Settings of one export, which mean nothing to `--list`. */
const perExport = ['f', 'x', 'D', 'A', 'B', 'l', 'n', 'cache', 'aio', 'discard']

function listing(given: Given, rest: readonly string[]): NbdArguments {
  if (rest.length > 0) throw new NbdFailure('List mode is incompatible with a file name')
  const somewhere = offsetOf(last(given, 'o') ?? '0') > 0
  if (somewhere || perExport.some((name) => given.has(name))) {
    throw new NbdFailure('List mode is incompatible with per-device settings')
  }
  if (given.has('fork')) throw new NbdFailure('List mode is incompatible with forking')
  return { ...settings(given, ''), mode: 'list' }
}

function serving(given: Given, rest: readonly string[]): NbdArguments {
  if (rest.length !== 1) throw new NbdFailure('Invalid number of arguments', 'plain')
  if (given.has('image-opts') && given.has('f')) {
    throw new NbdFailure('--image-opts and -f are mutually exclusive')
  }
  return settings(given, rest[0])
}

function settings(given: Given, filename: string): NbdArguments {
  const host = last(given, 'b') ?? '0.0.0.0'
  const port = last(given, 'p')
  return {
    mode: 'serve',
    filename,
    imageOpts: given.has('image-opts'),
    format: last(given, 'f'),
    readOnly: given.has('r') || given.has('l'),
    snapshot: given.has('s'),
    offset: offsetOf(last(given, 'o') ?? '0'),
    cache: cacheMode(last(given, 'cache') ?? (given.has('n') ? 'none' : 'writeback')),
    aio: last(given, 'aio'),
    unmap: discardMode(last(given, 'discard') ?? 'ignore'),
    detectZeroes: last(given, 'detect-zeroes'),
    socket: last(given, 'k'),
    host,
    // Beside a socket it means nothing, and is not looked at.
    port: port === undefined || given.has('k') ? NBD_DEFAULT_PORT : portOf(port, host),
    shared: sharedOf(last(given, 'e') ?? '1'),
    persistent: given.has('t'),
    verbose: given.has('v'),
    exportName: last(given, 'x') ?? '',
    description: last(given, 'D'),
    allocationDepth: given.has('A'),
    bitmaps: given.get('B') ?? [],
    fork: given.has('fork'),
    pidFile: last(given, 'pid-file'),
    tlsCreds: last(given, 'tls-creds'),
    tlsHostname: last(given, 'tls-hostname'),
    tlsAuthz: last(given, 'tls-authz'),
  }
}

function last(given: Given, name: string): string | undefined {
  return given.get(name)?.at(-1)
}
