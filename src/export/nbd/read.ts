/** NBD_CMD_READ. */

import type { Completion } from '../../block/layer.ts'
import { isZero } from '../../bytes/zero.ts'
import {
  dataHeaderSize,
  encodeDataHeader,
  encodeHoleChunk,
  holeChunkSize,
} from '../../wire/nbd/chunks.ts'
import { NBD_CMD_FLAG_DF, NBD_REPLY_FLAG_DONE } from '../../wire/nbd/constants.ts'
import { encodeSimpleReply, type NbdRequest, simpleReplySize } from '../../wire/nbd/transmission.ts'
import type { CommandContext } from './command.ts'
import { holeProbeLength } from './limits.ts'
import { inPieces } from './pieces.ts'
import { readPieces, sendNone } from './read-pieces.ts'
import type { Reservation } from './reply-queue.ts'

/** Sends its reply itself, unless it fails. */
export function read(context: CommandContext, request: NbdRequest): Completion {
  const { length } = request
  if (!context.structured) return readWhole(context, request, simpleReplySize, sendSimple)
  if (length === 0) return sendNone(context, request)
  const whole = (request.flags & NBD_CMD_FLAG_DF) !== 0
  if (whole || length < holeProbeLength) {
    const headerSize = dataHeaderSize(context.layout)
    return readWhole(context, request, headerSize, whole ? sendData : sendDataOrHole)
  }
  return readPieces(context, request)
}

type Send = (
  context: CommandContext,
  request: NbdRequest,
  reply: Reservation,
  data: Uint8Array,
) => void

/** Reads to the place from where it is sent, behind room for a header. */
function readWhole(
  context: CommandContext,
  request: NbdRequest,
  headerSize: number,
  send: Send,
): Completion {
  const { queue } = context
  const { offset, length } = request
  const reply = queue.reserve(headerSize + length)
  const start = reply.start + headerSize
  const data = reply.slab.bytes.subarray(start, start + length)
  let done: Completion
  try {
    done = readInto(context, offset, data)
  } catch (error) {
    queue.cancel(reply)
    throw error
  }
  if (done === undefined) return send(context, request, reply, data)
  return done.then(
    () => send(context, request, reply, data),
    (error) => {
      queue.cancel(reply)
      throw error
    },
  )
}

function readInto(context: CommandContext, offset: number, data: Uint8Array): Completion {
  const { layer, io } = context
  const { maxTransfer } = layer.limits
  if (data.length <= maxTransfer) return layer.read(offset, data, io.read)
  return inPieces(data.length, maxTransfer, (at, length) =>
    layer.read(offset + at, data.subarray(at, at + length), io.read),
  )
}

function sendSimple({ queue }: CommandContext, request: NbdRequest, reply: Reservation): void {
  encodeSimpleReply(reply.slab.view, reply.start, request, 0)
  queue.send(reply, reply.length)
}

function sendData(context: CommandContext, request: NbdRequest, reply: Reservation): void {
  const { offset, length } = request
  const { queue, layout } = context
  const flags = NBD_REPLY_FLAG_DONE
  encodeDataHeader(layout, reply.slab.view, reply.start, request, flags, offset, length)
  queue.send(reply, reply.length)
}

/** Zeroes need not travel, wherever they come from. */
function sendDataOrHole(
  context: CommandContext,
  request: NbdRequest,
  reply: Reservation,
  data: Uint8Array,
): void {
  if (isZero(data)) {
    const { offset, length } = request
    const { queue, layout } = context
    const flags = NBD_REPLY_FLAG_DONE
    encodeHoleChunk(layout, reply.slab.view, reply.start, request, flags, offset, length)
    queue.send(reply, holeChunkSize(layout))
  } else {
    sendData(context, request, reply)
  }
}
