/**
 * Reads an archive: from a stream in order, from a file also at any place. Nothing is believed
 * that was not checked: a loop over `extents` that ends without an error has seen a whole archive.
 */
import { BlockError } from '../../errors.ts'
import { ArchiveCheck } from './archive-check.ts'
import {
  type ArchiveIndex,
  decodeIndex,
  decodeIndexPage,
  hasDevice,
  maxIndexPages,
} from './archive-index.ts'
import { decodeExtent } from './extent.ts'
import {
  checkData,
  ExtentMemory,
  ExtentStream,
  type LoadedExtent,
  type ScannedExtent,
  scanExtents,
} from './extent-stream.ts'
import { checkHeaderStart, decodeHeader, type StoredHeader } from './header.ts'
import { type OpenSourceOptions, openSource } from './io/open-source.ts'
import type { ArchiveSource, RandomAccess } from './io/source.ts'
import { extentHeader, isVma, vmaHeader } from './structures.ts'

export class VmaReader implements AsyncDisposable {
  readonly header: StoredHeader
  readonly #source: ArchiveSource
  /** What is being read ahead of the caller. */
  #ahead: Promise<unknown> = Promise.resolve()
  #position: number
  #started = false

  private constructor(source: ArchiveSource, header: StoredHeader) {
    this.#source = source
    this.header = header
    this.#position = header.size
  }

  /** Opens a file, FIFO or `-`, or takes over `source`, and reads the header. */
  static async open(
    source: string | ArchiveSource,
    options: OpenSourceOptions = {},
  ): Promise<VmaReader> {
    const opened = typeof source === 'string' ? await openSource(source, options) : source
    try {
      return new VmaReader(opened, await readHeader(opened))
    } catch (error) {
      await opened[Symbol.asyncDispose]()
      throw withPath(error, opened.name)
    }
  }

  get name(): string {
    return this.#source.name
  }

  /** Whether parts of the archive can be read alone. */
  get seekable(): boolean {
    return this.#source.random !== undefined
  }

  /** Bytes of the (decompressed) archive that were read so far. */
  get position(): number {
    return this.#position
  }

