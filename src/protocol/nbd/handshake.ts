/** The client's side of the handshake: fixed newstyle, with what older servers lack left out. */
import type { Socket } from 'node:net'
import { isPowerOfTwo, maxDiskSize } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import {
  IHAVEOPT,
  NBD_CLISERV_MAGIC,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_EXPORT,
  NBD_MAX_MINIMUM_BLOCK,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_EXTENDED_HEADERS,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_UNSUP,
  NBD_REP_FLAG_ERROR,
  NBD_REP_INFO,
  NBD_REP_MAGIC,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
  NBDMAGIC,
} from '../../wire/nbd/constants.ts'
import {
  clientFlags,
  decodeContextReply,
  decodeInfoType,
  decodeServerReply,
  decodeString,
  encodeContextRequest,
  encodeInfoRequest,
  exportNamePadding,
  exportNameReply,
  greeting,
  infoBlockSize,
  infoExport,
  optionHeader,
  optionReplyHeader,
} from '../../wire/nbd/handshake.ts'
import { ByteReader } from './byte-reader.ts'
import { maxOptionReplies, maxOptionReply } from './limits.ts'
import { type OptionReply, optionError } from './option-errors.ts'
import { type ClientTls, checkConsent, secure } from './start-tls.ts'

/** What a server says of an export. */
export interface ExportFacts {
  readonly name: string
  /** Bytes. */
  readonly size: number
  /** NBD_FLAG_… */
  readonly transmissionFlags: number
  readonly description?: string
  /** Absent where the server did not say. */
  readonly blockSizes?: {
    readonly minimum: number
    readonly preferred: number
    readonly maximum: number
  }
  /** Those that were selected, by name; for `listExports`, those that there are. */
  readonly contexts: ReadonlyMap<string, number>
}

export class ClientHandshake {
  #socket: Socket
  #reader: ByteReader
  #noZeroes = false
  #structured = false
  #extended = false
  #secured = false

  private constructor(socket: Socket) {
    this.#socket = socket
    this.#reader = new ByteReader(socket)
  }

  /**
   * Through the greeting and, with `tls`, to a secured socket. Throws `PEER` when it is no newstyle
   * server, or none that is to be trusted.
   */
  static async begin(socket: Socket, tls?: ClientTls): Promise<ClientHandshake> {
    const handshake = new ClientHandshake(socket)
    await handshake.#greet(tls !== undefined)
    if (tls) await handshake.#secure(tls)
    return handshake
  }

  /** What is spoken over: the secured socket once there is one. */
  get socket(): Socket {
    return this.#socket
  }

  /** Whether structured replies, or extended headers, have been agreed on. */
  get structured(): boolean {
    return this.#structured || this.#extended
  }

  /** Whether extended headers have been agreed on. */
  get extended(): boolean {
    return this.#extended
  }

  /**
   * Asks for extended headers, and where the server lacks them for structured replies. Whether
   * replies come in chunks, as block status needs it.
   */
  async askChunks(): Promise<boolean> {
    this.#extended = await this.#agree(NBD_OPT_EXTENDED_HEADERS)
    return this.#extended || (await this.askStructured())
  }

  /** Asks for structured replies, which a server may not have. */
  async askStructured(): Promise<boolean> {
    this.#structured = await this.#agree(NBD_OPT_STRUCTURED_REPLY)
    return this.#structured
  }

  async #agree(option: number): Promise<boolean> {
    return (await this.#option(option)).at(-1)!.type === NBD_REP_ACK
  }

  /** Ids by name of those of `wanted` that the server has for the export. */
  async selectContexts(name: string, wanted: readonly string[]): Promise<Map<string, number>> {
    const data = encodeContextRequest({ name, queries: wanted })
    const replies = await this.#option(NBD_OPT_SET_META_CONTEXT, data)
    if (replies.at(-1)!.type !== NBD_REP_ACK) return new Map()
    const found = contextsOf(replies)
    return new Map([...found].filter(([context]) => wanted.includes(context)))
  }

