/** `--chardev socket,path=…,server=on,wait=off,id=…`, `--chardev stdio,id=…`. */
import type { ChardevOptions } from '../../daemon/chardevs.ts'
import { BlockError } from '../../errors.ts'
import type { CliIo } from '../command.ts'
import { parseOptionString } from '../keyval.ts'

export interface ChardevOption {
  readonly id: string
  readonly build: (io: CliIo) => ChardevOptions
}

/** Options of QEMU's backends; those that we do not know how to serve are refused by name. */
const known: Readonly<Record<string, readonly string[]>> = {
  null: [],
  stdio: ['signal'],
  socket: ['path', 'host', 'port', 'fd', 'server', 'wait', 'reconnect', 'nodelay', 'delay'],
}
const unsupported: Readonly<Record<string, readonly string[]>> = {
  null: ['mux', 'logfile', 'logappend'],
  stdio: ['mux', 'logfile', 'logappend'],
  socket: [
    ...['mux', 'logfile', 'logappend', 'telnet', 'tn3270', 'websocket', 'tls-creds', 'tls-authz'],
    ...['to', 'ipv4', 'ipv6', 'abstract', 'tight'],
  ],
}
const otherBackends = ['file', 'pipe', 'pty', 'serial', 'tty', 'udp', 'vc', 'ringbuf', 'memory']

export function parseChardev(argument: string): ChardevOption {
  const { options } = parseOptionString(argument, 'backend')
  const { id, backend = '', ...rest } = options
  if (id === undefined) throw invalid('chardev: no id specified')
  if (!Object.hasOwn(known, backend)) {
    throw otherBackends.includes(backend)
      ? new BlockError('UNSUPPORTED', `a chardev '${backend}' is not supported; use 'socket'`)
      : invalid(`'${backend}' is not a valid char driver name`)
  }
  checkNames(backend, rest)
  return { id, build: (io) => build(backend, rest, io) }
}

function checkNames(backend: string, options: Readonly<Record<string, string>>): void {
  for (const name of Object.keys(options)) {
    if (unsupported[backend].includes(name)) {
      throw new BlockError('UNSUPPORTED', `chardev: ${backend}: '${name}' is not supported`)
    }
    if (!known[backend].includes(name)) throw invalid(`Invalid parameter '${name}'`)
  }
}

function build(
  backend: string,
  options: Readonly<Record<string, string>>,
  { stdin, stdout }: CliIo,
): ChardevOptions {
  if (backend === 'null') return { type: 'null' }
  if (backend === 'stdio') return { type: 'stdio', input: stdin, output: stdout }
  const server = onOff(options, 'server') ?? false
  const reconnect = count(options, 'reconnect') ?? 0
  if (server && reconnect > 0) {
    throw invalid(`'reconnect' option is incompatible with socket in server listen mode`)
  }
  if (!server && onOff(options, 'wait') !== undefined) {
    throw invalid(`'wait' option is incompatible with socket in client connect mode`)
  }
  const wait = server && (onOff(options, 'wait') ?? true)
  return { type: 'socket', address: addressOf(options), server, wait, reconnect }
}

function addressOf(options: Readonly<Record<string, string>>) {
  const { path, host, fd } = options
  if ([path, host, fd].filter((each) => each !== undefined).length > 1) {
    throw invalid("None or one of 'path', 'fd' or 'host' option required.")
  }
  if (path !== undefined) return { path }
  if (fd !== undefined) return { fd: count(options, 'fd') as number }
  const port = count(options, 'port')
  if (port === undefined) {
    throw invalid(
      host === undefined ? 'chardev: socket: no path given' : 'chardev: socket: no port given',
    )
  }
  // Without a host, QEMU listens to the whole network; a monitor should not.
  return { host: host || '127.0.0.1', port }
}

function onOff(options: Readonly<Record<string, string>>, name: string): boolean | undefined {
  const value = options[name]
  if (value === undefined) return undefined
  if (value === 'on' || value === 'off') return value === 'on'
  throw invalid(`Parameter '${name}' expects 'on' or 'off'`)
}

function count(options: Readonly<Record<string, string>>, name: string): number | undefined {
  const value = options[name]
  if (value === undefined) return undefined
  if (/^\d{1,9}$/.test(value)) return Number(value)
  throw invalid(`Parameter '${name}' expects a number`)
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
