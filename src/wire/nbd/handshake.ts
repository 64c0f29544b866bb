/** Structures of the handshake: greeting, options, replies, and the payloads of both. */

import { bits64, bytes, struct, u16, u32 } from '../../bytes/struct.ts'
import { viewOf } from '../../bytes/view.ts'
import { BlockError } from '../../errors.ts'
import { NBD_INFO_EXPORT, NBD_MAX_STRING } from './constants.ts'

/** The server's first message. */
export const greeting = struct('big', {
  nbdMagic: bits64,
  /** IHAVEOPT: newstyle. */
  optionMagic: bits64,
  handshakeFlags: u16,
})

/** The client's answer. */
export const clientFlags = struct('big', { flags: u32 })

/** Before the data of an option. */
export const optionHeader = struct('big', { magic: bits64, option: u32, length: u32 })

/** Before the data of a reply to an option. */
export const optionReplyHeader = struct('big', {
  magic: bits64,
  option: u32,
  type: u32,
  length: u32,
})

/** The reply to NBD_OPT_EXPORT_NAME, which has no header. */
export const exportNameReply = struct('big', { size: bits64, transmissionFlags: u16 })

/** Zeroes behind it, unless NBD_FLAG_C_NO_ZEROES was agreed on. */
export const exportNamePadding = 124

export const infoExport = struct('big', { type: u16, size: bits64, transmissionFlags: u16 })

export const infoBlockSize = struct('big', {
  type: u16,
  minimum: u32,
  preferred: u32,
  maximum: u32,
})

/** The oldstyle greeting, known only to be refused by its name. */
export const oldstyleGreeting = struct('big', {
  nbdMagic: bits64,
  cliservMagic: bits64,
  size: bits64,
  flags: u32,
  reserved: bytes(124),
})

/** Data of NBD_OPT_INFO and NBD_OPT_GO. */
export interface InfoRequest {
  readonly name: string
  /** The NBD_INFO_… that the client asks for. */
  readonly requests: readonly number[]
}

/** Throws `PEER` when the data contradicts itself. */
export function decodeInfoRequest(data: Uint8Array): InfoRequest {
  const reader = new PayloadReader(data)
  const name = reader.string(reader.u32())
  const requests = Array.from({ length: reader.count(reader.u16(), 2) }, () => reader.u16())
  reader.finish()
  return { name, requests }
}

export function encodeInfoRequest({ name, requests }: InfoRequest): Uint8Array {
  const text = new TextEncoder().encode(name)
  const data = new Uint8Array(4 + text.length + 2 + 2 * requests.length)
  const view = viewOf(data)
  view.setUint32(0, text.length)
  data.set(text, 4)
  view.setUint16(4 + text.length, requests.length)
  for (const [index, request] of requests.entries()) {
    view.setUint16(4 + text.length + 2 + 2 * index, request)
  }
  return data
}

/** Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
export interface ContextRequest {
  readonly name: string
  readonly queries: readonly string[]
}

/** Throws `PEER` when the data contradicts itself. */
export function decodeContextRequest(data: Uint8Array): ContextRequest {
  const reader = new PayloadReader(data)
  const name = reader.string(reader.u32())
  const count = reader.count(reader.u32(), 4)
  const queries = Array.from({ length: count }, () => reader.string(reader.u32()))
  reader.finish()
  return { name, queries }
}

export function encodeContextRequest({ name, queries }: ContextRequest): Uint8Array {
  return joinBytes([prefixed(name), u32Bytes(queries.length), ...queries.map(prefixed)])
}

/** Data of NBD_REP_SERVER; the description is left out when empty. */
export function encodeServerReply(name: string, description: string): Uint8Array {
  return joinBytes([prefixed(name), new TextEncoder().encode(description)])
}

/** Throws `PEER` when the data contradicts itself. */
export function decodeServerReply(data: Uint8Array): { name: string; description: string } {
  const reader = new PayloadReader(data)
  const name = reader.string(reader.u32())
  return { name, description: reader.string(reader.left) }
}

/** Data of NBD_REP_META_CONTEXT. */
export function encodeContextReply(id: number, name: string): Uint8Array {
  return joinBytes([u32Bytes(id), new TextEncoder().encode(name)])
}

/** Throws `PEER` when the data contradicts itself. */
export function decodeContextReply(data: Uint8Array): { id: number; name: string } {
  const reader = new PayloadReader(data)
  const id = reader.u32()
  return { id, name: reader.string(reader.left) }
}

/** The type of an information reply, with the bytes behind it. Throws `PEER` when too short. */
export function decodeInfoType(data: Uint8Array): number {
  return new PayloadReader(data).u16()
}

/** Size and flags out of NBD_INFO_EXPORT. */
export function encodeInfoExport(size: number, transmissionFlags: number): Uint8Array {
  return infoExport.encode({ type: NBD_INFO_EXPORT, size: BigInt(size), transmissionFlags })
}

/** NBD_INFO_NAME and NBD_INFO_DESCRIPTION. */
export function encodeInfoText(type: number, text: string): Uint8Array {
  const head = new Uint8Array(2)
  viewOf(head).setUint16(0, type)
  return joinBytes([head, new TextEncoder().encode(text)])
}

/** One string of at most `NBD_MAX_STRING` bytes. Throws `PEER` when it is not one. */
export function decodeString(data: Uint8Array): string {
  if (data.length > NBD_MAX_STRING) {
    throw malformed(`a string of ${data.length} bytes, more than ${NBD_MAX_STRING}`)
  }
  if (data.includes(0)) throw malformed('a string with a NUL in it')
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(data)
  } catch (cause) {
    throw malformed('a string that is not UTF-8', cause)
  }
}

/** Reads the fields of an option's data one behind the other, never beyond its end. */
class PayloadReader {
  readonly #data: Uint8Array
  readonly #view: DataView
  #at = 0

  constructor(data: Uint8Array) {
    this.#data = data
    this.#view = viewOf(data)
  }

  get left(): number {
    return this.#data.length - this.#at
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2))
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4))
  }

  string(length: number): string {
    const start = this.#take(length)
    return decodeString(this.#data.subarray(start, start + length))
  }

  /** `count`, if that many items of at least `itemSize` bytes can follow. */
  count(count: number, itemSize: number): number {
    if (count * itemSize > this.left) {
      throw malformed(`${count} items in ${this.left} bytes`)
    }
    return count
  }

  finish(): void {
    if (this.left > 0) throw malformed(`${this.left} bytes too many`)
  }

  #take(length: number): number {
    if (length > this.left) throw malformed(`a field of ${length} bytes in ${this.left}`)
    const start = this.#at
    this.#at += length
    return start
  }
}

function malformed(what: string, cause?: unknown): BlockError {
  return new BlockError('PEER', `NBD option data holds ${what}`, { cause })
}

/** A string behind its length in 32 bits. */
function prefixed(text: string): Uint8Array {
  const encoded = new TextEncoder().encode(text)
  return joinBytes([u32Bytes(encoded.length), encoded])
}

function u32Bytes(value: number): Uint8Array {
  const result = new Uint8Array(4)
  viewOf(result).setUint32(0, value)
  return result
}

function joinBytes(parts: readonly Uint8Array[]): Uint8Array {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    result.set(part, at)
    at += part.length
  }
  return result
}
