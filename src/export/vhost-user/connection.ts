/**
 * The conversation with one client: messages come on a stream socket, some with descriptors, and are dealt with
 * one after the other.
 */
import { nothingYet, type SharedMemorySys } from '../../sys/shared-memory.ts'
import { messageFlag, messageHeader, number } from '../../wire/vhost-user/messages.ts'
import type { DescriptorWatch } from '../descriptor-watch.ts'
import { broken, closeAll } from './guest-memory.ts'
import { maxPayload } from './limits.ts'
import type { QueuesOptions } from './queues.ts'
import { type Descriptors, Session } from './session.ts'

export interface ConnectionOptions extends Omit<QueuesOptions, 'fail'> {
  readonly watch: DescriptorWatch
  /** Of a stream socket that nobody else reads. */
  readonly socket: number
  /** Called once, when the client has gone, or cannot be served any longer: then there is an error. */
  readonly onGone: (error?: unknown) => void
}

/** Descriptors of one message: a region of memory each. */
const maxDescriptors = 8

/** Before others have their turn. */
const messagesAtOnce = 64

export class Connection {
  readonly session: Session
  readonly #options: ConnectionOptions
  readonly #sys: SharedMemorySys
  readonly #buffer = new Uint8Array(new ArrayBuffer(messageHeader.size + maxPayload))
  /** Bytes of the message that have come. */
  #length = 0
  #fds: number[] = []
  /** The message that is being dealt with, which settles without an error. */
  #answering: Promise<void> | undefined
  #gone = false
  #closing: Promise<void> | undefined

  constructor(options: ConnectionOptions) {
    this.#options = options
    this.#sys = options.sys
    this.session = new Session({ ...options, fail: (error) => this.#end(error) })
    const { watch } = options
    watch.add(this.session.queues.events.fd, () => this.session.queues.onEvents())
    this.#listen()
  }

  /** Ends it, as soon as what is under way has ended. The socket remains the caller's. */
  close(): Promise<void> {
    // Not at once, since the end tells who may close it, too.
    this.#closing ??= Promise.resolve().then(() => this.#close())
    return this.#closing
  }

  async #close(): Promise<void> {
    this.#end()
    const ending = this.session.end()
    await this.#answering
    await ending
    this.#dropDescriptors()
  }

  #listen(): void {
    this.#options.watch.add(this.#options.socket, () => this.#receiveAll())
  }

  #end(error?: unknown): void {
    if (this.#gone) return
    this.#gone = true
    const { watch, socket, onGone } = this.#options
    watch.delete(socket)
    watch.delete(this.session.queues.events.fd)
    if (error !== undefined) this.session.tellOfError()
    onGone(error)
  }

  #receiveAll(): void {
    try {
      for (let count = 0; count < messagesAtOnce && !this.#gone && !this.#answering; count++) {
        const message = this.#receive()
        if (!message) return
        this.#answer(message)
      }
    } catch (error) {
      this.#end(error)
    }
  }

  /** The next message, once all of it has come. */
  #receive(): { type: number; flags: number; payload: Uint8Array } | undefined {
    for (;;) {
      const whole = this.#wholeLength()
      if (this.#length >= messageHeader.size && this.#length === whole) {
        const { request: type, flags } = messageHeader.decode(this.#buffer)
        this.#length = 0
        return { type, flags, payload: this.#buffer.slice(messageHeader.size, whole) }
      }
      // No more than this message, since descriptors come with its first byte.
      const room = this.#buffer.subarray(this.#length, whole)
      const length = this.#sys.receive(this.#options.socket, room, this.#fds)
      if (this.#fds.length > maxDescriptors) throw broken('a message with too many descriptors')
      if (length === nothingYet) return undefined
      if (length === 0) {
        this.#end(this.#length > 0 ? broken('a message is cut off') : undefined)
        return undefined
      }
      this.#length += length
    }
  }

  #wholeLength(): number {
    if (this.#length < messageHeader.size) return messageHeader.size
    const { request, size } = messageHeader.decode(this.#buffer)
    if (size > maxPayload) throw broken(`message ${request} has a payload of ${size} bytes`)
    return messageHeader.size + size
  }

  #answer({ type, flags, payload }: { type: number; flags: number; payload: Uint8Array }): void {
    const reply = (answer: Uint8Array | undefined) => {
      this.#dropDescriptors()
      if (!this.#gone) this.#reply(type, flags, answer)
    }
    const answering = this.session.answer(type, payload, this.#descriptors())
    if (!(answering instanceof Promise)) {
      reply(answering)
      return
    }
    this.#options.watch.delete(this.#options.socket)
    this.#answering = answering.then(reply).then(
      () => {
        this.#answering = undefined
        if (!this.#gone) this.#listen()
      },
      (error) => {
        this.#answering = undefined
        this.#end(error)
      },
    )
  }

  /** An answer of its own, or, where that is asked for, that it has been done. */
  #reply(type: number, flags: number, answer: Uint8Array | undefined): void {
    const { reply, needReply, version } = messageFlag
    if (!answer && (flags & needReply) === 0) return
    const body = answer ?? number.encode({ value: 0 })
    const message = new Uint8Array(messageHeader.size + body.length)
    const kept = answer ? flags & needReply : 0
    const header = { request: type, flags: version + reply + kept, size: body.length }
    messageHeader.encodeInto(message, 0, header)
    message.set(body, messageHeader.size)
    if (!this.#sys.send(this.#options.socket, message)) {
      throw broken('the client does not read its replies')
    }
  }

  #descriptors(): Descriptors {
    return {
      all: [...this.#fds],
      take: () => {
        if (this.#fds.length !== 1) throw broken(`a message with ${this.#fds.length} descriptors`)
        return this.#fds.splice(0)[0]
      },
    }
  }

  #dropDescriptors(): void {
    closeAll(this.#fds.splice(0))
  }
}
