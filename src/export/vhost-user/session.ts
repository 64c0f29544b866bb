/**
 * One client of an exported disk: what it has negotiated, the memory that it shares, its queues. Each message
 * is one method; those that take away what requests use wait until none is under way.
 */

import { isPowerOfTwo } from '../../bytes/range.ts'
import { viewOf } from '../../bytes/view.ts'
import type { EventSet, SharedMemorySys } from '../../sys/shared-memory.ts'
import {
  backendRequest,
  configHeader,
  logArea,
  maxTableRegions,
  memoryRegion,
  memoryTable,
  messageFlag,
  messageHeader,
  number,
  protocolFeature,
  request,
  singleRegionPadding,
  vhostFeature,
  vringAddress,
  vringFile,
  vringLogged,
  vringState,
} from '../../wire/vhost-user/messages.ts'
import { blockConfig, blockFeature } from '../../wire/virtio/block.ts'
import { ringFeature, wrap } from '../../wire/virtio/ring.ts'
import type { BlockDevice } from './block-device.ts'
import { DirtyLog } from './dirty-log.ts'
import { broken, closeAll, GuestMemory, isEvent } from './guest-memory.ts'
import { maxQueueSize, maxQueues, maxRegions } from './limits.ts'
import { Budget, type QueueContext, QueueService } from './queue-service.ts'
import type { TransferBuffers } from './transfer-buffers.ts'
import { RingCopies, Virtqueue } from './virtqueue.ts'
import { Vring } from './vring.ts'

/** Descriptors that came with a message; those that are not taken are closed. */
export interface Descriptors {
  /** The only one; throws `PEER` where there are more, or none. */
  take(): number
  /** All, which remain the message's. */
  readonly all: readonly number[]
}

/** What is answered: bytes, or that it is done. */
type Answer = Uint8Array | undefined

export interface SessionOptions {
  readonly sys: SharedMemorySys
  readonly device: BlockDevice
  readonly buffers: TransferBuffers
  /** The client has broken the protocol, or its guest has. */
  readonly fail: (error: unknown) => void
}

export class Session {
  /** Tells of kicks: `onEvents` is to be called. */
  readonly events: EventSet
  readonly #options: SessionOptions
  readonly #sys: SharedMemorySys
  readonly #memory: GuestMemory
  readonly #copies: RingCopies
  readonly #budget = new Budget()
  readonly #vrings: Vring[]
  readonly #due = new Set<Vring>()
  #features = 0n
  #protocolFeatures = 0n
  #log: DirtyLog | undefined
  #backend: number | undefined
  /** Called when nothing is under way. */
  #waiters: (() => void)[] = []
  #held = false
  #finishing = false
  #ended = false
  #scheduled = false

  constructor(options: SessionOptions) {
    const { sys, device } = options
    this.#options = options
    this.#sys = sys
    this.#memory = new GuestMemory(sys)
    this.#copies = new RingCopies(sys)
    this.events = sys.eventSet()
    const count = Math.min(device.options.queues, maxQueues)
    this.#vrings = Array.from({ length: count }, (_, index) => new Vring(index))
  }

