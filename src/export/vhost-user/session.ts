/**
 * One client of an exported disk: what it has negotiated, and the memory that it shares. A message is a
 * method; those that take away what requests use wait until none is under way.
 */
import { isPowerOfTwo } from '../../bytes/range.ts'
import { viewOf } from '../../bytes/view.ts'
import type { SharedMemorySys } from '../../sys/shared-memory.ts'
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
import { blockConfig } from '../../wire/virtio/block.ts'
import { ringFeature, wrap } from '../../wire/virtio/ring.ts'
import type { BlockDevice } from './block-device.ts'
import { DirtyLog } from './dirty-log.ts'
import { broken, closeAll, GuestMemory, isEvent } from './guest-memory.ts'
import { maxQueueSize, maxRegions } from './limits.ts'
import { Agreement, hasBit, Queues, type QueuesOptions } from './queues.ts'
import type { Vring } from './vring.ts'

/** Descriptors that came with a message; those that are not taken are closed. */
export interface Descriptors {
  /** The only one; throws `PEER` where there are more, or none. */
  take(): number
  /** All, which remain the message's. */
  readonly all: readonly number[]
}

/** What is answered: bytes, or that it is done. */
type Answer = Uint8Array | undefined

export class Session {
  readonly queues: Queues
  readonly #device: BlockDevice
  readonly #sys: SharedMemorySys
  readonly #memory: GuestMemory
  readonly #agreement = new Agreement()
  #protocolFeatures = 0n
  #backend: number | undefined

