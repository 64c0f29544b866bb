/** An NBD client for tests that speaks in bytes and keeps no rule that a test does not want kept. */
import { connect, type Socket } from 'node:net'
import { viewOf } from '../../src/bytes/view.ts'
import {
  IHAVEOPT,
  NBD_CMD_BLOCK_STATUS,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_OPT_EXTENDED_HEADERS,
  NBD_OPT_GO,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_FLAG_ERROR,
  NBD_SIMPLE_REPLY_MAGIC,
} from '../../src/wire/nbd/constants.ts'
import {
  encodeContextRequest,
  encodeInfoRequest,
  greeting,
  infoExport,
  optionHeader,
  optionReplyHeader,
} from '../../src/wire/nbd/handshake.ts'
import { compactLayout, extendedLayout, type Layout } from '../../src/wire/nbd/layout.ts'
import {
  decodeSimpleReply,
  type NbdRequest,
  simpleReplySize,
} from '../../src/wire/nbd/transmission.ts'

/** Longest wait for the server, in milliseconds. Only a failing test waits that long. */
const patienceMs = 10_000

export interface OptionReply {
  readonly option: number
  readonly type: number
  readonly data: Buffer
}

export interface SimpleReply {
  readonly error: number
  readonly cookieLow: number
}

export interface Chunk {
  readonly flags: number
  readonly type: number
  readonly cookieLow: number
  readonly payload: Buffer
}

export class RawClient implements AsyncDisposable {
  readonly socket: Socket
  /** Of requests and chunks. */
  layout: Layout = compactLayout
  #received: Buffer[] = []
  #length = 0
  #ended = false
  #wake: (() => void) | undefined

  private constructor(socket: Socket) {
    this.socket = socket
    socket.on('data', (chunk) => {
      this.#received.push(chunk)
      this.#length += chunk.length
      this.#wake?.()
    })
    socket.on('error', () => {})
    for (const event of ['end', 'close']) {
      socket.on(event, () => {
        this.#ended = true
        this.#wake?.()
      })
    }
  }

  static async connect(address: string | { port: number; host: string }): Promise<RawClient> {
    const socket = typeof address === 'string' ? connect(address) : connect(address)
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    return new RawClient(socket)
  }

  /** Through the greeting, with these client flags. */
  static async greeted(
    address: string | { port: number; host: string },
    flags = NBD_FLAG_C_FIXED_NEWSTYLE + NBD_FLAG_C_NO_ZEROES,
  ): Promise<RawClient> {
    const client = await RawClient.connect(address)
    await client.take(greeting.size)
    client.sendU32(flags)
    return client
  }

  /** In the transmission phase. */
  static async transmitting(
    address: string | { port: number; host: string },
    { name = '', structured = false, extended = false, contexts = [] as string[] } = {},
  ): Promise<RawClient> {
    const client = await RawClient.greeted(address)
    if (structured) await client.option(NBD_OPT_STRUCTURED_REPLY)
    if (extended) {
      await client.option(NBD_OPT_EXTENDED_HEADERS)
      client.layout = extendedLayout
    }
    if (contexts.length > 0) {
      await client.option(
        NBD_OPT_SET_META_CONTEXT,
        encodeContextRequest({ name, queries: contexts }),
      )
    }
    const replies = await client.option(NBD_OPT_GO, encodeInfoRequest({ name, requests: [] }))
    if (replies.at(-1)?.type !== NBD_REP_ACK) throw new Error(`GO: ${replies.at(-1)?.data}`)
    return client
  }

  send(bytes: Uint8Array): void {
    this.socket.write(bytes)
  }

  sendU32(value: number): void {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32BE(value)
    this.send(bytes)
  }

