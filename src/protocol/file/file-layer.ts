/**
 * A file or block device as a disk. How bytes travel (`buffered.ts`, `direct.ts`), what a flush
 * means, where holes are and who else uses the image are each a part of its own; this puts them
 * together and keeps the size.
 */
import fs from 'node:fs'
import { promisify } from 'node:util'
import type { GivenSize, ImageFacts } from '../../block/abilities.ts'
import {
  type BlockLayer,
  type Capabilities,
  type Completion,
  type Extent,
  type Io,
  type Limits,
  type Preallocation,
  plainZeroIo,
  type ResizeIo,
  type WriteIo,
  type ZeroIo,
} from '../../block/layer.ts'
import { GiB, MiB } from '../../bytes/range.ts'
import { zeroes } from '../../bytes/zero.ts'
import { BlockError, errnoOf, systemError } from '../../errors.ts'
import { BufferedTransfer, type Transfer } from './buffered.ts'
import { reserve } from './create.ts'
import { deviceIoctl, deviceSize, discardOnDevice } from './device.ts'
import { DirectTransfer, noDirect, probeAlignment } from './direct.ts'
import { Flusher } from './flusher.ts'
import { Holes } from './holes.ts'
import { FileLocks } from './image-locks.ts'
import type { OpenFile } from './open-file.ts'
import { Zeroing } from './zeroing.ts'

const ftruncate = promisify(fs.ftruncate)
const fstat = promisify(fs.fstat)

export interface FileLayerOptions {
  readonly kind: 'file' | 'device'
  /** Bytes. */
  readonly size: number
  readonly readOnly: boolean
  /** Block size of transfers past the page cache; undefined for those through it. */
  readonly directAlignment?: number
  /** Flushes do nothing. */
  readonly noFlush: boolean
  readonly locking: boolean
}

/** What is written out when zeroes have to be. Aligned, so that it needs no bouncing. */
const zeroChunk = MiB

/**
 * A write or zeroing behind the end makes a file longer, and reads there give zeroes; the end of
 * a device is `NO_SPACE`.
 */
export class FileLayer implements BlockLayer {
  readonly image: ImageFacts
  readonly locks?: FileLocks
  readonly #file: OpenFile
  readonly #options: FileLayerOptions
  readonly #flusher: Flusher
  readonly #holes: Holes
  readonly #zeroing: Zeroing
  #transfer!: Transfer
  #limits!: Limits
  #directAlignment: number | undefined
  #noFlush: boolean
  #readOnly: boolean
  #size: number
  #disposing: Promise<void> | undefined

  get sizeIsGiven(): GivenSize | undefined {
    return this.#options.kind === 'device' ? 'device files' : undefined
  }

  /** Of devices only. */
  readonly ioctl?: (request: number, argument: Uint8Array | number) => Promise<number>

  /** Takes over `file`. */
  constructor(file: OpenFile, options: FileLayerOptions) {
    this.#file = file
    this.#options = options
    this.#readOnly = options.readOnly
    this.#size = options.size
    this.#noFlush = options.noFlush
    this.#useAlignment(options.directAlignment)
    this.#flusher = new Flusher(file)
    this.#holes = new Holes(file)
    this.#zeroing = new Zeroing(file)
    this.image = { filename: file.path, allocatedSize: () => this.#allocatedSize() }
    if (options.locking) this.locks = new FileLocks(file)
    if (options.kind === 'device' && file.sys.supported.ioctl) {
      this.ioctl = (request, argument) => deviceIoctl(file, request, argument)
    }
  }

  get size(): number {
    return this.#size
  }

  get limits(): Limits {
    return this.#limits
  }

  get capabilities(): Capabilities {
    const write = !this.#readOnly
    const isFile = this.#options.kind === 'file'
    return {
      write,
      resize: write && isFile,
      backing: false,
      fua: 'emulated',
      writeZeroes: this.#zeroing.canZero ? 'native' : 'emulated',
      discard: this.#zeroing.canPunch ? 'native' : 'none',
      extents: this.#holes.supported && isFile ? 'native' : 'none',
      zeroInit: isFile,
    }
  }

  read(offset: number, target: Uint8Array, io: Io): Completion {
    return this.#transfer.read(offset, target, io)
  }

  write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    this.#checkWritable(offset + source.length)
    const writing = this.#transfer.write(offset, source, io)
    if (writing instanceof Promise) return this.#settleWrite(writing, offset + source.length, io)
    this.#wrote(offset + source.length)
    if (io.fua) return this.#flush()
  }

  writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    this.#checkWritable(offset + length)
    if (length === 0) return
    return this.#writeZeroes(offset, length, io)
  }

  async discard(offset: number, length: number, io: Io): Promise<void> {
    this.#checkWritable(0)
    io.signal.throwIfAborted()
    const inside = Math.min(length, this.#size - offset)
    if (inside <= 0) return
    const discarded =
      this.#options.kind === 'device'
        ? await discardOnDevice(this.#file, offset, inside)
        : await this.#zeroing.punch(offset, inside)
    if (discarded) this.#flusher.wrote()
    this.#holes.forget()
  }

  flush(_io: Io): Completion {
    return this.#flush()
  }

  async truncate(size: number, io: ResizeIo): Promise<void> {
    this.#checkWritable(0)
    io.signal.throwIfAborted()
    if (this.#options.kind === 'device') return await this.#takeNotice(size)
    const { preallocation = 'off' } = io
    if (preallocation === 'metadata') throw this.#noMetadata()
    const before = this.#size
    if (size < before && preallocation !== 'off') throw this.#noPreallocation()
    try {
      await this.#setSize(size)
      if (size > before) await this.#takeSpace(before, size, preallocation, io)
    } catch (error) {
      // What was gained without its space is given back: all or nothing.
      if (this.#size > before) await this.#setSize(before).catch(() => {})
      throw error
    } finally {
      this.#holes.forget()
    }
  }

  /** A range inside the file, which would become longer otherwise. */
  async occupy(offset: number, length: number, io: Io): Promise<void> {
    this.#checkWritable(offset + length)
    io.signal.throwIfAborted()
    if (this.#options.kind === 'device') return
    await reserve(this.#file, offset, length)
    this.#holes.forget()
  }

  async #setSize(size: number): Promise<void> {
    try {
      await this.#file.during((fd) => ftruncate(fd, size))
    } catch (error) {
      throw this.#file.fail(error, `changing the size to ${size}`)
    }
    this.#size = size
    this.#flusher.wrote()
  }

  async #takeSpace(from: number, to: number, preallocation: Preallocation, io: Io): Promise<void> {
    if (preallocation === 'off') return
    if (preallocation === 'falloc' && (await reserve(this.#file, from, to - from))) return
    await this.#writeZeroBytes(from, to - from, { ...plainZeroIo, signal: io.signal })
  }

  #noPreallocation(): BlockError {
    const { path, node } = this.#file
    const message = 'Cannot use preallocation for shrinking files'
    return new BlockError('INVALID_ARGUMENT', message, { path, node, errno: 'EINVAL' })
  }

  #noMetadata(): BlockError {
    const { path, node } = this.#file
    return new BlockError('UNSUPPORTED', 'Unsupported preallocation mode: metadata', { path, node })
  }

  async reread(): Promise<void> {
    this.#holes.forget()
    const stats = await this.#file.during((fd) => fstat(fd))
    const isFile = this.#options.kind === 'file'
    this.#size = isFile ? stats.size : await deviceSize(this.#file, stats)
  }

  /** By a second descriptor, since one cannot change how it was opened. */
  async setReadOnly(readOnly: boolean): Promise<void> {
    if (readOnly) await this.#flush()
    await this.#reopen(readOnly, this.#directAlignment !== undefined)
    this.#readOnly = readOnly
  }

  async setCache({ direct, noFlush }: { direct: boolean; noFlush: boolean }): Promise<void> {
    const isDirect = this.#directAlignment !== undefined
    if (direct !== isDirect) await this.#setDirect(direct)
    this.#noFlush = noFlush
  }

  async #setDirect(direct: boolean): Promise<void> {
    await this.#flush()
    await this.#reopen(this.#readOnly, direct)
    try {
      this.#useAlignment(direct ? await probeAlignment(this.#file, this.#size) : undefined)
    } catch (error) {
      await this.#reopen(this.#readOnly, !direct)
      throw error
    }
  }

  #useAlignment(alignment: number | undefined): void {
    const file = this.#file
    this.#directAlignment = alignment
    this.#transfer = alignment ? new DirectTransfer(file, alignment) : new BufferedTransfer(file)
    this.#limits = fileLimits(alignment ?? 1, this.#options.kind)
  }

  async #reopen(readOnly: boolean, direct: boolean): Promise<void> {
    const { O_RDONLY, O_RDWR, O_DIRECT } = fs.constants
    const { path, node } = this.#file
    // Systems other than Linux have no such flag.
    if (direct && !O_DIRECT) throw noDirect({ path, node })
    const access = readOnly ? O_RDONLY : O_RDWR
    try {
      const flags = direct ? access + O_DIRECT : access
      await this.#file.reopen(flags, (_, next) => this.locks?.moveTo(next))
    } catch (error) {
      if (error instanceof BlockError) throw error
      if (direct && errnoOf(error) === 'EINVAL') throw noDirect({ path, node }, error)
      throw systemError(error, `Could not reopen '${path}'`, { path, node })
    }
  }

  extentAt(offset: number, length: number, _io: Io): Extent {
    if (this.#options.kind === 'device') return { kind: 'data', offset, length }
    const run = this.#holes.runAt(offset, length)
    return run.kind === 'data'
      ? { kind: 'data', offset, length: run.length }
      : { kind: 'zero', offset, length: run.length, allocated: false }
  }

  /** Flushes what was written since the last flush, and closes the file even if that fails. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#disposing ??= this.#dispose()
    return this.#disposing
  }

  async #dispose(): Promise<void> {
    try {
      await this.#flush()
    } finally {
      await this.#file.close()
    }
  }

  #flush(): Completion {
    if (!this.#noFlush) return this.#flusher.flush()
  }

  async #settleWrite(writing: Promise<void>, end: number, io: WriteIo): Promise<void> {
    await writing
    this.#wrote(end)
    if (io.fua) await this.#flush()
  }

  #wrote(end: number): void {
    if (end > this.#size) this.#size = end
    this.#flusher.wrote()
  }

  async #writeZeroes(offset: number, length: number, io: ZeroIo): Promise<void> {
    io.signal.throwIfAborted()
    if (io.fastOnly && !this.#zeroing.canZero) throw this.#noFastZeroes(offset)
    if (offset + length > this.#size) await this.#growTo(offset + length, io)
    if (await this.#zeroing.zero(offset, length, io.mayUnmap)) this.#wrote(offset + length)
    else if (io.fastOnly) throw this.#noFastZeroes(offset)
    else await this.#writeZeroBytes(offset, length, io)
    this.#holes.forget()
    if (io.fua) await this.#flush()
  }

  /**
   * By writing the last zero: `ftruncate` could cut off what a write that is still in flight has
   * appended.
   */
  async #growTo(end: number, io: ZeroIo): Promise<void> {
    const { alignment } = this.#limits
    await this.#transfer.write(end - alignment, zeroes.subarray(0, alignment), io)
    this.#wrote(end)
  }

  async #writeZeroBytes(offset: number, length: number, io: ZeroIo): Promise<void> {
    const { sys } = this.#file
    const chunk = sys.alignedMemory(Math.min(zeroChunk, length), 4096)
    for (let at = 0; at < length; at += chunk.length) {
      io.signal.throwIfAborted()
      const part = chunk.subarray(0, Math.min(chunk.length, length - at))
      await this.#transfer.write(offset + at, part, io)
      this.#wrote(offset + at + part.length)
    }
  }

  async #allocatedSize(): Promise<number> {
    try {
      return (await this.#file.during((fd) => fstat(fd))).blocks * 512
    } catch (error) {
      throw this.#file.fail(error, 'asking for the space taken')
    }
  }

  #checkWritable(end: number): void {
    const { path, node } = this.#file
    if (this.#readOnly) {
      throw new BlockError('READ_ONLY', `${path} is opened read-only`, { path, node })
    }
    if (end > this.#size && this.#options.kind === 'device') {
      throw new BlockError('NO_SPACE', `${path} ends at ${this.#size}, before ${end}`, {
        path,
        node,
        offset: this.#size,
        errno: 'ENOSPC',
      })
    }
  }

  /** It may have become larger, or smaller, by other means. */
  async #takeNotice(size: number): Promise<void> {
    await this.reread()
    if (size <= this.#size) return
    const { path, node } = this.#file
    throw new BlockError('UNSUPPORTED', 'Cannot grow device files', { path, node })
  }

  #noFastZeroes(offset: number): BlockError {
    const { path, node } = this.#file
    return new BlockError('UNSUPPORTED', `${path} can zero only by writing`, {
      path,
      node,
      offset,
      errno: 'ENOTSUP',
    })
  }
}

/** Devices discard whole blocks of theirs; none has larger ones. */
const deviceBlock = 4096

function fileLimits(alignment: number, kind: FileLayerOptions['kind']): Limits {
  return {
    alignment,
    memoryAlignment: 1,
    zeroAlignment: alignment,
    discardAlignment: kind === 'device' ? Math.max(deviceBlock, alignment) : alignment,
    preferredLength: MiB,
    maxTransfer: GiB,
  }
}
