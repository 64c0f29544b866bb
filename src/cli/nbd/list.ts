/** `varve nbd -L`: what another server exports. */
import { neverAborted } from '../../block/layer.ts'
import type { NbdAddress } from '../../protocol/nbd/address.ts'
import { connectTo } from '../../protocol/nbd/dial.ts'
import { ClientHandshake, type ExportFacts } from '../../protocol/nbd/handshake.ts'
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
import type { CliIo } from '../command.ts'
import type { NbdArguments } from './arguments.ts'
import { NbdFailure } from './failure.ts'
import { credentialsOf } from './tls-objects.ts'

export async function list(settings: NbdArguments, io: CliIo): Promise<number> {
  const { socket, host, port } = settings
  if (credentialsOf(settings)) throw new NbdFailure('TLS to another server is not supported')
  const address: NbdAddress =
    socket === undefined ? { type: 'inet', host, port } : { type: 'unix', path: socket }
  const connection = await connectTo(address, io.signal ?? neverAborted)
  try {
    const exports = await (await ClientHandshake.begin(connection)).listExports()
    io.stdout.write(`exports available: ${exports.length}\n${exports.map(describe).join('')}`)
    return 0
  } finally {
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
