/**
 * Requests of one queue: taken from its ring in batches, done in any order, and answered in batches. For a
 * batch it takes one system call to look at rings and descriptors, one to fetch headers and what is written,
 * one to answer with what was read.
 */
import type { Completion } from '../../block/layer.ts'
import { BlockError } from '../../errors.ts'
import {
  barrier,
  idLength,
  requestHeader,
  requestStatus,
  requestType,
  sectorSize,
} from '../../wire/virtio/block.ts'
import { type BlockDevice, deviceId, statusOf } from './block-device.ts'
import { type Chain, partsOf } from './chain.ts'
import type { DirtyLog } from './dirty-log.ts'
import { broken, type GuestMemory } from './guest-memory.ts'
import {
  maxBatch,
  maxBytesInFlight,
  maxRequestsInFlight,
  maxTurnMs,
  pieceLength,
} from './limits.ts'
import { type TransferBuffer, TransferBuffers } from './transfer-buffers.ts'
import type { RingCopies, Virtqueue } from './virtqueue.ts'

/** What queues of a client have in common. */
export interface QueueContext {
  readonly device: BlockDevice
  readonly memory: GuestMemory
  readonly copies: RingCopies
  readonly buffers: TransferBuffers
  readonly budget: Budget
  /** Pages that are written to, while that is asked for. */
  readonly log: DirtyLog | undefined
  /** Whether the guest knows how to flush. */
  readonly flushes: boolean
  /** New requests are left where they are. */
  readonly held: boolean
  /** Nothing of the guest may be touched any more. */
  readonly ended: boolean
  /** Tells the driver that there are answers. */
  call(): void
  /** The guest or the client has broken the protocol. */
  fail(error: unknown): void
  /** Requests of the queue have been done meanwhile: `run` it, soon. */
  later(): void
}

/** What requests that are under way may take together. */
export class Budget {
  requests = 0
  bytes = 0
}

/** A request, which stays one until it is answered. */
interface Request {
  readonly chain: Chain
  readonly head: number
  /** Bytes that the device may write: told as written, whatever came of it, as QEMU does. */
  readonly written: number
  type: number
  sector: number
  readonly buffer: TransferBuffer | undefined
  /** Bytes of the buffer that the guest gets. */
  answer: number
  status: number
}

/** Room for the headers of a batch, and a byte of each status. */
const scratch = { headers: 0, statuses: requestHeader.size * maxBatch, size: 0 }
scratch.size = scratch.statuses + 256

export class QueueService {
  readonly queue: Virtqueue
  readonly #context: QueueContext
  readonly #scratch = new Uint8Array(new ArrayBuffer(scratch.size))
  readonly #scratchView = new DataView(this.#scratch.buffer)
  readonly #scratchAddress: number
  readonly #done: Request[] = []
  /** Requests whose end has to be waited for. */
  #waiting = 0

  constructor(queue: Virtqueue, context: QueueContext, addressOf: (bytes: Uint8Array) => number) {
    this.queue = queue
    this.#context = context
    this.#scratchAddress = addressOf(this.#scratch)
    for (const status of Object.values(requestStatus)) {
      this.#scratch[scratch.statuses + status] = status
    }
  }

  /** Whether requests are under way, or not answered yet. */
  get busy(): boolean {
    return this.#waiting > 0 || (this.#done.length > 0 && !this.#context.ended)
  }

  /** Answers what is done, and begins what is there. Never throws. */
  run(): void {
    const { queue } = this
    const context = this.#context
    try {
      const end = performance.now() + maxTurnMs
      while (!context.ended) {
        this.#answer()
        const room = context.held ? 0 : maxRequestsInFlight - context.budget.requests
        const chains = queue.peek(room)
        if (queue.takeCall()) context.call()
        if (chains.length === 0) {
          if (!queue.isDeaf || room <= 0) return
          queue.listEvent()
          this.#write()
        } else {
          if (!this.#begin(chains)) return
          if (performance.now() < end) continue
          // What is done is answered then.
          context.later()
          return
        }
      }
    } catch (error) {
      context.fail(error)
    }
  }

  /** As many as there is room for; false if there is none. */
  #begin(chains: readonly Chain[]): boolean {
    const { budget, buffers, copies } = this.#context
    const requests: Request[] = []
    let taken = 0
    for (const chain of chains) {
      const good = chain.readableLength >= requestHeader.size && chain.writableLength > 0
      const length = good ? bufferLength(chain) : 0
      const whole = length === 0 ? 0 : TransferBuffers.lengthFor(length)
      if (budget.requests > 0 && budget.bytes + whole > maxBytesInFlight) break
      taken++
      // What is no request is not answered, as in QEMU: there may be no place for a status.
      if (!good) continue
      budget.requests++
      budget.bytes += whole
      const buffer = length === 0 ? undefined : buffers.take(length)
      const { head, writableLength: written, readableLength } = chain
      const at = this.#scratchAddress + requestHeader.size * requests.length
      this.#list(chain.readable, at, 0, requestHeader.size)
      const data = Math.min(readableLength - requestHeader.size, pieceLength)
      if (buffer) this.#list(chain.readable, buffer.address, requestHeader.size, data)
      requests.push({ chain, head, written, type: 0, sector: 0, buffer, answer: 0, status: 0 })
    }
    this.queue.accept(taken)
    if (requests.length > 0 && !copies.list.read()) throw gone()
    for (const [index, request] of requests.entries()) {
      this.#readHeader(request, requestHeader.size * index)
      this.#start(request)
    }
    return taken > 0
  }

