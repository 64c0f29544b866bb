/**
 * Long structured reads: a chunk per piece of data or hole, sent as soon as it is read, so that
 * the client takes the first while the next is being read. A hole is asked for, not read.
 */

import type { Completion, Extent } from '../../block/layer.ts'
import { isZero } from '../../bytes/zero.ts'
import {
  dataHeaderSize,
  encodeDataHeader,
  encodeHoleChunk,
  holeChunkSize,
} from '../../wire/nbd/chunks.ts'
import { NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE } from '../../wire/nbd/constants.ts'
import type { NbdRequest } from '../../wire/nbd/transmission.ts'
import type { CommandContext } from './command.ts'
import { maxPiecesInFlight, maxReadPieces, readPieceLength } from './limits.ts'

export async function readPieces(context: CommandContext, request: NbdRequest): Promise<void> {
  const inFlight: Promise<void>[] = []
  const failures: unknown[] = []
  const end = request.offset + request.length
  let at = request.offset
  for (let count = 1; at < end && failures.length === 0; count++) {
    await context.queue.room(readPieceLength)
    const piece = await nextPiece(context, at, end - at, count).finally(() =>
      context.queue.giveBackRoom(readPieceLength),
    )
    if (piece.hole) {
      sendHole(context, request, at, piece.length)
    } else {
      const done = sendPiece(context, request, at, piece.length)
      if (done) inFlight.push(done.catch((error) => void failures.push(error)))
      if (inFlight.length >= maxPiecesInFlight) await inFlight.shift()
    }
    at += piece.length
  }
  await Promise.all(inFlight)
  if (failures.length > 0) throw failures[0]
  sendNone(context, request)
}

interface Piece {
  readonly length: number
  readonly hole: boolean
}

async function nextPiece(
  { layer, export: served, io }: CommandContext,
  offset: number,
  length: number,
  count: number,
): Promise<Piece> {
  io.read.signal.throwIfAborted()
  const data = { length: Math.min(length, readPieceLength, layer.limits.maxTransfer), hole: false }
  if (layer.capabilities.extents !== 'native' || count > maxReadPieces) return data
  const extent = await served.extentAt(offset, length, io.read)
  const hole = readsAsZeroes(extent)
  return { length: hole ? extent.length : Math.min(extent.length, data.length), hole }
}

function readsAsZeroes(extent: Extent): boolean {
  return extent.kind === 'zero' || extent.kind === 'backing'
}

/** Reads one piece and sends it. */
function sendPiece(
  context: CommandContext,
  request: NbdRequest,
  offset: number,
  length: number,
): Completion {
  const { layer, queue, layout, io } = context
  const headerSize = dataHeaderSize(layout)
  const reply = queue.reserve(headerSize + length)
  const { slab, start } = reply
  const data = slab.bytes.subarray(start + headerSize, start + reply.length)
  const send = () => {
    if (isZero(data)) {
      encodeHoleChunk(layout, slab.view, start, request, 0, offset, length)
      queue.send(reply, holeChunkSize(layout))
    } else {
      encodeDataHeader(layout, slab.view, start, request, 0, offset, length)
      queue.send(reply, reply.length)
    }
  }
  const fail = (error: unknown) => {
    queue.cancel(reply)
    throw error
  }
  let done: Completion
  try {
    done = layer.read(offset, data, io.read)
  } catch (error) {
    return fail(error)
  }
  return done === undefined ? send() : done.then(send, fail)
}

function sendHole(
  { queue, layout }: CommandContext,
  request: NbdRequest,
  offset: number,
  length: number,
): void {
  const reply = queue.reserve(holeChunkSize(layout))
  encodeHoleChunk(layout, reply.slab.view, reply.start, request, 0, offset, length)
  queue.send(reply, reply.length)
}

/** The end of a reply whose chunks have all been sent. */
export function sendNone({ queue, layout }: CommandContext, request: NbdRequest): void {
  const reply = queue.reserve(layout.chunkHeaderSize)
  const flags = NBD_REPLY_FLAG_DONE
  layout.encodeChunkHeader(reply.slab.view, reply.start, request, flags, NBD_REPLY_TYPE_NONE, 0)
  queue.send(reply, reply.length)
}
