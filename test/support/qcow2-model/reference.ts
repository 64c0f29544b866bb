/** What a disk, its snapshots and its bitmaps have to show: plain buffers. */
import { createHash } from 'node:crypto'
import { alignDown, alignUp, type ByteRange } from '../../../src/bytes/range.ts'
import type { Kind } from './kind.ts'

/** What a write stores. */
export type Fill = { readonly pattern: number } | { readonly noise: Buffer }

export type Request = ByteRange &
  (
    | { readonly verb: 'write' | 'compressed'; readonly fill: Fill }
    | { readonly verb: 'zero'; readonly unmap: boolean }
    | { readonly verb: 'discard' }
  )

export class ReferenceBitmap {
  readonly granularity: number
  enabled = true
  /** For each granule whether it is dirty. */
  bits: Uint8Array

  constructor(granularity: number, size: number) {
    this.granularity = granularity
    this.bits = new Uint8Array(Math.ceil(size / granularity))
  }

  mark({ offset, length }: ByteRange): void {
    if (!this.enabled || length === 0) return
    const { granularity } = this
    this.bits.fill(1, Math.floor(offset / granularity), Math.ceil((offset + length) / granularity))
  }

  merge(other: ReferenceBitmap): void {
    for (const [index, bit] of other.bits.entries()) {
      if (!bit) continue
      const offset = index * other.granularity
      const first = Math.floor(offset / this.granularity)
      const end = Math.ceil((offset + other.granularity) / this.granularity)
      this.bits.fill(1, first, Math.min(end, this.bits.length))
    }
  }

  resize(size: number): void {
    const bits = new Uint8Array(Math.ceil(size / this.granularity))
    bits.set(this.bits.subarray(0, bits.length))
    this.bits = bits
  }

  /** As QMP's `x-debug-block-dirty-bitmap-sha256` has it: of the bits in words of 64. */
  get hash(): string {
    const bytes = new Uint8Array(Math.ceil(this.bits.length / 64) * 8)
    for (const [index, bit] of this.bits.entries()) {
      if (bit) bytes[Math.floor(index / 8)] |= 1 << (index % 8)
    }
    return createHash('sha256').update(bytes).digest('hex')
  }
}

export class Reference {
  readonly kind: Kind
  disk: Buffer
  base: Buffer | undefined
  version: 2 | 3
  refcountBits: number
  lazyRefcounts: boolean
  /** Whether clusters may be compressed, and so share a place. */
  compressed = false
  /** Whether there is, or was, a state of a machine. */
  stateWritten = false
  readonly snapshots = new Map<string, Buffer>()
  readonly bitmaps = new Map<string, ReferenceBitmap>()
  /** Clusters that may be allocated: qemu-io 7.2 does not compress over those. */
  readonly #touched = new Set<number>()

  constructor(kind: Kind, base: Buffer | undefined) {
    this.kind = kind
    this.base = base
    this.version = kind.version
    this.refcountBits = kind.refcountBits
    this.lazyRefcounts = kind.lazyRefcounts
    this.disk = Buffer.alloc(kind.size)
    base?.copy(this.disk)
    if (kind.preallocation !== 'off' || kind.dataFile === 'raw') this.#touch(0, kind.size)
  }

  get size(): number {
    return this.disk.length
  }

  untouched({ offset, length }: ByteRange): boolean {
    return this.#clusters(offset, length).every((cluster) => !this.#touched.has(cluster))
  }

  apply(request: Request): void {
    const { offset, length } = request
    for (const bitmap of this.bitmaps.values()) bitmap.mark(request)
    if (request.verb === 'discard') {
      this.#discard(offset, length)
      return
    }
    this.#touch(offset, length)
    if (request.verb === 'zero') this.disk.fill(0, offset, offset + length)
    else fillWith(this.disk.subarray(offset, offset + length), request.fill)
  }

  resize(size: number): void {
    const disk = Buffer.alloc(size)
    this.disk.copy(disk)
    this.disk = disk
    // What a backing file has there is hidden by zeroes.
    this.#touch(0, size)
    for (const bitmap of this.bitmaps.values()) bitmap.resize(size)
  }

  createSnapshot(name: string): void {
    this.snapshots.set(name, Buffer.from(this.disk))
  }

  applySnapshot(name: string): void {
    this.disk = Buffer.from(this.snapshots.get(name)!)
    this.#touch(0, this.size)
  }

  /** The backing file gets what the overlay has. */
  commit(): void {
    const base = Buffer.alloc(Math.max(this.base!.length, this.size))
    this.base!.copy(base)
    this.disk.copy(base)
    this.base = base
  }

  /** Whole clusters only, and version 2 cannot hide what a backing file has. */
  #discard(offset: number, length: number): void {
    if (this.version === 2 && this.base) return
    const { clusterSize } = this.kind
    const end = offset + length
    const first = alignUp(offset, clusterSize)
    const last = end === this.size ? end : alignDown(end, clusterSize)
    if (first < last) this.disk.fill(0, first, last)
  }

  #touch(offset: number, length: number): void {
    for (const cluster of this.#clusters(offset, length)) this.#touched.add(cluster)
  }

  #clusters(offset: number, length: number): number[] {
    const { clusterSize } = this.kind
    const first = Math.floor(offset / clusterSize)
    const count = Math.ceil((offset + length) / clusterSize) - first
    return Array.from({ length: count }, (_, index) => first + index)
  }
}

export function fillWith(target: Uint8Array, fill: Fill): void {
  target.fill('pattern' in fill ? fill.pattern : 0)
  if ('noise' in fill) target.set(fill.noise.subarray(0, target.length))
}
