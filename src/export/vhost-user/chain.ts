/**
 * Chains of descriptors: one request of a guest each. First the parts that the device reads, then those
 * that it writes. Everything in them is the guest's word, and is checked before it is used.
 */
import { viewOf } from '../../bytes/view.ts'
import { descriptor, descriptorFlag } from '../../wire/virtio/ring.ts'
import { broken, type GuestMemory } from './guest-memory.ts'
import { maxChain } from './limits.ts'

/** A range of guest memory. */
export interface Part {
  readonly guest: number
  readonly length: number
}

export interface Chain {
  /** Index of its first descriptor, which the guest knows it by. */
  readonly head: number
  readonly readable: readonly Part[]
  readonly readableLength: number
  readonly writable: readonly Part[]
  readonly writableLength: number
}

/** Descriptors as they were at one moment: of a ring, or of an indirect table. */
export class DescriptorTable {
  readonly #view: DataView
  readonly #start: number
  readonly #count: number

  /** They lie at `start` of `bytes`. */
  constructor(bytes: Uint8Array, start: number, count: number) {
    this.#view = viewOf(bytes)
    this.#start = start
    this.#count = count
  }

  /** The indirect table that a descriptor names; undefined where it does not. */
  indirect(index: number): Part | undefined {
    const at = this.#at(index)
    if ((this.#flags(at) & descriptorFlag.indirect) === 0) return undefined
    const part = this.#part(at)
    if (part.length === 0 || part.length % descriptor.size !== 0) {
      throw broken(`an indirect table of ${part.length} bytes`)
    }
    return part
  }

  /** Follows a chain; `head` is what the guest calls it. */
  chain(first: number, head: number, memory: GuestMemory): Chain {
    const readable: Part[] = []
    const writable: Part[] = []
    let readableLength = 0
    let writableLength = 0
    for (let index = first, count = 1; ; count++) {
      if (count > Math.min(this.#count, maxChain)) throw broken('a chain of descriptors has no end')
      const at = this.#at(index)
      const flags = this.#flags(at)
      const part = this.#part(at)
      if (part.length === 0) throw broken('a descriptor of no bytes')
      if (!memory.has(part.guest, part.length)) {
        throw broken(`a descriptor names ${part.length} bytes at ${part.guest}: no guest memory`)
      }
      if ((flags & descriptorFlag.write) !== 0) {
        writable.push(part)
        writableLength += part.length
      } else {
        if (writable.length > 0) throw broken('a part to read comes after one to write')
        readable.push(part)
        readableLength += part.length
      }
      if ((flags & descriptorFlag.next) === 0) break
      index = this.#view.getUint16(at + descriptor.next, true)
    }
    return { head, readable, readableLength, writable, writableLength }
  }

  #at(index: number): number {
    if (index >= this.#count) throw broken(`descriptor ${index} of ${this.#count}`)
    return this.#start + descriptor.size * index
  }

  #flags(at: number): number {
    return this.#view.getUint16(at + descriptor.flags, true)
  }

  #part(at: number): Part {
    const low = this.#view.getUint32(at, true)
    const high = this.#view.getUint32(at + 4, true)
    const length = this.#view.getUint32(at + descriptor.length, true)
    return { guest: high * 2 ** 32 + low, length }
  }
}

/** Parts of `length` bytes from `offset` of all of them together. */
export function* partsOf(parts: readonly Part[], offset: number, length: number): Iterable<Part> {
  let skip = offset
  let left = length
  for (const { guest, length: whole } of parts) {
    if (left === 0) return
    const from = Math.min(skip, whole)
    skip -= from
    const taken = Math.min(whole - from, left)
    if (taken > 0) yield { guest: guest + from, length: taken }
    left -= taken
  }
}
