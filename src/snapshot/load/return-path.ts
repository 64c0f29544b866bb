/** What the loading QEMU says while pages are still missing: which it needs first, and how it ends. */
import { viewOf } from '../../bytes/view.ts'
import { BlockError } from '../../errors.ts'
import { returnMessage } from '../stream/format.ts'
import { type ByteSource, Window } from '../stream/window.ts'

export interface PageRequest {
  /** Name of the block. */
  readonly block: string
  readonly offset: number
  readonly length: number
  /** When it came: `performance.now()`. */
  readonly cameAt: number
}

/** Which pages of a block QEMU has, a bit each, the lowest of a byte first. */
export interface ReceivedBitmap {
  readonly block: string
  readonly bits: Uint8Array
}

/** Messages are short; a bitmap follows outside of its message. */
const maxMessageBytes = 512

const maxBitmapBytes = 2 ** 32

const bitmapEnding = 0x0123456789abcdefn

const what = 'the return path'

export class ReturnPath {
  readonly #window: Window
  readonly #requests: PageRequest[] = []
  readonly #bitmaps: ReceivedBitmap[] = []
  /** Called when anything has come, or the end. */
  #wake: () => void = () => {}
  #lastBlock = ''
  #failure: { readonly error: unknown } | undefined
  #shut: number | undefined
  #resumed = false
  /** Settles when nothing more comes; never rejects. */
  readonly ended: Promise<void>

  constructor(source: ByteSource) {
    this.#window = new Window(source)
    this.ended = this.#run().catch((error) => {
      this.#failure = { error }
      this.#wake()
    })
  }

  /** The oldest request that was not taken yet. */
  takeRequest(): PageRequest | undefined {
    this.#check()
    return this.#requests.shift()
  }

  get hasRequest(): boolean {
    return this.#requests.length > 0
  }

  /** Waits for QEMU's word that it needs nothing more, and returns its verdict: 0 is success. */
  async shut(): Promise<number> {
    while (this.#shut === undefined) await this.#more()
    return this.#shut
  }

  async bitmap(): Promise<ReceivedBitmap> {
    for (;;) {
      const bitmap = this.#bitmaps.shift()
      if (bitmap) return bitmap
      await this.#more()
    }
  }

  /** Waits until a recovery was accepted. */
  async resumed(): Promise<void> {
    while (!this.#resumed) await this.#more()
  }

  /** Settles when something new has come, or what was waited for before has. */
  async news(): Promise<void> {
    if (this.#requests.length === 0) await this.#more()
  }

  async #more(): Promise<void> {
    this.#check()
    const { resolve, promise } = deferred()
    this.#wake = resolve
    await promise
    this.#check()
  }

  #check(): void {
    if (this.#failure) throw this.#failure.error
  }

  async #run(): Promise<void> {
    const window = this.#window
    while (this.#shut === undefined) {
      if (window.length === 0 && !(await window.fill())) {
        throw new BlockError('CLOSED', 'QEMU has closed the connection before it had everything')
      }
      await window.need(4, what)
      const length = window.u16(2)
      if (length > maxMessageBytes) throw peerFault(`a message of ${length} bytes`)
      await window.need(4 + length, what)
      const type = window.u16(0)
      window.skip(4)
      const payload = window.take(length).slice()
      await this.#take(type, payload)
      this.#wake()
    }
  }

  async #take(type: number, payload: Uint8Array): Promise<void> {
    const view = viewOf(payload)
    switch (type) {
      case returnMessage.MIG_RP_MSG_SHUT:
        this.#shut = payload.length >= 4 ? view.getUint32(0) : 0
        return
      case returnMessage.MIG_RP_MSG_PONG:
      case returnMessage.MIG_RP_MSG_SWITCHOVER_ACK:
        return
      case returnMessage.MIG_RP_MSG_RESUME_ACK:
        this.#resumed = true
        return
      case returnMessage.MIG_RP_MSG_REQ_PAGES:
      case returnMessage.MIG_RP_MSG_REQ_PAGES_ID:
        return this.#request(type, payload)
      case returnMessage.MIG_RP_MSG_RECV_BITMAP:
        return await this.#receiveBitmap(nameAt(payload, 0))
      default:
        throw peerFault(`a message of the unknown type ${type}`)
    }
  }

  #request(type: number, payload: Uint8Array): void {
    if (payload.length < 12) throw peerFault('a request that is too short')
    const view = viewOf(payload)
    const offset = Number(view.getBigUint64(0))
    const length = view.getUint32(8)
    if (type === returnMessage.MIG_RP_MSG_REQ_PAGES_ID) this.#lastBlock = nameAt(payload, 12)
    if (this.#lastBlock === '') throw peerFault('a request for pages of no block')
    const cameAt = performance.now()
    this.#requests.push({ block: this.#lastBlock, offset, length, cameAt })
  }

  async #receiveBitmap(block: string): Promise<void> {
    const window = this.#window
    await window.need(8, what)
    const length = window.u64(0)
    if (length > maxBitmapBytes) throw peerFault(`a bitmap of ${length} bytes`)
    window.skip(8)
    await window.need(length + 8, what)
    const bits = window.take(length).slice()
    const ending = viewOf(window.take(8)).getBigUint64(0)
    if (ending !== bitmapEnding) throw peerFault('a bitmap that is cut off')
    this.#bitmaps.push({ block, bits })
  }
}

function deferred(): { resolve: () => void; promise: Promise<void> } {
  let resolve = () => {}
  const promise = new Promise<void>((done) => {
    resolve = done
  })
  return { resolve, promise }
}

function nameAt(payload: Uint8Array, at: number): string {
  const length = payload[at] ?? 0
  if (at + 1 + length > payload.length) throw peerFault('a name that is cut off')
  return Buffer.from(payload.subarray(at + 1, at + 1 + length)).toString('utf8')
}

function peerFault(text: string): BlockError {
  return new BlockError('PEER', `QEMU has sent ${text} on the return path`)
}
