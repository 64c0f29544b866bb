/**
 * Filling new clusters: the data of a write, and around it what the guest has seen there so far, in
 * as few and as large requests as possible. Where tables and page cache answer at once, so does
 * this: no promise is made for a small write into a new cluster.
 */
import { SpareBuffers } from '../bytes/spare-buffers.ts'
import { isZero } from '../bytes/zero.ts'
import type { Allocation, ClusterMap } from './cluster-map.ts'
import type { ClusterView } from './cluster-view.ts'
import type { Completion, HostRange, Io, WriteIo } from './layer.ts'

/** Copy-on-write surroundings up to this size are joined with the data into one write. */
const maxJoinedWrite = 512 * 1024

export class ClusterFill {
  readonly #map: ClusterMap
  /** What the guest sees at present. */
  readonly #view: ClusterView
  /** For joining data with its surroundings. */
  readonly #spare = new SpareBuffers()

  constructor(map: ClusterMap, view: ClusterView) {
    this.#map = map
    this.#view = view
  }

  /** Writes `data`, which lies in `allocation.guest`, and what surrounds it there. */
  fill(allocation: Allocation, offset: number, data: Uint8Array, io: WriteIo): Completion {
    const { guest, host } = allocation
    if (this.#map.debugEvent || host.layer.debugEvent) {
      return this.#fillInSteps(allocation, offset, data, io)
    }
    const before = offset - guest.offset
    if (this.#isAlone(allocation, offset, data.length, io)) {
      if (data.length < guest.length) allocation.leftOut?.()
      return host.layer.write(host.offset + before, data, io)
    }
    const small = guest.length <= maxJoinedWrite && data.length < guest.length / 2
    if (!small) return this.#fillInSteps(allocation, offset, data, io)
    return this.#joinSmall(allocation, before, data, io)
  }

  /** Whether nothing around the data has to be written. */
  #isAlone({ guest, zeroed }: Allocation, offset: number, length: number, io: Io): boolean {
    const before = offset - guest.offset
    const after = guest.length - before - length
    if (before === 0 && after === 0) return true
    if (!zeroed) return false
    return (
      this.#view.isBlank(guest.offset, before, io) && this.#view.isBlank(offset + length, after, io)
    )
  }

  /** Reading what is overwritten too is cheaper than reading twice. */
  #joinSmall(allocation: Allocation, before: number, data: Uint8Array, io: WriteIo): Completion {
    const { guest } = allocation
    const joined = this.#spare.take(guest.length)
    let done: Completion
    try {
      const read = this.#view.read(guest.offset, joined, io)
      done =
        read instanceof Promise
          ? read.then(() => writeJoined(joined, allocation, before, data, io))
          : writeJoined(joined, allocation, before, data, io)
    } catch (error) {
      this.#spare.giveBack(joined)
      throw error
    }
    if (done instanceof Promise) return done.finally(() => this.#spare.giveBack(joined))
    this.#spare.giveBack(joined)
  }

  async #fillInSteps(
    allocation: Allocation,
    offset: number,
    data: Uint8Array,
    io: WriteIo,
  ): Promise<void> {
    const { guest, host } = allocation
    const before = offset - guest.offset
    const dataEnd = offset + data.length
    const after = guest.offset + guest.length - dataEnd
    if (this.#isAlone(allocation, offset, data.length, io)) {
      if (data.length < guest.length) allocation.leftOut?.()
      await host.layer.debugEvent?.('write_aio')
      await host.layer.write(host.offset + before, data, io)
    } else if (guest.length <= maxJoinedWrite) {
      await this.#joinInSteps(allocation, before, data, io)
    } else {
      await this.#writeAround(guest.offset, host, host.offset, before, io)
      await host.layer.debugEvent?.('write_aio')
      await host.layer.write(host.offset + before, data, io)
      await this.#writeAround(dataEnd, host, host.offset + before + data.length, after, io)
    }
  }

  async #joinInSteps(
    allocation: Allocation,
    before: number,
    data: Uint8Array,
    io: WriteIo,
  ): Promise<void> {
    const { guest, host } = allocation
    const joined = this.#spare.take(guest.length)
    const dataEnd = before + data.length
    try {
      await this.#map.debugEvent?.('cow_read')
      await this.#view.read(guest.offset, joined.subarray(0, before), io)
      await this.#view.read(guest.offset + dataEnd, joined.subarray(dataEnd), io)
      await host.layer.debugEvent?.('write_aio')
      await writeJoined(joined, allocation, before, data, io)
    } finally {
      this.#spare.giveBack(joined)
    }
  }

  async #writeAround(
    offset: number,
    host: HostRange,
    hostOffset: number,
    length: number,
    io: WriteIo,
  ): Promise<void> {
    if (length === 0) return
    const bytes = new Uint8Array(length)
    await this.#map.debugEvent?.('cow_read')
    await this.#view.read(offset, bytes, io)
    await host.layer.debugEvent?.('cow_write')
    await host.layer.write(hostOffset, bytes, io)
  }
}

/** One write of the data and its surroundings; zeroes at either end are left out if possible. */
function writeJoined(
  joined: Uint8Array,
  allocation: Allocation,
  before: number,
  data: Uint8Array,
  io: WriteIo,
): Completion {
  const { host, zeroed } = allocation
  joined.set(data, before)
  const dataEnd = before + data.length
  const start = zeroed && isZero(joined.subarray(0, before)) ? before : 0
  const end = zeroed && isZero(joined.subarray(dataEnd)) ? dataEnd : joined.length
  if (end - start < joined.length) allocation.leftOut?.()
  return host.layer.write(host.offset + start, joined.subarray(start, end), io)
}
