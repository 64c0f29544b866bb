/** Commands that answer with success or failure alone. */
import type { Completion } from '../../block/layer.ts'
import {
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
} from '../../wire/nbd/constants.ts'
import type { NbdRequest } from '../../wire/nbd/transmission.ts'
import type { CommandContext } from './command.ts'
import { readPieceLength } from './limits.ts'
import { inPieces } from './pieces.ts'

export function write(
  context: CommandContext,
  request: NbdRequest,
  payload: Uint8Array,
): Completion {
  const { layer, io } = context
  const { offset, length } = request
  if (length === 0) return
  const fua = has(request, NBD_CMD_FLAG_FUA)
  const { maxTransfer } = layer.limits
  const writeIo = fua ? io.fuaWrite : io.write
  const done =
    length <= maxTransfer
      ? layer.write(offset, payload, writeIo)
      : inPieces(length, maxTransfer, (at, part) =>
          layer.write(offset + at, payload.subarray(at, at + part), writeIo),
        )
  return fua ? persisted(context, done, layer.capabilities.fua !== 'none') : done
}

export function writeZeroes(context: CommandContext, request: NbdRequest): Completion {
  const { layer, io } = context
  const { offset, length } = request
  if (length === 0) return
  const fua = has(request, NBD_CMD_FLAG_FUA)
  const zeroIo = io.zero(
    fua,
    !has(request, NBD_CMD_FLAG_NO_HOLE),
    has(request, NBD_CMD_FLAG_FAST_ZERO),
  )
  const done = layer.writeZeroes(offset, length, zeroIo)
  return fua ? persisted(context, done, layer.capabilities.fua !== 'none') : done
}

/** A hint. Only the whole blocks inside the range are discarded. */
export function trim(context: CommandContext, request: NbdRequest): Completion {
  const { layer, io } = context
  const { offset, length } = request
  if (length === 0 || layer.capabilities.discard === 'none') return
  const done = layer.discard(offset, length, io.read)
  return has(request, NBD_CMD_FLAG_FUA) ? persisted(context, done, false) : done
}

export function flush({ layer, io }: CommandContext): Completion {
  return layer.flush(io.read)
}

/** Reads the range and drops it: it is then in whatever caches lie below. */
export async function cache(context: CommandContext, request: NbdRequest): Promise<void> {
  const { layer, io, pool } = context
  const { offset, length } = request
  const step = Math.min(readPieceLength, layer.limits.maxTransfer)
  const slab = pool.take(step)
  try {
    await inPieces(length, step, (at, part) =>
      layer.read(offset + at, slab.bytes.subarray(0, part), io.read),
    )
  } finally {
    pool.release(slab)
  }
}

/** NBD_CMD_FLAG_FUA: settles when the data is on stable storage, if need be by a flush. */
function persisted(context: CommandContext, done: Completion, already: boolean): Completion {
  if (already) return done
  const { layer, io } = context
  return done === undefined ? layer.flush(io.read) : done.then(() => layer.flush(io.read))
}

function has(request: NbdRequest, flag: number): boolean {
  return (request.flags & flag) !== 0
}