  #readHeader(request: Request, at: number): void {
    const view = this.#scratchView
    const low = view.getUint32(at + requestHeader.sector, true)
    const high = view.getUint32(at + requestHeader.sector + 4, true)
    const type = view.getUint32(at + requestHeader.type, true)
    request.type = type >= barrier ? type - barrier : type
    request.sector = high * 2 ** 32 + low
  }

  #start(request: Request): void {
    let doing: Completion | undefined
    try {
      doing = this.#do(request)
    } catch (error) {
      this.#failed(request, error)
    }
    if (!(doing instanceof Promise)) {
      this.#done.push(request)
      return
    }
    this.#waiting++
    void doing
      .catch((error) => this.#failed(request, error))
      .then(() => {
        this.#waiting--
        this.#done.push(request)
        this.#context.later()
      })
  }

  #failed(request: Request, error: unknown): void {
    request.answer = 0
    request.status = statusOf(error)
    // Not the disk's fault.
    if (error instanceof BlockError && error.code === 'PEER') this.#context.fail(error)
  }

  #do(request: Request): Completion {
    const { chain, type, buffer } = request
    const room = chain.writableLength - 1
    const given = chain.readableLength - requestHeader.size
    switch (type) {
      case requestType.in:
        return this.#transfer(request, room, false)
      case requestType.out:
        return this.#transfer(request, given, true)
      case requestType.flush:
        return this.#context.device.flush()
      case requestType.getId: {
        const id = deviceId.subarray(0, Math.min(room, idLength))
        buffer?.bytes.set(id)
        request.answer = id.length
        return
      }
      case requestType.discard:
      case requestType.writeZeroes: {
        const bytes = buffer?.bytes.subarray(0, given) ?? new Uint8Array(0)
        const zero = type === requestType.writeZeroes
        return this.#context.device.clear(bytes, zero, this.#context.flushes).then((status) => {
          request.status = status
        })
      }
      default:
        request.status = requestStatus.unsupported
    }
  }

  #transfer(request: Request, length: number, writes: boolean): Completion {
    const { device, flushes } = this.#context
    const { sector, buffer } = request
    if ((writes && !device.options.writable) || !device.has(sector, length)) {
      request.status = requestStatus.ioError
      return
    }
    if (!buffer || length === 0) return
    if (length > pieceLength) return this.#inPieces(request, length, writes)
    const bytes = buffer.bytes.subarray(0, length)
    if (writes) return device.write(sector * sectorSize, bytes, flushes)
    request.answer = length
    return device.read(sector * sectorSize, bytes)
  }

  /** The last piece of what is read goes with the answer. */
  async #inPieces(request: Request, length: number, writes: boolean): Promise<void> {
    const { device, flushes } = this.#context
    const { sector, chain } = request
    const buffer = request.buffer as TransferBuffer
    for (let at = 0; at < length && !this.#context.ended; at += pieceLength) {
      const bytes = buffer.bytes.subarray(0, Math.min(pieceLength, length - at))
      const offset = sector * sectorSize + at
      if (writes) {
        if (at > 0) {
          this.#list(chain.readable, buffer.address, requestHeader.size + at, bytes.length)
          if (!this.#context.copies.list.read()) throw gone()
        }
        await device.write(offset, bytes, flushes)
      } else {
        await device.read(offset, bytes)
        if (this.#context.ended) return
        this.#list(chain.writable, buffer.address, at, bytes.length)
        this.#write()
        this.#mark(chain, at, bytes.length)
      }
    }
  }

  /** Tells the guest what has been done. */
  #answer(): void {
    if (this.#done.length === 0) return
    const { budget, buffers, log } = this.#context
    const requests = this.#done.splice(0, this.queue.size)
    for (const { chain, buffer, answer, status } of requests) {
      if (buffer && answer > 0) this.#list(chain.writable, buffer.address, 0, answer)
      const cell = this.#scratchAddress + scratch.statuses + status
      this.#list(chain.writable, cell, chain.writableLength - 1, 1)
    }
    this.queue.listUsed(requests)
    this.#write()
    for (const { chain, buffer, answer } of requests) {
      if (log) this.#mark(chain, 0, answer)
      if (log) this.#mark(chain, chain.writableLength - 1, 1)
      budget.requests--
      if (!buffer) continue
      budget.bytes -= buffer.bytes.length
      buffers.giveBack(buffer)
    }
    const { log: place } = this.queue.place
    if (log && place !== undefined) log.mark(place, this.queue.usedLength)
  }

  #mark(chain: Chain, offset: number, length: number): void {
    const { log } = this.#context
    if (!log) return
    for (const part of partsOf(chain.writable, offset, length)) log.mark(part.guest, part.length)
  }

  #list(parts: Chain['readable'], address: number, offset: number, length: number): void {
    const { memory, copies } = this.#context
    let local = address
    for (const part of partsOf(parts, offset, length)) {
      memory.list(copies.list, local, part.guest, part.length)
      local += part.length
    }
  }

  #write(): void {
    if (!this.#context.copies.list.write()) throw gone()
  }
}

/** Of the buffer that a request needs. */
function bufferLength({ readableLength, writableLength }: Chain): number {
  return Math.min(Math.max(readableLength - requestHeader.size, writableLength - 1), pieceLength)
}

function gone(): BlockError {
  return broken('guest memory of a request is gone')
}
