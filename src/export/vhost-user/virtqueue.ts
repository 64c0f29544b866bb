/**
 * A split virtqueue in guest memory, as its device sees it. Rings and descriptors are copied whole, in one
 * system call a batch, and looked at here, where nobody changes them.
 */
import type { CopyList, SharedMemorySys } from '../../sys/shared-memory.ts'
import {
  availNoInterrupt,
  availRing,
  descriptor,
  passesEvent,
  usedRing,
  wrap,
} from '../../wire/virtio/ring.ts'
import { type Chain, DescriptorTable } from './chain.ts'
import { broken, type GuestMemory } from './guest-memory.ts'
import { maxBatch, maxBatchDescriptors, maxIndirectBytes, maxQueueSize } from './limits.ts'

/** Where the parts of a queue lie in the client. */
export interface QueuePlace {
  readonly descriptors: number
  readonly available: number
  readonly used: number
  /** Where the used ring is in the log of dirty pages, if it is logged. */
  readonly log?: number
}

/** Layout of what the queues of a client share: copies of one queue's rings at a time. */
const layout = (() => {
  const ring = 16
  const table = ring + availRing.entry * maxQueueSize + 16
  const indirect = table + descriptor.size * maxQueueSize
  const used = indirect + maxIndirectBytes
  const indices = used + usedRing.entry * maxQueueSize
  return { index: 0, ring, table, indirect, used, indices, size: indices + 16 }
})()

/** Memory in which queues look at copies of their rings. */
export class RingCopies {
  readonly bytes = new Uint8Array(new ArrayBuffer(layout.size))
  readonly view = new DataView(this.bytes.buffer)
  readonly address: number
  readonly list: CopyList

  constructor(sys: SharedMemorySys) {
    this.address = sys.addressOf(this.bytes)
    this.list = sys.copyList()
  }
}

/** What the driver has said of being told. */
interface Wishes {
  readonly flags: number
  readonly event: number
}

export class Virtqueue {
  readonly size: number
  /** Of guest memory that the device has written to in the used ring. */
  readonly place: QueuePlace
  /** Index of the next entry of the available ring. */
  next: number
  readonly #copies: RingCopies
  readonly #memory: GuestMemory
  readonly #eventIndex: boolean
  readonly #addresses: { descriptors: number; available: number; used: number }
  /** Where the available ring ended when it was looked at last. */
  #available: number
  #used: number
  /** What was the used index when the driver was told last, or need not be. */
  #told: number
  /** The request that the driver knows we want to hear of. */
  #event: number | undefined
  #wishes: Wishes = { flags: 0, event: 0 }

  /** Throws `PEER` when it does not lie in memory. */
  constructor(
    copies: RingCopies,
    memory: GuestMemory,
    place: QueuePlace,
    { size, next, eventIndex }: { size: number; next: number; eventIndex: boolean },
  ) {
    const at = (user: number, length: number, alignment: number, what: string) => {
      const address = user % alignment === 0 ? memory.addressOf(user, length) : undefined
      if (address === undefined)
        throw broken(`the ${what} of a queue is at ${user}: no guest memory`)
      return address
    }
    this.size = size
    this.place = place
    this.next = next
    this.#available = next
    this.#copies = copies
    this.#memory = memory
    this.#eventIndex = eventIndex
    this.#addresses = {
      descriptors: at(place.descriptors, descriptor.size * size, 1, 'table'),
      available: at(
        place.available,
        availRing.ring + availRing.entry * size + 2,
        1,
        'available ring',
      ),
      used: at(place.used, usedRing.ring + usedRing.entry * size + 2, 1, 'used ring'),
    }
    copies.list.add(copies.address + layout.index, this.#addresses.used, 4)
    this.#read()
    this.#used = copies.view.getUint16(layout.index + usedRing.index, true)
    this.#told = this.#used
  }

  /** Bytes of the used ring, with what the device tells behind it. */
  get usedLength(): number {
    return usedRing.ring + usedRing.entry * this.size + 2
  }

