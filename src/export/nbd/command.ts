/** What a command of the transmission phase has at hand, and which commands there are. */
import type { BlockLayer, Completion, Io, WriteIo, ZeroIo } from '../../block/layer.ts'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_ENOSPC,
  NBD_EPERM,
  NBD_SUCCESS,
} from '../../wire/nbd/constants.ts'
import type { Layout } from '../../wire/nbd/layout.ts'
import type { NbdRequest } from '../../wire/nbd/transmission.ts'
import { blockStatus } from './block-status.ts'
import type { MetaContext } from './contexts.ts'
import type { NbdExport } from './export.ts'
import { read } from './read.ts'
import type { ReplyQueue } from './reply-queue.ts'
import type { SlabPool } from './slab.ts'
import { cache, flush, trim, write, writeZeroes } from './write.ts'

/** A context that the client has selected, and the number it knows it by. */
export interface SelectedContext {
  readonly id: number
  readonly context: MetaContext
}

/** Made once per connection: the hot path allocates no options. */
export interface ConnectionIo {
  readonly read: Io
  readonly write: WriteIo
  readonly fuaWrite: WriteIo
  zero(fua: boolean, mayUnmap: boolean, fastOnly: boolean): ZeroIo
}

export interface CommandContext {
  readonly export: NbdExport
  readonly layer: BlockLayer
  /** Whether the client has negotiated structured replies, or extended headers. */
  readonly structured: boolean
  readonly layout: Layout
  readonly contexts: readonly SelectedContext[]
  readonly queue: ReplyQueue
  readonly pool: SlabPool
  readonly io: ConnectionIo
}

export interface Command {
  /** For messages. */
  readonly name: string
  /** NBD_CMD_FLAG_… that are documented for it. */
  readonly flags: number
  /** Whether it changes the disk. */
  readonly writes: boolean
  /** Whether its length is bounded by the maximum block size. */
  readonly bounded: boolean
  /** Whether it sends its successful reply itself. */
  readonly replies: boolean
  /** Whether it has, or can have, a payload. */
  readonly payload: boolean
  run(context: CommandContext, request: NbdRequest, payload: Uint8Array): Completion
}

const plain = { writes: false, bounded: false, replies: false, payload: false }
const FUA = NBD_CMD_FLAG_FUA

const commands: readonly (Command | undefined)[] = sparse({
  [NBD_CMD_READ]: {
    ...plain,
    name: 'read',
    // NBD_CMD_FLAG_FUA is accepted everywhere: "the server MUST accept all commands with this bit".
    flags: FUA + NBD_CMD_FLAG_DF,
    bounded: true,
    replies: true,
    run: read,
  },
  [NBD_CMD_WRITE]: {
    ...plain,
    name: 'write',
    flags: FUA,
    writes: true,
    bounded: true,
    payload: true,
    run: write,
  },
  [NBD_CMD_FLUSH]: { ...plain, name: 'flush', flags: FUA, run: flush },
  [NBD_CMD_TRIM]: { ...plain, name: 'trim', flags: FUA, writes: true, run: trim },
  [NBD_CMD_CACHE]: { ...plain, name: 'cache', flags: FUA, bounded: true, run: cache },
  [NBD_CMD_WRITE_ZEROES]: {
    ...plain,
    name: 'write zeroes',
    flags: FUA + NBD_CMD_FLAG_NO_HOLE + NBD_CMD_FLAG_FAST_ZERO,
    writes: true,
    run: writeZeroes,
  },
  [NBD_CMD_BLOCK_STATUS]: {
    ...plain,
    name: 'block status',
    flags: FUA + NBD_CMD_FLAG_REQ_ONE,
    replies: true,
    payload: true,
    run: blockStatus,
  },
})

export function commandOf(request: NbdRequest): Command | undefined {
  return commands[request.type]
}

/**
 * The error value that a request is refused with, or NBD_SUCCESS. What the payload of a block
 * status request says is in the request already.
 */
export function refusal(
  context: CommandContext,
  command: Command | undefined,
  request: NbdRequest,
): number {
  if (command === undefined || unknownFlags(context, command, request)) return NBD_EINVAL
  const { offset, length, type } = request
  const { layer } = context
  if (command.writes && !context.export.writable) return NBD_EPERM
  if (command.bounded && length > context.export.blockSizes.maximum) return NBD_EINVAL
  if (offset + length > layer.size) return outside(type)
  const { minimum } = context.export.blockSizes
  if (minimum > 1 && (offset % minimum !== 0 || length % minimum !== 0)) return NBD_EINVAL
  return special(context, request)
}

function unknownFlags({ layout }: CommandContext, command: Command, request: NbdRequest): boolean {
  const payload = layout.extended && command.payload ? NBD_CMD_FLAG_PAYLOAD_LEN : 0
  return (request.flags & ~(command.flags + payload)) !== 0
}

function outside(type: number): number {
  return type === NBD_CMD_WRITE || type === NBD_CMD_WRITE_ZEROES ? NBD_ENOSPC : NBD_EINVAL
}

/** Rules of single commands. */
function special({ structured, contexts }: CommandContext, request: NbdRequest): number {
  const { type, flags, offset, length } = request
  if (type === NBD_CMD_READ && !structured && (flags & NBD_CMD_FLAG_DF) !== 0) return NBD_EINVAL
  if (type === NBD_CMD_FLUSH && (offset !== 0 || length !== 0)) return NBD_EINVAL
  if (type === NBD_CMD_BLOCK_STATUS && (contexts.length === 0 || length === 0)) return NBD_EINVAL
  return NBD_SUCCESS
}

/** An array that is indexed by type: a lookup per request. */
function sparse(table: Readonly<Record<number, Command>>): (Command | undefined)[] {
  const result: (Command | undefined)[] = new Array(NBD_CMD_BLOCK_STATUS + 1).fill(undefined)
  for (const [type, command] of Object.entries(table)) result[Number(type)] = command
  return result
}