  constructor(options: QueuesOptions) {
    this.#device = options.device
    this.#sys = options.sys
    this.#memory = new GuestMemory(options.sys)
    this.queues = new Queues(options, this.#memory, this.#agreement)
  }

  /** Deals with a message. Throws `PEER` where the client cannot be served any longer. */
  answer(type: number, payload: Uint8Array, fds: Descriptors): Answer | Promise<Answer> {
    const device = this.#device
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
        return this.queues.apart(() => this.#setMemory(payload, fds))
      case request.addMemReg:
        return this.queues.apart(() => this.#addMemory(payload, fds))
      case request.remMemReg:
        return this.queues.apart(() => this.#removeMemory(payload))
      case request.setLogBase:
        return this.queues.apart(() => this.#setLog(payload, fds))
      case request.setVringNum:
        return this.queues.apart(() => this.#setSize(vringState.decode(payload)))
      case request.setVringAddr:
        return this.queues.apart(() => this.#setPlace(vringAddress.decode(payload)))
      case request.setVringBase:
        return this.queues.apart(() => this.#setBase(vringState.decode(payload)))
      case request.getVringBase:
        return this.queues.apart(() => this.#stop(vringState.decode(payload).index))
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

  /** The configuration has changed: a client that can be told is told. */
  configChanged(): void {
    const can = this.#has(protocolFeature.config) && this.#has(protocolFeature.backendReq)
    if (this.#backend === undefined || !can) return
    const { configChange } = backendRequest
    const message = { request: configChange, flags: messageFlag.version, size: 0 }
    // Who does not read what he is told has no use for more of it.
    this.#sys.send(this.#backend, messageHeader.encode(message))
  }

  /** Touches nothing of the client from now on. Settles when what was under way has ended. */
  async end(): Promise<void> {
    await this.queues.end()
    closeAll([this.#backend])
    this.#agreement.log?.[Symbol.dispose]()
    this.#memory.clear()
  }

  /** Tells the client that its queues are broken. */
  tellOfError(): void {
    for (const { error } of this.queues.all) if (error !== undefined) this.#sys.signal(error)
  }

  #has(bit: number): boolean {
    return hasBit(this.#protocolFeatures, bit)
  }

  #vringOf(payload: Uint8Array): Vring {
    return this.queues.at(payload[0])
  }

  /** The descriptor of an event, taken over; undefined where the message says that there is none. */
  #eventOf(payload: Uint8Array, fds: Descriptors): number | undefined {
    if ((viewOf(payload).getUint32(0, true) & vringFile.noDescriptor) !== 0) return undefined
    const [fd] = fds.all
    if (fd !== undefined && !isEvent(fd)) throw broken('a descriptor that is not of an event')
    return fds.take()
  }

  #setFeatures(features: bigint): undefined {
    const device = this.#device
    if ((features & ~device.features) !== 0n) throw broken('features that were not offered')
    if (!hasBit(features, ringFeature.version1)) {
      throw broken('a driver of before virtio 1.0')
    }
    this.#agreement.features = features
    const enabled = !this.#agreement.knows(vhostFeature.protocolFeatures)
    for (const vring of this.queues.all) if (enabled) vring.enabled = true
  }

  async #setMemory(payload: Uint8Array, fds: Descriptors): Promise<undefined> {
    const { count } = memoryTable.decode(payload)
    if (count > maxTableRegions || fds.all.length !== count) {
      throw broken(`${count} regions of guest memory with ${fds.all.length} descriptors`)
    }
    for (const vring of this.queues.all) vring.forget()
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
    for (const vring of this.queues.all) vring.forget()
    this.#memory.remove(memoryRegion.decode(payload, singleRegionPadding))
  }

  #setLog(payload: Uint8Array, fds: Descriptors): Answer {
    const { length, offset } = logArea.decode(payload)
    const [fd] = fds.all
    if (fds.all.length !== 1) throw broken('a log of dirty pages takes one descriptor')
    const log = new DirtyLog(this.#sys, fd, offset, length)
    this.#agreement.log?.[Symbol.dispose]()
    this.#agreement.log = log
    return number.encode({ value: length })
  }

  #setSize({ index, value }: { index: number; value: number }): undefined {
    const vring = this.queues.at(index)
    if (value > maxQueueSize || (value !== 0 && !isPowerOfTwo(value))) {
      throw broken(`queue ${index} has ${value} entries`)
    }
    vring.forget()
    vring.size = value
  }

  #setBase({ index, value }: { index: number; value: number }): undefined {
    this.queues.at(index).next = wrap(value)
  }

  #setPlace(address: ReturnType<typeof vringAddress.decode>): undefined {
    const vring = this.queues.at(address.index)
    const { descriptors, available, used, flags } = address
    const log = (flags & vringLogged) === 0 ? undefined : address.log
    vring.forget()
    vring.place = { descriptors, available, used, log }
    // Looked at here, so that it is this message that fails.
    if (vring.size > 0) this.queues.begin(vring)
  }

  #setKick(payload: Uint8Array, fds: Descriptors): undefined {
    const vring = this.#vringOf(payload)
    const fd = this.#eventOf(payload, fds)
    if (fd === undefined)
      throw broken('a queue without a descriptor to kick, which is to be polled')
    vring.setKick(fd, this.queues.events)
  }

  #enable({ index, value }: { index: number; value: number }): undefined {
    const vring = this.queues.at(index)
    vring.enabled = value !== 0
    this.queues.run(vring)
  }

  #stop(index: number): Answer {
    const vring = this.queues.at(index)
    const value = vring.next
    vring.stop(this.queues.events)
    return vringState.encode({ index, value })
  }

  /** What there is not has a length of 0. */
  #getConfig(payload: Uint8Array): Answer {
    const { offset, length } = configHeader.decode(payload)
    if (offset + length > blockConfig.size) return new Uint8Array(0)
    const answer = payload.slice(0, configHeader.size + length)
    answer.set(this.#device.config().subarray(offset, offset + length), configHeader.size)
    return answer
  }

  #setConfig(payload: Uint8Array): undefined {
    const { offset, length } = configHeader.decode(payload)
    const bytes = payload.subarray(configHeader.size, configHeader.size + length)
    if (!this.#device.setConfig(offset, bytes)) {
      throw broken(`a change of ${length} bytes of the configuration at ${offset}`)
    }
  }
}

function bits(set: bigint): Uint8Array {
  const bytes = new Uint8Array(8)
  viewOf(bytes).setBigUint64(0, set, true)
  return bytes
}
