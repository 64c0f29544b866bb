/**
 * The queues of one client: which of them run, whose turn it is, and how long to wait until none has anything
 * under way, so that what they work with can be changed.
 */
import type { EventSet, SharedMemorySys } from '../../sys/shared-memory.ts'
import { vhostFeature } from '../../wire/vhost-user/messages.ts'
import { blockFeature } from '../../wire/virtio/block.ts'
import { ringFeature } from '../../wire/virtio/ring.ts'
import type { BlockDevice } from './block-device.ts'
import type { DirtyLog } from './dirty-log.ts'
import { broken, type GuestMemory } from './guest-memory.ts'
import { maxQueues } from './limits.ts'
import { Budget, type QueueContext, QueueService } from './queue-service.ts'
import type { TransferBuffers } from './transfer-buffers.ts'
import { RingCopies, Virtqueue } from './virtqueue.ts'
import { Vring } from './vring.ts'

export interface QueuesOptions {
  readonly sys: SharedMemorySys
  readonly device: BlockDevice
  readonly buffers: TransferBuffers
  /** The client has broken the protocol, or its guest has. */
  readonly fail: (error: unknown) => void
}

/** What a client has agreed on, and may change. */
export class Agreement {
  /** A set of bits. */
  features = 0n
  /** Where dirty pages are to be logged while a feature says so. */
  log: DirtyLog | undefined

  knows(bit: number): boolean {
    return hasBit(this.features, bit)
  }
}

export function hasBit(set: bigint, bit: number): boolean {
  return (set & (1n << BigInt(bit))) !== 0n
}

export class Queues {
  /** Tells of kicks: `onEvents` is to be called. */
  readonly events: EventSet
  readonly all: readonly Vring[]
  readonly #options: QueuesOptions
  readonly #memory: GuestMemory
  readonly #agreement: Agreement
  readonly #copies: RingCopies
  readonly #budget = new Budget()
  /** Those that have something to do when everything that happens at this moment has happened. */
  readonly #due = new Set<Vring>()
  #scheduled = false
  /** Called when nothing is under way. */
  readonly #waiters: (() => void)[] = []
  /** Nothing is begun: for a moment, or for ever. */
  #held = false
  #finishing = false
  /** Nothing of the client is touched any more. */
  #ended = false

  constructor(options: QueuesOptions, memory: GuestMemory, agreement: Agreement) {
    const { sys, device } = options
    this.#options = options
    this.#memory = memory
    this.#agreement = agreement
    this.#copies = new RingCopies(sys)
    this.events = sys.eventSet()
    const count = Math.min(device.options.queues, maxQueues)
    this.all = Array.from({ length: count }, (_, index) => new Vring(index))
  }

  /** Throws `PEER` where there is none. */
  at(index: number): Vring {
    const vring = this.all[index]
    if (!vring) throw broken(`queue ${index} of ${this.all.length}`)
    return vring
  }

  /** Queues have been kicked. */
  onEvents(): void {
    for (const index of this.events.take()) {
      const vring = this.all[index]
      vring.kicked = true
      this.run(vring)
    }
  }

  /** Lets a queue do what there is to do, if it runs. */
  run(vring: Vring): void {
    const runs = vring.enabled && vring.kicked && vring.place && !this.#ended
    // What is held may be about to get other memory.
    if ((!runs || this.#held) && !vring.service?.busy) return
    try {
      vring.service ??= this.begin(vring)
      vring.service.run()
    } catch (error) {
      this.#options.fail(error)
    }
  }

  /** A queue as it has been set up. Throws `PEER` when it is not in guest memory. */
  begin(vring: Vring): QueueService {
    const { size, next, place } = vring
    if (!place || size === 0) throw broken(`queue ${vring.index} has not been set up`)
    const { sys } = this.#options
    const eventIndex = this.#agreement.knows(ringFeature.eventIndex)
    const queue = new Virtqueue(this.#copies, this.#memory, place, { size, next, eventIndex })
    return new QueueService(queue, this.#context(vring), (bytes) => sys.addressOf(bytes))
  }

  /** Makes a change with nothing under way. */
  async apart<T>(change: () => T | Promise<T>): Promise<T> {
    this.#held = true
    try {
      await this.#idle()
      return await change()
    } finally {
      this.#held = false
      for (const vring of this.all) this.#later(vring)
    }
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
    for (const vring of this.all) vring.end(this.events)
    this.events[Symbol.dispose]()
  }

  get #busy(): boolean {
    return this.all.some(({ service }) => service?.busy)
  }

  async #idle(): Promise<void> {
    while (this.#busy) await new Promise<void>((resolve) => this.#waiters.push(resolve))
  }

  #later(vring: Vring): void {
    this.#due.add(vring)
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => this.#runDue())
  }

  #runDue(): void {
    this.#scheduled = false
    const due = [...this.#due]
    this.#due.clear()
    for (const vring of due) this.run(vring)
    // What was left where it was for want of room.
    for (const vring of this.all) if (vring.service?.queue.hasMore) this.run(vring)
    if (!this.#busy) for (const waiter of this.#waiters.splice(0)) waiter()
  }

  #context(vring: Vring): QueueContext {
    const { device, buffers, fail, sys } = this.#options
    const agreement = this.#agreement
    const isHeld = () => this.#held || this.#finishing || !vring.enabled
    const hasEnded = () => this.#ended
    return {
      ...{ device, buffers, fail },
      memory: this.#memory,
      copies: this.#copies,
      budget: this.#budget,
      get log() {
        return agreement.knows(vhostFeature.logAll) ? agreement.log : undefined
      },
      get flushes() {
        return agreement.knows(blockFeature.flush) || agreement.knows(blockFeature.configWce)
      },
      get held() {
        return isHeld()
      },
      get ended() {
        return hasEnded()
      },
      call: () => {
        if (vring.call !== undefined) sys.signal(vring.call)
      },
      later: () => this.#later(vring),
    }
  }
}
