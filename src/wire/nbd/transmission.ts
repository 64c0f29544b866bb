/**
 * Requests and replies of the transmission phase, in the compact form that everybody speaks;
 * `layout.ts` has the other one. They are read and written per request, so they have accessors by
 * hand instead of the struct codec. 64-bit offsets are two 32-bit halves: one beyond 2^53 becomes
 * some larger number, which no check of a range lets pass. A cookie is opaque and is never made
 * into one number.
 */
import {
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
} from './constants.ts'

const two32 = 2 ** 32

/** The 64 bits by which a client knows a request again ("handle" in older texts). */
export interface Cookie {
  readonly cookieHigh: number
  readonly cookieLow: number
}

export interface NbdRequest extends Cookie {
  readonly flags: number
  readonly type: number
  readonly offset: number
  readonly length: number
}

/** Bytes of a request, without the payload of NBD_CMD_WRITE. */
export const requestSize = 28

/** The request at `at`, or undefined when its magic number is wrong. */
export function decodeRequest(view: DataView, at: number): NbdRequest | undefined {
  if (view.getUint32(at) !== NBD_REQUEST_MAGIC) return undefined
  return {
    flags: view.getUint16(at + 4),
    type: view.getUint16(at + 6),
    cookieHigh: view.getUint32(at + 8),
    cookieLow: view.getUint32(at + 12),
    offset: decodeU64(view, at + 16),
    length: view.getUint32(at + 24),
  }
}

export function encodeRequest(view: DataView, at: number, request: NbdRequest): void {
  view.setUint32(at, NBD_REQUEST_MAGIC)
  view.setUint16(at + 4, request.flags)
  view.setUint16(at + 6, request.type)
  encodeCookie(view, at + 8, request)
  encodeU64(view, at + 16, request.offset)
  view.setUint32(at + 24, request.length)
}

/** Bytes of a simple reply, without the data of NBD_CMD_READ. */
export const simpleReplySize = 16

export interface SimpleReply extends Cookie {
  readonly error: number
}

/** Fields behind the magic number, which the caller has looked at. */
export function decodeSimpleReply(view: DataView, at: number): SimpleReply {
  return {
    error: view.getUint32(at + 4),
    cookieHigh: view.getUint32(at + 8),
    cookieLow: view.getUint32(at + 12),
  }
}

export function encodeSimpleReply(view: DataView, at: number, cookie: Cookie, error: number): void {
  view.setUint32(at, NBD_SIMPLE_REPLY_MAGIC)
  view.setUint32(at + 4, error)
  encodeCookie(view, at + 8, cookie)
}

/** Bytes of a structured reply chunk before its payload. */
export const chunkHeaderSize = 20

export interface ChunkHeader extends Cookie {
  readonly flags: number
  readonly type: number
  /** Where the request began; the compact form does not say. */
  readonly offset: number | undefined
  /** Bytes of the payload. */
  readonly length: number
}

/** Fields behind the magic number, which the caller has looked at. */
export function decodeChunkHeader(view: DataView, at: number): ChunkHeader {
  return {
    flags: view.getUint16(at + 4),
    type: view.getUint16(at + 6),
    cookieHigh: view.getUint32(at + 8),
    cookieLow: view.getUint32(at + 12),
    offset: undefined,
    length: view.getUint32(at + 16),
  }
}

export function encodeChunkHeader(
  view: DataView,
  at: number,
  cookie: Cookie,
  flags: number,
  type: number,
  length: number,
): void {
  view.setUint32(at, NBD_STRUCTURED_REPLY_MAGIC)
  view.setUint16(at + 4, flags)
  view.setUint16(at + 6, type)
  encodeCookie(view, at + 8, cookie)
  view.setUint32(at + 16, length)
}

/** A number from 64 bits; not exact beyond 2^53, but always larger than any disk there. */
export function decodeU64(view: DataView, at: number): number {
  return view.getUint32(at) * two32 + view.getUint32(at + 4)
}

/** Writes a safe integer as 64 bits. */
export function encodeU64(view: DataView, at: number, value: number): void {
  const high = Math.floor(value / two32)
  view.setUint32(at, high)
  view.setUint32(at + 4, value - high * two32)
}

export function encodeCookie(view: DataView, at: number, cookie: Cookie): void {
  view.setUint32(at, cookie.cookieHigh)
  view.setUint32(at + 4, cookie.cookieLow)
}