  /**
   * All extents in order, each checked; the next one is read meanwhile. Ends without an error only
   * when the archive is whole. Once per reader.
   */
  async *extents(): AsyncGenerator<LoadedExtent, ArchiveIndex> {
    if (this.#started) throw new BlockError('BUSY', 'the archive was read already')
    this.#started = true
    const check = new ArchiveCheck(this.header)
    const stream = new ExtentStream(this.#source, this.header)
    const memories = [new ExtentMemory(), new ExtentMemory()]
    try {
      let next = this.#readAhead(stream.load(memories[0]))
      for (let turn = 1; ; turn++) {
        const extent = await next
        if (!extent) return check.finish(stream.offset)
        check.add(extent.offset, extent.raw, extent)
        this.#position = extent.offset + extentHeader.size + extent.data.length
        next = this.#readAhead(stream.load(memories[turn % 2]))
        if (extent.clusters.length > 0) yield extent
      }
    } catch (error) {
      throw withPath(error, this.name)
    }
  }

  /**
   * The extents that hold clusters of some devices, without reading the others' data. For
   * seekable archives. Checks each extent, and that these devices are complete.
   */
  async *extentsOf(deviceIds: ReadonlySet<number>): AsyncGenerator<LoadedExtent> {
    const check = new ArchiveCheck({
      ...this.header,
      devices: this.header.devices.filter(({ id }) => deviceIds.has(id)),
      extensions: { ...this.header.extensions, index: false },
    })
    const memories = [new ExtentMemory(), new ExtentMemory()]
    try {
      const scan = this.scan(deviceIds)
      let next = this.#readAhead(this.#loadNext(scan, deviceIds, memories[0]))
      for (let turn = 1; ; turn++) {
        const extent = await next
        if (!extent) break
        check.add(extent.offset, extent.raw, extent)
        next = this.#readAhead(this.#loadNext(scan, deviceIds, memories[turn % 2]))
        yield extent
      }
      check.finish(this.#random().size)
    } catch (error) {
      throw withPath(error, this.name)
    }
  }

  /**
   * Headers of the extents that may hold clusters of these devices; with an index, groups without
   * any are left out. For seekable archives.
   */
  async *scan(deviceIds: ReadonlySet<number>): AsyncGenerator<ScannedExtent> {
    const file = this.#random()
    const index = await this.index()
    const end = index?.dataEnd ?? file.size
    const groups = index?.groups ?? [{ offset: this.header.size }]
    for (const [number, group] of groups.entries()) {
      const wanted = !('devices' in group) || [...deviceIds].some((id) => hasDevice(group, id))
      const groupEnd = groups[number + 1]?.offset ?? end
      if (wanted) yield* scanExtents(file, this.header, group.offset, groupEnd)
    }
  }

  /** Reads the data of a scanned extent into `memory` and checks it. */
  async load(extent: ScannedExtent, memory: ExtentMemory): Promise<LoadedExtent> {
    const data = memory.take(extent.dataSize)
    const from = extent.offset + extentHeader.size
    const count = await this.#random().readAt(from, data)
    if (count < data.length) {
      throw new BlockError('CORRUPT_IMAGE', 'the archive has become shorter', {
        path: this.name,
        offset: from + count,
      })
    }
    checkData(extent, data, extent.offset)
    return { ...extent, data }
  }

  /** Reads stored bytes of a seekable archive, unchecked; fewer only at the end. */
  readAt(offset: number, target: Uint8Array): Promise<number> {
    return this.#random().readAt(offset, target)
  }

  /** The index, or undefined when the archive has none or cannot be read at random. */
  async index(): Promise<ArchiveIndex | undefined> {
    const file = this.#source.random
    if (!file || !this.header.extensions.index) return undefined
    try {
      return await readIndex(file, this.header)
    } catch (error) {
      throw withPath(error, this.name)
    }
  }

  /** Waits for reads that are under way. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#source[Symbol.asyncDispose]()
    await this.#ahead.catch(() => {})
  }

  #random(): RandomAccess {
    if (this.#source.random) return this.#source.random
    throw new BlockError('UNSUPPORTED', `'${this.name}' can only be read from start to end`, {
      path: this.name,
    })
  }

  async #loadNext(
    scan: AsyncGenerator<ScannedExtent>,
    deviceIds: ReadonlySet<number>,
    memory: ExtentMemory,
  ): Promise<LoadedExtent | undefined> {
    for (;;) {
      const next = await scan.next()
      if (next.done) return undefined
      const clusters = next.value.clusters.filter(({ deviceId }) => deviceIds.has(deviceId))
      if (clusters.length === 0) continue
      const { data } = await this.load(next.value, memory)
      return { ...next.value, clusters, data }
    }
  }

  /** Disposal waits for `next`; its error is the caller's who awaits it. */
  #readAhead<T>(next: Promise<T>): Promise<T> {
    next.catch(() => {})
    this.#ahead = next
    return next
  }
}

async function readHeader(source: ArchiveSource): Promise<StoredHeader> {
  const fixed = Buffer.alloc(vmaHeader.size)
  const count = await source.read(fixed)
  if (count < fixed.length) throw isVma(fixed) ? headerCut() : notRecognised()
  const whole = Buffer.alloc(checkHeaderStart(fixed))
  fixed.copy(whole)
  const rest = whole.subarray(fixed.length)
  if ((await source.read(rest)) < rest.length) throw headerCut()
  return decodeHeader(whole)
}

function headerCut(): BlockError {
  return new BlockError('CORRUPT_IMAGE', 'the archive is truncated: it ends inside its header', {
    offset: 0,
  })
}

function notRecognised(): BlockError {
  return new BlockError('NOT_RECOGNISED', 'not a VMA archive', { offset: 0 })
}

async function readIndex(file: RandomAccess, header: StoredHeader): Promise<ArchiveIndex> {
  const lastOffset = file.size - extentHeader.size
  const last = lastOffset >= header.size ? await readPage(file, header, lastOffset) : undefined
  if (!last || last.pages > maxIndexPages || last.page !== last.pages - 1) {
    throw new BlockError('CORRUPT_IMAGE', 'the archive is truncated: its index is missing', {
      offset: Math.max(0, lastOffset),
    })
  }
  const start = file.size - last.pages * extentHeader.size
  if (start < header.size)
    throw new BlockError('CORRUPT_IMAGE', 'the index is too long', { offset: start })
  const contents: Uint8Array[] = []
  for (let page = 0; page < last.pages; page++) {
    const found = await readPage(file, header, start + page * extentHeader.size)
    if (found?.page !== page || found.pages !== last.pages) {
      throw new BlockError('CORRUPT_IMAGE', `page ${page} of the index is missing`, {
        offset: start + page * extentHeader.size,
      })
    }
    contents.push(found.content)
  }
  return decodeIndex(Buffer.concat(contents), header.size, start)
}

async function readPage(file: RandomAccess, header: StoredHeader, offset: number) {
  const raw = Buffer.alloc(extentHeader.size)
  await file.readAt(offset, raw)
  const { clusters } = decodeExtent(raw, header.uuid, offset)
  return clusters.length === 0 ? decodeIndexPage(raw) : undefined
}

/** Adds the archive's name to errors about its content. */
function withPath(error: unknown, path: string): unknown {
  if (!(error instanceof BlockError) || error.path !== undefined) return error
  const { code, message, offset, errno, cause } = error
  return new BlockError(code, `${path}: ${message}`, { path, offset, errno, cause })
}