  /**
   * Chooses an export and ends the handshake; `rest` is what the server sent behind it. Throws
   * `INVALID_ARGUMENT` when there is no such export.
   */
  async choose(
    name: string,
    contexts: ReadonlyMap<string, number>,
  ): Promise<{ facts: ExportFacts; rest: Uint8Array }> {
    const replies = await this.#option(NBD_OPT_GO, infoRequest(name))
    const last = replies.at(-1)!
    // Extended headers come with NBD_OPT_GO, and not with the old way.
    const facts =
      last.type === NBD_REP_ERR_UNSUP && !this.#extended
        ? await this.#chooseOldWay(name)
        : factsOf(NBD_OPT_GO, name, replies, contexts)
    return { facts, rest: this.#reader.release() }
  }

  /** Everything that the server exports; the session is over afterwards. */
  async listExports(): Promise<ExportFacts[]> {
    await this.askStructured()
    const replies = await this.#option(NBD_OPT_LIST)
    const last = replies.at(-1)!
    // A server that lists nothing, as qemu-nbd -L shows it.
    if (last.type !== NBD_REP_ERR_UNSUP) check(NBD_OPT_LIST, last)
    const servers = replies.filter(({ type }) => type === NBD_REP_SERVER)
    const exports: ExportFacts[] = []
    for (const { name, description } of servers.map(({ data }) => decodeServerReply(data))) {
      exports.push({ description: description || undefined, ...(await this.#describe(name)) })
    }
    await this.#option(NBD_OPT_ABORT)
    return exports
  }

  async #describe(name: string): Promise<ExportFacts> {
    const contexts = this.#structured
      ? contextsOf(
          await this.#option(
            NBD_OPT_LIST_META_CONTEXT,
            encodeContextRequest({ name, queries: [] }),
          ),
        )
      : new Map<string, number>()
    const replies = await this.#option(NBD_OPT_INFO, infoRequest(name))
    return factsOf(NBD_OPT_INFO, name, replies, contexts)
  }

  async #secure(tls: ClientTls): Promise<void> {
    this.#send(NBD_OPT_STARTTLS, new Uint8Array(0))
    checkConsent(await this.#reply(NBD_OPT_STARTTLS))
    this.#socket = await secure(this.#socket, this.#reader.release(), tls)
    this.#reader = new ByteReader(this.#socket)
    this.#secured = true
  }

  async #greet(wantsTls: boolean): Promise<void> {
    const hello = greeting.decode(await this.#reader.take(greeting.size))
    if (hello.nbdMagic !== NBDMAGIC) throw peer('Bad initial magic received: it is no NBD server')
    const oldstyle = hello.optionMagic === NBD_CLISERV_MAGIC
    const fixed = (hello.handshakeFlags & NBD_FLAG_FIXED_NEWSTYLE) !== 0
    if (wantsTls && (oldstyle || !fixed)) throw peer('Server does not support STARTTLS')
    if (oldstyle) {
      throw new BlockError('UNSUPPORTED', 'the NBD server speaks the oldstyle handshake only')
    }
    if (hello.optionMagic !== IHAVEOPT) throw peer('Bad server magic received')
    if (!fixed) {
      throw new BlockError('UNSUPPORTED', 'the NBD server does not speak fixed newstyle')
    }
    this.#noZeroes = (hello.handshakeFlags & NBD_FLAG_NO_ZEROES) !== 0
    const flags = NBD_FLAG_C_FIXED_NEWSTYLE + (this.#noZeroes ? NBD_FLAG_C_NO_ZEROES : 0)
    this.#socket.write(clientFlags.encode({ flags }))
  }

  /** Servers without NBD_OPT_GO end the session when they do not know the name. */
  async #chooseOldWay(name: string): Promise<ExportFacts> {
    this.#send(NBD_OPT_EXPORT_NAME, Buffer.from(name))
    const reply = exportNameReply.decode(await this.#reader.take(exportNameReply.size))
    if (!this.#noZeroes) await this.#reader.take(exportNamePadding)
    const { size, transmissionFlags } = reply
    return { name, size: checkedSize(size), transmissionFlags, contexts: new Map() }
  }

  async #option(option: number, data: Uint8Array = new Uint8Array(0)): Promise<OptionReply[]> {
    this.#send(option, data)
    const replies: OptionReply[] = []
    while (replies.length < maxOptionReplies) {
      const reply = await this.#reply(option)
      replies.push(reply)
      if (reply.type === NBD_REP_ACK || reply.type >= NBD_REP_FLAG_ERROR) return replies
    }
    throw peer(`the NBD server gave more than ${maxOptionReplies} replies to option ${option}`)
  }

  #send(option: number, data: Uint8Array): void {
    const header = optionHeader.encode({ magic: IHAVEOPT, option, length: data.length })
    this.#socket.write(Buffer.concat([header, data]))
  }

  async #reply(option: number): Promise<OptionReply> {
    const header = optionReplyHeader.decode(await this.#take(optionReplyHeader.size))
    if (header.magic !== NBD_REP_MAGIC) throw peer('Unexpected option reply magic')
    if (header.option !== option) throw peer(`Unexpected option type ${header.option}`)
    if (header.length > maxOptionReply) {
      throw peer(`option reply of ${header.length} bytes is too long`)
    }
    return { type: header.type, data: await this.#take(header.length) }
  }

  /** A server that does not let us in says so by leaving, once it has seen who we are. */
  async #take(length: number): Promise<Uint8Array> {
    try {
      return await this.#reader.take(length)
    } catch (cause) {
      if (!this.#secured) throw cause
      throw new BlockError(
        'PEER',
        'Failed to read option reply: Cannot read from TLS channel: Input/output error',
        { errno: 'EIO', cause },
      )
    }
  }
}

function factsOf(
  option: number,
  name: string,
  replies: readonly OptionReply[],
  contexts: ReadonlyMap<string, number>,
): ExportFacts {
  check(option, replies.at(-1)!)
  let facts: ExportFacts = { name, size: -1, transmissionFlags: 0, contexts }
  for (const { type, data } of replies) {
    if (type === NBD_REP_INFO) facts = { ...facts, ...infoOf(data) }
  }
  if (facts.size < 0) throw peer('broken server omitted NBD_INFO_EXPORT')
  return facts
}

/** Throws what a server says instead of agreeing. */
function check(option: number, last: OptionReply): void {
  if (last.type !== NBD_REP_ACK) throw optionError(option, last)
}

function infoRequest(name: string): Uint8Array {
  return encodeInfoRequest({ name, requests: [NBD_INFO_BLOCK_SIZE, NBD_INFO_DESCRIPTION] })
}

function contextsOf(replies: readonly OptionReply[]): Map<string, number> {
  const found = replies.filter(({ type }) => type === NBD_REP_META_CONTEXT)
  return new Map(
    found.map(({ data }) => {
      const { id, name } = decodeContextReply(data)
      return [name, id]
    }),
  )
}

/** What one NBD_REP_INFO tells; nothing for those that we do not know. */
function infoOf(data: Uint8Array): Partial<ExportFacts> {
  const type = decodeInfoType(data)
  const expected: Record<number, number> = {
    [NBD_INFO_EXPORT]: infoExport.size,
    [NBD_INFO_BLOCK_SIZE]: infoBlockSize.size,
  }
  if (data.length !== (expected[type] ?? data.length)) {
    throw peer(`information of type ${type} has ${data.length} bytes`)
  }
  if (type === NBD_INFO_EXPORT) {
    const { size, transmissionFlags } = infoExport.decode(data)
    return { size: checkedSize(size), transmissionFlags }
  }
  if (type === NBD_INFO_BLOCK_SIZE) return { blockSizes: checkedBlockSizes(data) }
  if (type === NBD_INFO_DESCRIPTION) return { description: decodeString(data.subarray(2)) }
  return {}
}

function checkedSize(size: bigint): number {
  if (size <= BigInt(maxDiskSize)) return Number(size)
  throw new BlockError('UNSUPPORTED', `an NBD export of ${size} bytes is beyond the 8 PiB limit`)
}

function checkedBlockSizes(data: Uint8Array): ExportFacts['blockSizes'] {
  const { minimum, preferred, maximum } = infoBlockSize.decode(data)
  const sensible =
    isPowerOfTwo(minimum) &&
    minimum <= NBD_MAX_MINIMUM_BLOCK &&
    isPowerOfTwo(preferred) &&
    preferred >= minimum &&
    maximum >= minimum
  if (sensible) return { minimum, preferred, maximum }
  throw peer(`server advertised block sizes ${minimum}, ${preferred}, ${maximum}: nonsense`)
}

function peer(message: string): BlockError {
  return new BlockError('PEER', message, { errno: 'EINVAL' })
}
