/** Whole chunks of a reply, in either layout. */
import {
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REPLY_TYPE_OFFSET_HOLE,
} from './constants.ts'
import type { Answered, Layout } from './layout.ts'
import { encodeU64 } from './transmission.ts'

/** Bytes of a chunk of NBD_REPLY_TYPE_OFFSET_DATA before its data. */
export function dataHeaderSize(layout: Layout): number {
  return layout.chunkHeaderSize + 8
}

/** Bytes of a whole chunk of NBD_REPLY_TYPE_OFFSET_HOLE. */
export function holeChunkSize(layout: Layout): number {
  return layout.chunkHeaderSize + 12
}

/** What comes before `length` bytes of data from `offset` of the export. */
export function encodeDataHeader(
  layout: Layout,
  view: DataView,
  at: number,
  request: Answered,
  flags: number,
  offset: number,
  length: number,
): void {
  layout.encodeChunkHeader(view, at, request, flags, NBD_REPLY_TYPE_OFFSET_DATA, length + 8)
  encodeU64(view, at + layout.chunkHeaderSize, offset)
}

/** A whole chunk saying that `length` bytes from `offset` of the export read as zeroes. */
export function encodeHoleChunk(
  layout: Layout,
  view: DataView,
  at: number,
  request: Answered,
  flags: number,
  offset: number,
  length: number,
): void {
  layout.encodeChunkHeader(view, at, request, flags, NBD_REPLY_TYPE_OFFSET_HOLE, 12)
  encodeU64(view, at + layout.chunkHeaderSize, offset)
  view.setUint32(at + layout.chunkHeaderSize + 8, length)
}

/** A whole chunk of NBD_REPLY_TYPE_ERROR; `text` is at most NBD_MAX_STRING bytes. */
export function errorChunk(
  layout: Layout,
  request: Answered,
  flags: number,
  error: number,
  text: Uint8Array,
): Uint8Array {
  const { chunkHeaderSize: head } = layout
  const chunk = new Uint8Array(head + 6 + text.length)
  const view = new DataView(chunk.buffer)
  layout.encodeChunkHeader(view, 0, request, flags, NBD_REPLY_TYPE_ERROR, 6 + text.length)
  view.setUint32(head, error)
  view.setUint16(head + 4, text.length)
  chunk.set(text, head + 6)
  return chunk
}