  /** Deals with a message. Throws `PEER` where the client cannot be served any longer. */
  answer(type: number, payload: Uint8Array, fds: Descriptors): Answer | Promise<Answer> {
    const { device } = this.#options
    switch (type) {
      case request.getFeatures:
        return bits(device.features)
      case request.setFeatures:
        return this.#setFeatures(viewOf(payload).getBigUint64(0, true))
      case request.getProtocolFeatures:
        return bits(device.protocolFeatures)
      case request.setProtocolFeatures:
        this.#protocolFeatures = viewOf(payload).getBigUint64(0, true)
        return
      case request.setOwner:
      case request.resetOwner:
      case request.setLogFd:
        return
      case request.getQueueNum:
        return number.encode({ value: device.options.queues })
      case request.getMaxMemSlots:
        return number.encode({ value: maxRegions })
      case request.setMemTable:
        return this.#apart(() => this.#setMemory(payload, fds))
      case request.addMemReg:
        return this.#apart(() => this.#addMemory(payload, fds))
      case request.remMemReg:
        return this.#apart(() => this.#removeMemory(payload))
      case request.setLogBase:
        return this.#apart(() => this.#setLog(payload, fds))
      case request.setVringNum:
        return this.#apart(() => this.#setSize(vringState.decode(payload)))
      case request.setVringAddr:
        return this.#apart(() => this.#setPlace(vringAddress.decode(payload)))
      case request.setVringBase:
        return this.#apart(() => this.#setBase(vringState.decode(payload)))
      case request.getVringBase:
        return this.#apart(() => this.#stop(vringState.decode(payload).index))
      case request.setVringKick:
        return this.#setKick(payload, fds)
      case request.setVringCall:
        this.#vringOf(payload).setCall(this.#eventOf(payload, fds))
        return
      case request.setVringErr:
        this.#vringOf(payload).setError(this.#eventOf(payload, fds))
        return
      case request.setVringEnable:
        return this.#enable(vringState.decode(payload))
      case request.setBackendReqFd:
        closeAll([this.#backend])
        this.#backend = fds.take()
        return
      case request.getConfig:
        return this.#getConfig(payload)
      case request.setConfig:
        return this.#setConfig(payload)
      default:
        throw broken(`message ${type} is not known`)
    }
  }

  /** Queues have been kicked. */
  onEvents(): void {
    for (const index of this.events.take()) {
      const vring = this.#vrings[index]
      vring.kicked = true
      this.#run(vring)
    }
  }

  /** The configuration has changed: a client that can be told is told. */
  configChanged(): void {
    const can = this.#has(protocolFeature.config) && this.#has(protocolFeature.backendReq)
    if (this.#backend === undefined || !can) return
    const { configChange } = backendRequest
    const message = { request: configChange, flags: messageFlag.version, size: 0 }
    // Who does not read what he is told has no use for more of it.
    this.#sys.send(this.#backend, messageHeader.encode(message))
  }

  /** Something is under way. */
  get busy(): boolean {
    return this.#vrings.some(({ service }) => service?.busy)
  }

  /**
   * Begins nothing any more, and settles when nothing is under way: answered, where the client still is there to
   * take it.
   */
  async finish(): Promise<void> {
    this.#finishing = true
    await this.#idle()
  }

  /** Touches nothing of the client from now on. Settles when what was under way has ended. */
  async end(): Promise<void> {
    this.#ended = true
    await this.#idle()
    for (const vring of this.#vrings) vring.end(this.events)
    closeAll([this.#backend])
    this.#log?.[Symbol.dispose]()
    this.#memory.clear()
    this.events[Symbol.dispose]()
  }

  /** Tells the client that its queues are broken. */
  tellOfError(): void {
    for (const { error } of this.#vrings) if (error !== undefined) this.#sys.signal(error)
  }

  /** With nothing under way. */
  async #apart(change: () => Answer | Promise<Answer>): Promise<Answer> {
    this.#held = true
    try {
      await this.#idle()
      return await change()
    } finally {
      this.#held = false
      for (const vring of this.#vrings) this.#later(vring)
    }
  }

  async #idle(): Promise<void> {
    while (this.busy) {
      await new Promise<void>((resolve) => this.#waiters.push(resolve))
    }
  }

  #run(vring: Vring): void {
    const runs = vring.enabled && vring.kicked && vring.place && !this.#ended
    if (!runs && !vring.service?.busy) return
    try {
      vring.service ??= this.#begin(vring)
      vring.service.run()
    } catch (error) {
      this.#options.fail(error)
    }
  }

  #begin(vring: Vring): QueueService {
    const { size, next, place } = vring
    if (!place || size === 0) throw broken(`queue ${vring.index} has not been set up`)
    const eventIndex = this.#offers(ringFeature.eventIndex)
    const queue = new Virtqueue(this.#copies, this.#memory, place, { size, next, eventIndex })
    return new QueueService(queue, this.#context(vring), (bytes) => this.#sys.addressOf(bytes))
  }

  #context(vring: Vring): QueueContext {
    const session = this
    const { device, buffers, fail } = this.#options
    return {
      ...{ device, buffers, fail },
      memory: this.#memory,
      copies: this.#copies,
      budget: this.#budget,
      get log() {
        return session.#offers(vhostFeature.logAll) ? session.#log : undefined
      },
      get flushes() {
        return session.#offers(blockFeature.flush) || session.#offers(blockFeature.configWce)
      },
      get held() {
        return session.#held || session.#finishing || !vring.enabled
      },
      get ended() {
        return session.#ended
      },
      call: () => {
        if (vring.call !== undefined) session.#sys.signal(vring.call)
      },
      later: () => session.#later(vring),
    }
  }

  /** Runs a queue when everything that happens at this moment has happened. */
  #later(vring: Vring): void {
    this.#due.add(vring)
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      const due = [...this.#due]
      this.#due.clear()
      for (const each of due) this.#run(each)
      // What was left where it was for want of room.
      for (const each of this.#vrings) if (each.service?.queue.hasMore) this.#run(each)
      if (!this.busy) for (const waiter of this.#waiters.splice(0)) waiter()
    })
  }

  #has(bit: number): boolean {
    return (this.#protocolFeatures & (1n << BigInt(bit))) !== 0n
  }

  #offers(bit: number): boolean {
    return (this.#features & (1n << BigInt(bit))) !== 0n
  }

  #vring(index: number): Vring {
    const vring = this.#vrings[index]
    if (!vring) throw broken(`queue ${index} of ${this.#vrings.length}`)
    return vring
  }

  #vringOf(payload: Uint8Array): Vring {
    return this.#vring(payload[0])
  }

  /** The descriptor of an event, taken over; undefined where the message says that there is none. */
  #eventOf(payload: Uint8Array, fds: Descriptors): number | undefined {
    if ((viewOf(payload).getUint32(0, true) & vringFile.noDescriptor) !== 0) return undefined
    const [fd] = fds.all
    if (fd !== undefined && !isEvent(fd)) throw broken('a descriptor that is not of an event')
    return fds.take()
  }

  #setFeatures(features: bigint): undefined {
    const { device } = this.#options
    if ((features & ~device.features) !== 0n) throw broken('features that were not offered')
    if ((features & (1n << BigInt(ringFeature.version1))) === 0n) {
      throw broken('a driver of before virtio 1.0')
    }
    this.#features = features
    const enabled = !this.#offers(vhostFeature.protocolFeatures)
    for (const vring of this.#vrings) if (enabled) vring.enabled = true
  }

  async #setMemory(payload: Uint8Array, fds: Descriptors): Promise<undefined> {
    const { count } = memoryTable.decode(payload)
    if (count > maxTableRegions || fds.all.length !== count) {
      throw broken(`${count} regions of guest memory with ${fds.all.length} descriptors`)
    }
    for (const vring of this.#vrings) vring.forget()
    this.#memory.clear()
    for (const [index, fd] of fds.all.entries()) {
      const at = memoryTable.size + memoryRegion.size * index
      await this.#memory.add(memoryRegion.decode(payload, at), fd)
    }
  }

  async #addMemory(payload: Uint8Array, fds: Descriptors): Promise<undefined> {
    const [fd] = fds.all
    if (fds.all.length !== 1) throw broken('a region of guest memory takes one descriptor')
    await this.#memory.add(memoryRegion.decode(payload, singleRegionPadding), fd)
  }

  #removeMemory(payload: Uint8Array): undefined {
    for (const vring of this.#vrings) vring.forget()
    this.#memory.remove(memoryRegion.decode(payload, singleRegionPadding))
  }

  #setLog(payload: Uint8Array, fds: Descriptors): Answer {
    const { length, offset } = logArea.decode(payload)
    const [fd] = fds.all
    if (fds.all.length !== 1) throw broken('a log of dirty pages takes one descriptor')
    const log = new DirtyLog(this.#sys, fd, offset, length)
    this.#log?.[Symbol.dispose]()
    this.#log = log
    return number.encode({ value: length })
  }

  #setSize({ index, value }: { index: number; value: number }): undefined {
    const vring = this.#vring(index)
    if (value > maxQueueSize || (value !== 0 && !isPowerOfTwo(value))) {
      throw broken(`queue ${index} has ${value} entries`)
    }
    vring.forget()
    vring.size = value
  }

  #setBase({ index, value }: { index: number; value: number }): undefined {
    this.#vring(index).next = wrap(value)
  }

