/** `--chardev socket,path=…,server=on,wait=off,id=…`: the older notation of what QMP's `chardev-add` takes. */

import { booleanOf, parseSize } from '../../block/options.ts'
import { badIdentifier, isIdentifier } from '../../block/secrets.ts'
import { backendNames } from '../../daemon/chardev/backends.ts'
import type { ChardevBackend } from '../../daemon/schema/chardev-backend.ts'
import { chardevBackend } from '../../daemon/schema/chardev-backend.ts'
import { check } from '../../daemon/schema/check.ts'
import { invalid } from '../../errors.ts'
import { parseOptionString } from '../keyval.ts'
import { chardevHelp } from './help.ts'

export interface ChardevOption {
  readonly id: string
  readonly backend: ChardevBackend
  /** Several users are to share it: `id` is a multiplexer on top. */
  readonly shared: boolean
  readonly warnings: readonly string[]
}

type OptionType = 'bool (on/off)' | 'num' | 'size' | 'str'

const typed = (type: OptionType, ...names: string[]) =>
  Object.fromEntries(names.map((name) => [name, type]))

/** Every option may be given for every backend; those it does not know have no effect. */
export const chardevOptionTypes: Readonly<Record<string, OptionType>> = {
  ...typed('bool (on/off)', 'abstract', 'append', 'clipboard', 'delay', 'ipv4', 'ipv6'),
  ...typed('bool (on/off)', 'logappend', 'mouse', 'mux', 'nodelay', 'server', 'signal'),
  ...typed('bool (on/off)', 'telnet', 'tight', 'tn3270', 'wait', 'websocket'),
  ...typed('num', 'cols', 'debug', 'height', 'reconnect', 'rows', 'to', 'width'),
  ...typed('size', 'size'),
  ...typed('str', 'backend', 'chardev', 'fd', 'host', 'localaddr', 'localport', 'logfile'),
  ...typed('str', 'name', 'path', 'port', 'tls-authz', 'tls-creds'),
}

const aliases: Readonly<Record<string, string>> = { tty: 'serial', parport: 'parallel' }

type Given = Readonly<Record<string, string>>
type Data = Readonly<Record<string, unknown>>

/** Reports faults in the order in which QEMU finds them. */
export function parseChardev(argument: string): ChardevOption {
  const { options, shortForms } = parseOptionString(argument, 'backend')
  const { id, ...given } = options
  if (id !== undefined && !isIdentifier(id)) throw badIdentifier()
  const asked = ['help', '?']
  if (asked.includes(given.backend) || shortForms.some(({ written }) => asked.includes(written))) {
    throw chardevHelp(given.backend, backendNames, chardevOptionTypes)
  }
  for (const [name, value] of Object.entries(given)) checkOption(name, value)
  const warnings = shortForms.map(
    ({ written, meaning }) =>
      `warning: short-form boolean option '${written}' deprecated\nPlease use ${meaning} instead`,
  )
  if (id === undefined) throw invalid('chardev: no id specified')
  if (given.backend === undefined) throw invalid(`chardev: "${id}" missing backend`)
  const type = aliases[given.backend] ?? given.backend
  if (type !== given.backend) {
    warnings.push(`warning: The alias '${given.backend}' is deprecated, use '${type}' instead`)
  }
  if (!backendNames.includes(type)) throw invalid(`'${type}' is not a valid char driver name`)
  const { logfile, logappend } = given
  const common = { logfile, logappend: booleanOf(logappend) }
  const data = withoutAbsent({ ...common, ...dataOf[type]?.(given) })
  const backend = check(chardevBackend, { type, data })
  return { id, backend, shared: booleanOf(given.mux) ?? false, warnings }
}