  /**
   * The requests that are there, in their order, `most` at most. They are taken once `accept` is called. Throws
   * `PEER` when the queue is not as it should be, or not in memory any more.
   */
  peek(most: number): readonly Chain[] {
    const { view, list, bytes, address } = this.#copies
    const { available, descriptors } = this.#addresses
    list.add(address + layout.index, available, 4)
    // The index is read before what it tells of; so they are two pieces, with a gap on our side.
    const ringLength = availRing.entry * this.size + 2
    list.add(address + layout.ring, available + availRing.ring, ringLength)
    list.add(address + layout.table, descriptors, descriptor.size * this.size)
    this.#read()
    const event = view.getUint16(layout.ring + availRing.entry * this.size, true)
    this.#wishes = { flags: view.getUint16(layout.index, true), event }
    this.#available = view.getUint16(layout.index + availRing.index, true)
    const count = wrap(this.#available - this.next)
    if (count > this.size) throw broken(`a ring of ${this.size} entries has ${count} new ones`)
    if (count === 0 || most <= 0) return []
    const heads: number[] = []
    for (let index = 0; index < Math.min(count, most, maxBatch); index++) {
      const entry = wrap(this.next + index) % this.size
      heads.push(view.getUint16(layout.ring + availRing.entry * entry, true))
    }
    return this.#chains(heads, new DescriptorTable(bytes, layout.table, this.size))
  }

  /** Whether there is more than what has been taken; as of the last `peek`. */
  get hasMore(): boolean {
    return this.#available !== this.next
  }

  /** So many of the requests that `peek` has shown are dealt with. */
  accept(count: number): void {
    this.next = wrap(this.next + count)
  }

  /**
   * Adds to a list of copies what tells the driver of requests that are done: after what they have written.
   * At most as many as the queue is long.
   */
  listUsed(done: readonly { readonly head: number; readonly written: number }[]): void {
    const { view, list, address } = this.#copies
    const { used } = this.#addresses
    for (const { head, written } of done) {
      const at = layout.used + usedRing.entry * (this.#used % this.size)
      view.setUint32(at, head, true)
      view.setUint32(at + 4, written, true)
      const entry = usedRing.ring + usedRing.entry * (this.#used % this.size)
      list.add(address + at, used + entry, usedRing.entry)
      this.#used = wrap(this.#used + 1)
    }
    // Wrong indices would be worse than none: the entries come first, see `CopyList`.
    view.setUint16(layout.indices, this.#used, true)
    this.listEvent()
    list.add(address + layout.indices, used + usedRing.index, 2)
  }

  /** Whether the driver would not tell of its next request, for it does not know that we want to hear of it. */
  get isDeaf(): boolean {
    return this.#eventIndex && this.#event !== this.next
  }

  /** Adds that the device wants to be told of the next request. */
  listEvent(): void {
    if (!this.#eventIndex) return
    this.#event = this.next
    const { view, list, address } = this.#copies
    view.setUint16(layout.indices + 4, this.next, true)
    const end = usedRing.ring + usedRing.entry * this.size
    list.add(address + layout.indices + 4, this.#addresses.used + end, 2)
  }

  /** Whether the driver wants to be told of what it has not been told of; it is, from now on. As of the last `peek`. */
  takeCall(): boolean {
    const [before, after] = [this.#told, this.#used]
    this.#told = after
    if (before === after) return false
    const { flags, event } = this.#wishes
    if (this.#eventIndex) return passesEvent(event, after, before)
    return (flags & availNoInterrupt) === 0
  }

  /** Begins with those that have tables of their own, which are read together. */
  #chains(heads: readonly number[], table: DescriptorTable): readonly Chain[] {
    const { list, bytes, address } = this.#copies
    const places: (readonly [start: number, count: number] | undefined)[] = []
    let room = layout.indirect
    for (const head of heads) {
      const indirect = table.indirect(head)
      if (!indirect) {
        places.push(undefined)
        continue
      }
      const { guest, length } = indirect
      if (length > descriptor.size * maxQueueSize)
        throw broken(`an indirect table of ${length} bytes`)
      if (room + length > layout.used) break
      if (!this.#memory.has(guest, length)) throw broken('an indirect table is not in guest memory')
      this.#memory.list(list, address + room, guest, length)
      places.push([room, length / descriptor.size])
      room += length
    }
    if (room > layout.indirect) this.#read()
    const chains: Chain[] = []
    let descriptors = 0
    for (const [index, place] of places.entries()) {
      const head = heads[index]
      const own = place && new DescriptorTable(bytes, ...place)
      const chain = own ? own.chain(0, head, this.#memory) : table.chain(head, head, this.#memory)
      chains.push(chain)
      descriptors += chain.readable.length + chain.writable.length
      if (descriptors >= maxBatchDescriptors) break
    }
    return chains
  }

  #read(): void {
    if (!this.#copies.list.read()) throw broken('guest memory of a queue is gone')
  }
}