  /** Exactly `length` bytes; fails when the server closes before, or is silent for too long. */
  async take(length: number): Promise<Buffer> {
    await this.#until(() => this.#length >= length, `${length} bytes`)
    const all = Buffer.concat(this.#received)
    this.#received = [all.subarray(length)]
    this.#length -= length
    return all.subarray(0, length)
  }

  /** Bytes that have come and nobody has taken. */
  get pending(): number {
    return this.#length
  }

  /** Waits until the server has closed, and returns what it sent before. */
  async closed(): Promise<Buffer> {
    await this.#until(() => this.#ended, 'the end', true)
    return this.take(this.#length)
  }

  sendOption(option: number, data: Uint8Array = Buffer.alloc(0), length = data.length): void {
    this.send(Buffer.concat([optionHeader.encode({ magic: IHAVEOPT, option, length }), data]))
  }

  /** All replies to one option, the final one included. */
  async option(option: number, data?: Uint8Array): Promise<OptionReply[]> {
    this.sendOption(option, data)
    return await this.optionReplies()
  }

  async optionReplies(): Promise<OptionReply[]> {
    const replies: OptionReply[] = []
    for (;;) {
      const header = optionReplyHeader.decode(await this.take(optionReplyHeader.size))
      const data = await this.take(header.length)
      replies.push({ option: header.option, type: header.type, data })
      if (header.type === NBD_REP_ACK || header.type >= NBD_REP_FLAG_ERROR) return replies
    }
  }

  /** The transmission flags that NBD_OPT_GO or NBD_OPT_INFO tells. */
  async exportFlags(option: number, name: string): Promise<number> {
    const [first] = await this.option(option, encodeInfoRequest({ name, requests: [] }))
    return infoExport.decode(first.data).transmissionFlags
  }

  /** A request as bytes; whatever is left out is zero. */
  static request(
    fields: Partial<NbdRequest>,
    payload: Uint8Array = Buffer.alloc(0),
    layout = compactLayout,
  ): Buffer {
    const bytes = Buffer.alloc(layout.requestSize + payload.length)
    const whole = {
      flags: 0,
      type: 0,
      cookieHigh: 0,
      cookieLow: 0,
      offset: 0,
      length: 0,
      ...fields,
    }
    layout.encodeRequest(viewOf(bytes), 0, whole)
    bytes.set(payload, layout.requestSize)
    return bytes
  }

  sendRequest(fields: Partial<NbdRequest>, payload?: Uint8Array): void {
    this.send(RawClient.request(fields, payload, this.layout))
  }

  async simpleReply(): Promise<SimpleReply> {
    const bytes = await this.take(simpleReplySize)
    if (bytes.readUInt32BE(0) !== NBD_SIMPLE_REPLY_MAGIC) {
      throw new Error(`no simple reply: ${bytes.toString('hex')}`)
    }
    return decodeSimpleReply(viewOf(bytes), 0)
  }

  async chunk(): Promise<Chunk> {
    const { chunkHeaderSize } = this.layout
    const header = this.layout.decodeChunkHeader(viewOf(await this.take(chunkHeaderSize)), 0)
    return { ...header, payload: await this.take(header.length) }
  }

  /** The runs that one NBD_CMD_BLOCK_STATUS gives for one context: [length, flags]. */
  async status(offset: number, length: number, flags = 0): Promise<[number, number][]> {
    this.sendRequest({ type: NBD_CMD_BLOCK_STATUS, flags, offset, length })
    const { payload } = await this.chunk()
    const runs: [number, number][] = []
    const { status } = this.layout
    for (let at = status.headSize; at < payload.length; at += status.size) {
      const run = status.decode(viewOf(payload), at)
      runs.push([run.length, run.flags])
    }
    return runs
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.destroy()
  }

  async #until(condition: () => boolean, what: string, orEnd = false): Promise<void> {
    const deadline = Date.now() + patienceMs
    while (!condition()) {
      if (this.#ended && !orEnd) throw new Error(`the server closed before ${what} had come`)
      if (Date.now() > deadline) throw new Error(`the server did not send ${what}`)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 250)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }
}
