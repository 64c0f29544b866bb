/**
 * Memory of a guest: regions of files that the client shares, each at a guest address, which is what
 * requests name, and at an address in the client, which is what rings are named by.
 */
import { close, fstatSync, readlinkSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import { alignDown, alignUp } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import type { CopyList, SharedMemorySys } from '../../sys/shared-memory.ts'
import { maxRegions } from './limits.ts'

/** Where a region is, as the client tells. */
export interface RegionPlace {
  readonly guest: number
  readonly user: number
  readonly length: number
  /** In the file. */
  readonly offset: number
}

interface Region extends RegionPlace {
  /** Of its first byte, here. */
  readonly address: number
  readonly mapping: { readonly address: number; readonly length: number }
}

/** Pages of no system that we run on are larger, but for huge ones. */
const largestPage = 65_536

/**
 * File systems, besides those of memory, whose pages come from memory or a disk of this machine: ramfs, ext4,
 * xfs, btrfs, f2fs, zfs. A file of another one, FUSE for example, may let us wait for as long as
 * somebody pleases.
 */
const localFileSystems = new Set([
  0x858458f6, 0xef53, 0x58465342, 0x9123683e, 0xf2f52010, 0x2fc12fc1,
])

export class GuestMemory {
  readonly #sys: SharedMemorySys
  readonly #regions: Region[] = []

  constructor(sys: SharedMemorySys) {
    this.#sys = sys
  }

  /** Maps a region; the descriptor stays the caller's. Throws `PEER` when it cannot be. */
  async add(place: RegionPlace, fd: number): Promise<void> {
    const { offset, length, guest, user } = place
    const ends = [offset + length, guest + length, user + length]
    if (length === 0 || !ends.every(Number.isSafeInteger)) {
      throw broken(`a region of guest memory has ${length} bytes at ${guest}`)
    }
    if (this.#regions.length >= maxRegions) {
      throw broken(`more than ${maxRegions} regions of guest memory`)
    }
    const page = await pageLength(this.#sys, fd)
    const start = alignDown(offset, page)
    const whole = alignUp(offset + length, page) - start
    try {
      const address = this.#sys.map(fd, start, whole)
      const mapping = { address, length: whole }
      this.#regions.push({ ...place, address: address + offset - start, mapping })
    } catch (error) {
      throw broken(`a region of guest memory cannot be mapped`, error)
    }
  }

  /** Nobody uses memory of the region any more. */
  remove({ guest, user, length }: RegionPlace): void {
    const index = this.#regions.findIndex(
      (each) => each.guest === guest && each.user === user && each.length === length,
    )
    if (index < 0) throw broken(`there is no region of ${length} bytes at ${guest}`)
    const [{ mapping }] = this.#regions.splice(index, 1)
    this.#sys.unmap(mapping.address, mapping.length)
  }

  /** Nobody uses any memory any more. */
  clear(): void {
    for (const { mapping } of this.#regions.splice(0)) {
      this.#sys.unmap(mapping.address, mapping.length)
    }
  }

  /** Where so many bytes at an address in the client are here; undefined if they are not in one region. */
  addressOf(user: number, length: number): number | undefined {
    for (const region of this.#regions) {
      const from = user - region.user
      if (from >= 0 && from + length <= region.length) return region.address + from
    }
    return undefined
  }

  /** Whether all of a range of the guest's is there. */
  has(guest: number, length: number): boolean {
    for (let at = guest, left = length; left > 0; ) {
      const region = this.#regionAt(at)
      if (!region) return false
      const part = Math.min(left, region.guest + region.length - at)
      at += part
      left -= part
    }
    return true
  }

  /** Adds copies between `local` and a range that is there. */
  list(copies: CopyList, local: number, guest: number, length: number): void {
    for (let at = guest, left = length; left > 0; ) {
      const region = this.#regionAt(at)
      if (!region) throw broken(`there is no guest memory at ${at}`)
      const from = at - region.guest
      const part = Math.min(left, region.length - from)
      copies.add(local + at - guest, region.address + from, part)
      at += part
      left -= part
    }
  }

  #regionAt(guest: number): Region | undefined {
    for (const region of this.#regions) {
      const from = guest - region.guest
      if (from >= 0 && from < region.length) return region
    }
    return undefined
  }
}

/**
 * What mappings of a file are aligned to. Refuses files that may let us wait: whether it is memory is told
 * at once, and what else it is, off the main thread.
 */
async function pageLength(sys: SharedMemorySys, fd: number): Promise<number> {
  if (sys.cannotShrink(fd) !== undefined) return Math.max(largestPage, fstatSync(fd).blksize)
  const { type } = await statfs(`/proc/self/fd/${fd}`)
  if (localFileSystems.has(type)) return largestPage
  throw broken(`guest memory of a file system of type 0x${type.toString(16)}`)
}

/** Whether a descriptor is an event's, which is signalled and asked for without waiting. */
export function isEvent(fd: number): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventfd]'
  } catch {
    return false
  }
}

/** Descriptors that came from a client: closing them may take as long as somebody else pleases. */
export function closeAll(fds: readonly (number | undefined)[]): void {
  for (const fd of fds) if (fd !== undefined) close(fd, () => {})
}

/** The client, or its guest, does not keep to the protocol. */
export function broken(message: string, cause?: unknown): BlockError {
  return new BlockError('PEER', message, { cause })
}