  #setPlace(address: ReturnType<typeof vringAddress.decode>): undefined {
    const vring = this.#vring(address.index)
    const { descriptors, available, used, flags } = address
    const log = (flags & vringLogged) === 0 ? undefined : address.log
    vring.forget()
    vring.place = { descriptors, available, used, log }
    // Looked at here, so that it is this message that fails.
    if (vring.size > 0) this.#begin(vring)
  }

  #setKick(payload: Uint8Array, fds: Descriptors): undefined {
    const vring = this.#vringOf(payload)
    const fd = this.#eventOf(payload, fds)
    if (fd === undefined)
      throw broken('a queue without a descriptor to kick, which is to be polled')
    vring.setKick(fd, this.events)
  }

  #enable({ index, value }: { index: number; value: number }): undefined {
    const vring = this.#vring(index)
    vring.enabled = value !== 0
    this.#run(vring)
  }

  #stop(index: number): Answer {
    const vring = this.#vring(index)
    const value = vring.next
    vring.stop(this.events)
    return vringState.encode({ index, value })
  }

  /** What there is not has a length of 0. */
  #getConfig(payload: Uint8Array): Answer {
    const { offset, length } = configHeader.decode(payload)
    if (offset + length > blockConfig.size) return new Uint8Array(0)
    const answer = payload.slice(0, configHeader.size + length)
    answer.set(this.#options.device.config().subarray(offset, offset + length), configHeader.size)
    return answer
  }

  #setConfig(payload: Uint8Array): undefined {
    const { offset, length } = configHeader.decode(payload)
    const bytes = payload.subarray(configHeader.size, configHeader.size + length)
    if (!this.#options.device.setConfig(offset, bytes)) {
      throw broken(`a change of ${length} bytes of the configuration at ${offset}`)
    }
  }
}

function bits(set: bigint): Uint8Array {
  const bytes = new Uint8Array(8)
  viewOf(bytes).setBigUint64(0, set, true)
  return bytes
}
