/**
 * A disk as a regular file: what its attributes are, and what can be done to it. Offsets and lengths are
 * bytes, any alignment. What cannot be done rejects with the errno that the caller's system call gets,
 * which is the one that QEMU's file gives.
 */
import { constants } from 'node:fs'
import { plainIo, plainWriteIo } from '../../block/layer.ts'
import { alignUp } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import type { Edge } from '../../graph/edge.ts'
import { fallocateMode, seekWhence, setFlag } from '../../wire/fuse/protocol.ts'
import { extentsThroughChain } from '../chain-extents.ts'
import { sectorSize } from './limits.ts'

export interface DiskFileOptions {
  /** The export's use of the disk; with `resize` where it is `growable`. */
  readonly edge: Edge
  readonly writable: boolean
  /** Writing behind the end makes the disk larger. */
  readonly growable: boolean
  /** Others than its owner may have rights. */
  readonly allowOther: boolean
  /** Every write is on stable storage before it is acknowledged. */
  readonly writethrough: boolean
  /** For a change of size that the file's user asks for, where the export itself may not: see `growable`. */
  readonly attachForResize: () => Edge
}

export interface Attributes {
  readonly size: number
  /** Of 512 bytes. */
  readonly blocks: number
  readonly blockSize: number
  readonly mode: number
  readonly uid: number
  readonly gid: number
}

/** What of a file is to be changed: `valid` are flags of `setFlag`. */
export interface AttributeChange {
  readonly valid: number
  readonly size: number
  readonly mode: number
  readonly uid: number
  readonly gid: number
}

const { S_IFREG, S_IRUSR, S_IWUSR } = constants
const writeBits = 0o222
const bitsOfOthers = 0o077
const permissionBits = 0o7777

/** What has no meaning for a disk, and is passed over. */
const ignoredChanges =
  setFlag.handle | setFlag.lockOwner | setFlag.changeTime | setFlag.killPrivileges

export class DiskFile {
  readonly #options: DiskFileOptions
  readonly #extentAt: ReturnType<typeof extentsThroughChain>
  #mode: number
  #uid = process.getuid?.() ?? 0
  #gid = process.getgid?.() ?? 0
  /** Changes of size, one after the other. */
  #sizing: Promise<unknown> = Promise.resolve()

  constructor(options: DiskFileOptions) {
    this.#options = options
    this.#mode = S_IFREG | S_IRUSR | (options.writable ? S_IWUSR : 0)
    this.#extentAt = extentsThroughChain(options.edge)
  }