function checkOption(name: string, value: string): void {
  const type = Object.hasOwn(chardevOptionTypes, name) ? chardevOptionTypes[name] : undefined
  switch (type) {
    case undefined:
      throw invalid(`Invalid parameter '${name}'`)
    case 'bool (on/off)':
      if (booleanOf(value) !== undefined) return
      throw invalid(`Parameter '${name}' expects 'on' or 'off'`)
    case 'num':
      if (/^[+-]?(\d{1,15}|0x[0-9a-f]{1,12})$/i.test(value)) return
      throw invalid(`Parameter '${name}' expects a number`)
    case 'size':
      if (parseSize(value) !== undefined) return
      throw invalid(
        `Parameter '${name}' expects a non-negative number below 2^64\n` +
          'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
          'and exabytes, respectively.',
      )
  }
}

const ring = ({ size }: Given): Data => ({ size: size && parseSize(size) })

/** The options of a backend in QMP's form, where it has any. */
const dataOf: Readonly<Record<string, (given: Given) => Data>> = {
  file: ({ path, append }) => {
    if (path === undefined) throw invalid('chardev: file: no filename given')
    return { out: path, append: booleanOf(append) }
  },
  memory: ring,
  mux: ({ chardev }) => {
    if (chardev === undefined) throw invalid('chardev: mux: no chardev given')
    return { chardev }
  },
  parallel: ({ path }) => ({ device: devicePath('parallel', path) }),
  pipe: ({ path }) => ({ device: devicePath('pipe', path) }),
  ringbuf: ring,
  serial: ({ path }) => ({ device: devicePath('serial/tty', path) }),
  socket: socketData,
  stdio: ({ signal }) => ({ signal: booleanOf(signal) }),
  udp: udpData,
}

function socketData(given: Given): Data {
  const { delay, nodelay, reconnect } = given
  if (delay !== undefined && nodelay !== undefined) {
    throw invalid("'delay' and 'nodelay' are mutually exclusive")
  }
  const server = booleanOf(given.server) ?? false
  return {
    addr: socketAddress(given),
    server,
    // A server waits unless told otherwise.
    wait: booleanOf(given.wait) ?? (server || undefined),
    nodelay: booleanOf(nodelay) ?? (delay === undefined ? undefined : !booleanOf(delay)),
    telnet: booleanOf(given.telnet),
    tn3270: booleanOf(given.tn3270),
    websocket: booleanOf(given.websocket),
    reconnect: reconnect && Number(reconnect),
    'tls-creds': given['tls-creds'],
    'tls-authz': given['tls-authz'],
  }
}

function socketAddress(given: Given): Data {
  const { path, host, fd, port, abstract, tight, to } = given
  if ([path, host, fd].filter((each) => each !== undefined).length > 1) {
    throw invalid("None or one of 'path', 'fd' or 'host' option required.")
  }
  if (path !== undefined) {
    return { type: 'unix', data: { path, abstract: booleanOf(abstract), tight: booleanOf(tight) } }
  }
  if (host === undefined) return { type: 'fd', data: { str: fd ?? '' } }
  if (port === undefined) throw invalid('chardev: socket: no port given')
  return { type: 'inet', data: { host, port, to: to && Number(to), ...families(given) } }
}

function udpData(given: Given): Data {
  const { host, port, localaddr, localport } = given
  if (!port) throw invalid('chardev: udp: remote port not specified')
  const local = { type: 'inet', data: { host: localaddr ?? '', port: localport ?? '0' } }
  return {
    remote: { type: 'inet', data: { host: host || 'localhost', port, ...families(given) } },
    local: localaddr === undefined && localport === undefined ? undefined : local,
  }
}

function families({ ipv4, ipv6 }: Given): Data {
  return { ipv4: booleanOf(ipv4), ipv6: booleanOf(ipv6) }
}

function devicePath(what: string, path: string | undefined): string {
  if (path === undefined) throw invalid(`chardev: ${what}: no device path given`)
  return path
}

/** QMP takes an absent member for one that was not given, and no other way of saying so. */
function withoutAbsent(data: Data): Data {
  const entries = Object.entries(data).filter(([, value]) => value !== undefined)
  return Object.fromEntries(
    entries.map(([name, value]) => [name, isObject(value) ? withoutAbsent(value) : value]),
  )
}

function isObject(value: unknown): value is Data {
  return typeof value === 'object' && value !== null
}
