/**
 * The two forms of messages in the transmission phase. Compact ones have lengths of 32 bits;
 * after NBD_OPT_EXTENDED_HEADERS every header has 32 bytes and a length of 64 bits, each reply is
 * a chunk that repeats the offset of its request, and a flag says whether a payload follows.
 */
import {
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_WRITE,
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
  NBD_STRUCTURED_REPLY_MAGIC,
} from './constants.ts'
import {
  type ChunkHeader,
  type Cookie,
  chunkHeaderSize,
  decodeChunkHeader,
  decodeRequest,
  decodeU64,
  encodeChunkHeader,
  encodeCookie,
  encodeRequest,
  encodeU64,
  type NbdRequest,
  requestSize,
} from './transmission.ts'

/** What a reply repeats of its request. */
export interface Answered extends Cookie {
  readonly offset: number
}

export interface Layout {
  /** Whether NBD_OPT_EXTENDED_HEADERS has been agreed on. */
  readonly extended: boolean
  /** Bytes of a request, without its payload. */
  readonly requestSize: number
  /** The request at `at`, or undefined when its magic number is wrong. */
  decodeRequest(view: DataView, at: number): NbdRequest | undefined
  encodeRequest(view: DataView, at: number, request: NbdRequest): void
  /** Bytes that follow a request. */
  payloadLength(request: NbdRequest): number
  readonly chunkMagic: number
  /** Bytes of a chunk before its payload. */
  readonly chunkHeaderSize: number
  /** Fields behind the magic number, which the caller has looked at. */
  decodeChunkHeader(view: DataView, at: number): ChunkHeader
  encodeChunkHeader(
    view: DataView,
    at: number,
    request: Answered,
    flags: number,
    type: number,
    length: number,
  ): void
  /** How block status is told. */
  readonly status: StatusLayout
}

/** A chunk of block status: its head, and its descriptors of a length and a status each. */
export interface StatusLayout {
  readonly type: number
  /** Bytes of the context's number, and what else comes before the first descriptor. */
  readonly headSize: number
  encodeHead(view: DataView, at: number, contextId: number, count: number): void
  /** The number of descriptors that the head tells; `found` where it tells none. */
  count(view: DataView, found: number): number
  /** Bytes of one descriptor. */
  readonly size: number
  decode(view: DataView, at: number): { readonly length: number; readonly flags: number }
  encode(view: DataView, at: number, length: number, flags: number): void
}

/** NBD_REPLY_TYPE_BLOCK_STATUS, which may come with extended headers as well. */
export const compactStatus: StatusLayout = {
  type: NBD_REPLY_TYPE_BLOCK_STATUS,
  headSize: 4,
  encodeHead: (view, at, contextId) => view.setUint32(at, contextId),
  count: (_, found) => found,
  size: 8,
  decode: (view, at) => ({ length: view.getUint32(at), flags: view.getUint32(at + 4) }),
  encode(view, at, length, flags) {
    view.setUint32(at, length)
    view.setUint32(at + 4, flags)
  },
}

/** NBD_REPLY_TYPE_BLOCK_STATUS_EXT. Its head has the number of descriptors, or 0, beside the id. */
export const extendedStatus: StatusLayout = {
  type: NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
  headSize: 8,
  encodeHead(view, at, contextId, count) {
    view.setUint32(at, contextId)
    view.setUint32(at + 4, count)
  },
  count: (view, found) => view.getUint32(4) || found,
  size: 16,
  decode: (view, at) => ({ length: decodeU64(view, at), flags: decodeU64(view, at + 8) }),
  encode(view, at, length, flags) {
    encodeU64(view, at, length)
    encodeU64(view, at + 8, flags)
  },
}

export const compactLayout: Layout = {
  extended: false,
  requestSize,
  decodeRequest,
  encodeRequest,
  payloadLength: ({ type, length }) => (type === NBD_CMD_WRITE ? length : 0),
  chunkMagic: NBD_STRUCTURED_REPLY_MAGIC,
  chunkHeaderSize,
  decodeChunkHeader,
  encodeChunkHeader,
  status: compactStatus,
}

export const extendedLayout: Layout = {
  extended: true,
  requestSize: 32,
  decodeRequest(view, at) {
    if (view.getUint32(at) !== NBD_EXTENDED_REQUEST_MAGIC) return undefined
    return {
      flags: view.getUint16(at + 4),
      type: view.getUint16(at + 6),
      cookieHigh: view.getUint32(at + 8),
      cookieLow: view.getUint32(at + 12),
      offset: decodeU64(view, at + 16),
      length: decodeU64(view, at + 24),
    }
  },
  encodeRequest(view, at, request) {
    view.setUint32(at, NBD_EXTENDED_REQUEST_MAGIC)
    view.setUint16(at + 4, request.flags)
    view.setUint16(at + 6, request.type)
    encodeCookie(view, at + 8, request)
    encodeU64(view, at + 16, request.offset)
    encodeU64(view, at + 24, request.length)
  },
  // "NBD_CMD_WRITE MUST use the flag NBD_CMD_FLAG_PAYLOAD_LEN": QEMU (8.2 to 10.1) does not, and
  // sends the payload all the same.
  payloadLength: ({ type, flags, length }) =>
    type === NBD_CMD_WRITE || (flags & NBD_CMD_FLAG_PAYLOAD_LEN) !== 0 ? length : 0,
  chunkMagic: NBD_EXTENDED_REPLY_MAGIC,
  chunkHeaderSize: 32,
  decodeChunkHeader: (view, at) => ({
    flags: view.getUint16(at + 4),
    type: view.getUint16(at + 6),
    cookieHigh: view.getUint32(at + 8),
    cookieLow: view.getUint32(at + 12),
    offset: decodeU64(view, at + 16),
    length: decodeU64(view, at + 24),
  }),
  encodeChunkHeader(view, at, request, flags, type, length) {
    view.setUint32(at, NBD_EXTENDED_REPLY_MAGIC)
    view.setUint16(at + 4, flags)
    view.setUint16(at + 6, type)
    encodeCookie(view, at + 8, request)
    encodeU64(view, at + 16, request.offset)
    encodeU64(view, at + 24, length)
  },
  status: extendedStatus,
}