  /** A multiple of 512 bytes; what a disk lacks to that reads as zeroes. */
  get size(): number {
    return alignUp(this.#options.edge.size, sectorSize)
  }

  async attributes(): Promise<Attributes> {
    const { edge } = this.#options
    const allocated = (await edge.image?.allocatedSize?.().catch(() => undefined)) ?? this.size
    return {
      size: this.size,
      blocks: Math.ceil(allocated / 512),
      blockSize: edge.limits.alignment,
      mode: this.#mode,
      uid: this.#uid,
      gid: this.#gid,
    }
  }

  async change({ valid, size, mode, uid, gid }: AttributeChange): Promise<void> {
    const { allowOther, writable } = this.#options
    const owners = allowOther ? setFlag.uid | setFlag.gid : 0
    const possible = setFlag.size | setFlag.mode | owners | ignoredChanges
    if ((valid & ~possible) !== 0) throw failed('ENOTSUP')
    const changesMode = (valid & setFlag.mode) !== 0
    if (changesMode && !allowOther && (mode & bitsOfOthers) !== 0) throw failed('EPERM')
    if (changesMode && !writable && (mode & writeBits) !== 0) throw failed('EROFS')
    if ((valid & setFlag.size) !== 0) {
      this.#checkWritable()
      await this.#resize(() => size)
    }
    if (changesMode) this.#mode = S_IFREG | (mode & permissionBits)
    if ((valid & setFlag.uid) !== 0) this.#uid = uid
    if ((valid & setFlag.gid) !== 0) this.#gid = gid
  }

  /** Fills the start of `target`; returns how much of it, less at the end of the file. */
  read(offset: number, target: Uint8Array): number | Promise<number> {
    const { edge } = this.#options
    const length = Math.max(0, Math.min(target.length, this.size - offset))
    const inside = Math.max(0, Math.min(length, edge.size - offset))
    target.fill(0, inside, length)
    if (inside === 0) return length
    const reading = edge.read(offset, target.subarray(0, inside), plainIo)
    return reading instanceof Promise ? reading.then(() => length) : length
  }

  /** Returns how much was written, less at the end of a file that does not grow. */
  write(offset: number, source: Uint8Array): number | Promise<number> {
    this.#checkWritable()
    const { edge, growable } = this.#options
    const end = offset + source.length
    if (!growable || end <= edge.size) return this.#writeInside(offset, source)
    // A file that grows does so by whole sectors.
    const growing = this.#resize((size) => Math.max(size, alignUp(end, sectorSize)))
    return growing.then(() => this.#writeInside(offset, source))
  }

  async flush(): Promise<void> {
    await this.#options.edge.flush(plainIo)
  }

  async allocate(offset: number, given: number, mode: number): Promise<void> {
    this.#checkWritable()
    const { keepSize, punchHole, zeroRange } = fallocateMode
    const end = offset + given
    switch (mode) {
      case 0:
        // Space can be had at the end only.
        if (offset < this.size) throw failed('ENOTSUP')
        await this.#resize((size) => Math.max(size, offset))
        return await this.#resize((size) => Math.max(size, end), 'falloc')
      case zeroRange:
        if (end > this.size) await this.#resize((size) => Math.max(size, end))
        return await this.#zero(offset, given, false)
      case zeroRange | keepSize:
        return await this.#zero(offset, given, false)
      case punchHole | keepSize:
        return await this.#zero(offset, given, true)
      default:
        throw failed('ENOTSUP')
    }
  }

  /** The next data or hole at or behind `offset`; the end of the file is a hole. */
  async seek(offset: number, whence: number): Promise<number> {
    const { data, hole } = seekWhence
    if (whence !== data && whence !== hole) throw failed('EINVAL')
    const { size } = this.#options.edge
    for (let at = offset; at < size; ) {
      const run = await this.#extentAt(at, size - at, plainIo)
      if ((run.kind === 'data') === (whence === data)) return at
      at += run.length
    }
    if (whence === data || offset > this.size) throw failed('ENXIO')
    return Math.max(offset, this.size)
  }

  async #zero(offset: number, given: number, mayUnmap: boolean): Promise<void> {
    const { edge, writethrough } = this.#options
    const length = Math.min(given, edge.size - offset)
    if (length <= 0) throw failed('EIO')
    const io = { ...plainWriteIo, fua: writethrough, mayUnmap, fastOnly: false }
    await edge.writeZeroes(offset, length, io)
  }

  #writeInside(offset: number, source: Uint8Array): number | Promise<number> {
    const { edge, writethrough } = this.#options
    if (offset >= edge.size) throw failed('EIO')
    const length = Math.min(source.length, edge.size - offset)
    const io = writethrough ? { ...plainWriteIo, fua: true } : plainWriteIo
    const writing = edge.write(offset, source.subarray(0, length), io)
    return writing instanceof Promise ? writing.then(() => length) : length
  }

  /** To what `next` makes of the size when all changes before have been made. */
  async #resize(
    next: (size: number) => number,
    preallocation: 'off' | 'falloc' = 'off',
  ): Promise<void> {
    const resizing = this.#sizing.then(async () => {
      const { edge, growable, attachForResize } = this.#options
      const size = next(edge.size)
      if (size === edge.size) return
      const io = { ...plainIo, preallocation }
      if (growable) return await edge.truncate(size, io)
      await using resizer = attachForResize()
      await resizer.truncate(size, io)
    })
    this.#sizing = resizing.catch(() => {})
    await resizing
  }

  #checkWritable(): void {
    if (!this.#options.writable) throw failed('EACCES')
  }
}

function failed(errno: string): BlockError {
  return new BlockError('IO', `the file of an export: ${errno}`, { errno })
}
