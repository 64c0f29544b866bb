/** `varve nbd -L`: what another server exports. */
import { systemError } from '../../errors.ts'
import { addressText, type NbdAddress } from '../../protocol/nbd/address.ts'
import { connectTo } from '../../protocol/nbd/dial.ts'
import { ClientHandshake, type ExportFacts } from '../../protocol/nbd/handshake.ts'
import { handshakeTimeoutMs } from '../../protocol/nbd/limits.ts'
import type { ClientTls } from '../../protocol/nbd/start-tls.ts'
import {
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_ROTATIONAL,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_RESIZE,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from '../../wire/nbd/constants.ts'
import type { NamedIo } from '../command.ts'
import type { NbdArguments } from './arguments.ts'
import { NbdFailure } from './failure.ts'
import { credentialsOf } from './tls-objects.ts'

export async function list(settings: NbdArguments, io: NamedIo): Promise<number> {
  const { socket, host, port } = settings
  const address: NbdAddress =
    socket === undefined ? { type: 'inet', host, port } : { type: 'unix', path: socket }
  const credentials = credentialsOf(settings, io, 'client')
  const hostname = settings.tlsHostname ?? (socket === undefined ? host : undefined)
  const tls = credentials && { credentials, hostname }
  const patience = AbortSignal.timeout(handshakeTimeoutMs)
  const signal = AbortSignal.any([patience, ...(io.signal ? [io.signal] : [])])
  try {
    const exports = await exportsAt(address, tls, signal)
    io.stdout.write(`exports available: ${exports.length}\n${exports.map(describe).join('')}`)
    return 0
  } catch (error) {
    if (io.signal?.aborted) throw new NbdFailure('interrupted')
    if (patience.aborted) throw new NbdFailure(`'${addressText(address)}' does not answer`)
    throw systemError(error, `'${addressText(address)}'`)
  }
}

async function exportsAt(
  address: NbdAddress,
  tls: ClientTls | undefined,
  signal: AbortSignal,
): Promise<ExportFacts[]> {
  const connection = await connectTo(address, signal)
  const stop = () => connection.destroy(signal.reason)
  signal.addEventListener('abort', stop, { once: true })
  try {
    return await (await ClientHandshake.begin(connection, tls)).listExports()
  } finally {
    signal.removeEventListener('abort', stop)
    connection.destroy()
  }
}

const flagNames: readonly (readonly [number, string])[] = [
  [NBD_FLAG_READ_ONLY, 'readonly'],
  [NBD_FLAG_SEND_FLUSH, 'flush'],
  [NBD_FLAG_SEND_FUA, 'fua'],
  [NBD_FLAG_ROTATIONAL, 'rotational'],
  [NBD_FLAG_SEND_TRIM, 'trim'],
  [NBD_FLAG_SEND_WRITE_ZEROES, 'zeroes'],
  [NBD_FLAG_SEND_DF, 'df'],
  [NBD_FLAG_CAN_MULTI_CONN, 'multi'],
  [NBD_FLAG_SEND_RESIZE, 'resize'],
  [NBD_FLAG_SEND_CACHE, 'cache'],
  [NBD_FLAG_SEND_FAST_ZERO, 'fast-zero'],
]

function describe(facts: ExportFacts): string {
  const { name, description, size, transmissionFlags: flags, blockSizes, contexts } = facts
  const lines = [` export: '${name}'`]
  if (description) lines.push(`  description: ${description}`)
  if ((flags & NBD_FLAG_HAS_FLAGS) !== 0) {
    const names = flagNames.filter(([flag]) => (flags & flag) !== 0).map(([, text]) => `${text} `)
    lines.push(`  size:  ${size}`, `  flags: 0x${flags.toString(16)} ( ${names.join('')})`)
  }
  if (blockSizes) {
    lines.push(`  min block: ${blockSizes.minimum}`)
    lines.push(`  opt block: ${blockSizes.preferred}`)
    lines.push(`  max block: ${blockSizes.maximum}`)
  }
  if (contexts.size > 0) {
    lines.push(`  available meta contexts: ${contexts.size}`)
    for (const context of contexts.keys()) lines.push(`   ${context}`)
  }
  return `${lines.join('\n')}\n`
}
