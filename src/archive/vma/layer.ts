/**
 * One device of an archive as a read-only disk, so that it can be opened, converted, compared and
 * exported without being extracted. Opening reads the extent headers (of those groups that hold
 * the device, where there is an index); reading fetches what is asked for. Where the archive has
 * checksums, an extent is read whole and checked the first time something of it is needed.
 */

import type { ImageFacts } from '../../block/abilities.ts'
import type { OpenContext } from '../../block/driver.ts'
import type { BlockLayer, Capabilities, Extent, Io, Limits } from '../../block/layer.ts'
import { MiB } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import { type ClusterRun, ClusterRuns } from './cluster-runs.ts'
import type { VmaOptions } from './driver.ts'
import { decodeExtent } from './extent.ts'
import { ExtentMemory, type ScannedExtent } from './extent-stream.ts'
import { formatUuid, isVmstate, type VmaDevice } from './header.ts'
import { randomAccessTo } from './io/open-source.ts'
import type { ArchiveSource, RandomAccess } from './io/source.ts'
import { VmaReader } from './reader.ts'
import { deviceNamed } from './restore.ts'
import { blockSize, clusterSize, extentHeader, fullMask } from './structures.ts'

/** Extents that were read whole and are kept: 16 MB. */
const keptExtents = 4

export class VmaLayer implements BlockLayer {
  readonly size: number
  readonly capabilities: Capabilities = {
    write: false,
    resize: false,
    backing: false,
    fua: 'none',
    writeZeroes: 'none',
    discard: 'none',
    extents: 'native',
    zeroInit: false,
  }
  readonly limits: Limits = {
    alignment: 1,
    memoryAlignment: 1,
    zeroAlignment: blockSize,
    discardAlignment: blockSize,
    preferredLength: clusterSize,
    maxTransfer: 64 * MiB,
  }
  readonly image: ImageFacts
  readonly #reader: VmaReader
  readonly #runs: ClusterRuns
  readonly #extents: ExtentCache

  private constructor(
    reader: VmaReader,
    device: VmaDevice,
    runs: ClusterRuns,
    extents: ExtentCache,
  ) {
    this.#reader = reader
    this.#runs = runs
    this.#extents = extents
    this.size = device.size
    this.image = {
      filename: reader.name,
      clusterSize,
      specific: () => ({ type: 'vma', data: factsOf(reader, device) }),
    }
  }

  /** Takes over `reader`. `name` may be left out when the archive has one disk. */
  static async open(reader: VmaReader, name?: string): Promise<VmaLayer> {
    try {
      const device = chooseDevice(reader, name)
      const runs = new ClusterRuns()
      const extents = new ExtentCache(reader)
      for await (const extent of reader.scan(new Set([device.id]))) {
        if (!extent.clusters.some(({ deviceId }) => deviceId === device.id)) continue
        runs.add(extent, device.id)
        extents.add(extent)
      }
      runs.finish(Math.ceil(device.size / clusterSize))
      return new VmaLayer(reader, device, runs, extents)
    } catch (error) {
      await reader[Symbol.asyncDispose]()
      throw error
    }
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    const reads: Promise<void>[] = []
    for (let done = 0; done < target.length; ) {
      const piece = this.#pieceAt(offset + done, target.length - done)
      const part = target.subarray(done, done + piece.length)
      if (piece.position === undefined) part.fill(0)
      else reads.push(this.#extents.read(piece.extent, piece.position, part))
      done += piece.length
    }
    await Promise.all(reads)
  }

  extentAt(offset: number, length: number): Extent {
    const { position, length: found } = this.#pieceAt(offset, length)
    if (position === undefined) return { kind: 'zero', allocated: true, offset, length: found }
    return { kind: 'data', offset, length: found }
  }

  write(): never {
    throw readOnly(this.#reader.name)
  }

  writeZeroes(): never {
    throw readOnly(this.#reader.name)
  }

  discard(): never {
    throw readOnly(this.#reader.name)
  }

  truncate(): never {
    throw readOnly(this.#reader.name)
  }

  flush(): void {}

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#reader[Symbol.asyncDispose]()
  }

  /** The first piece at `offset` that is zero, or contiguous in the archive. */
  #pieceAt(offset: number, length: number) {
    // A layer answers for bytes behind an unaligned end too; they are zero.
    const rest = this.size - offset
    if (rest <= 0) return { extent: 0, position: undefined, length }
    const run = this.#runs.at(this.#runs.find(Math.floor(offset / clusterSize)))
    const inside = offset - run.cluster * clusterSize
    const whole = run.mask === fullMask || run.mask === 0
    const { end, stored, skipped } = whole
      ? { end: run.count * clusterSize, stored: run.mask !== 0, skipped: 0 }
      : blocksAt(run, inside)
    return {
      extent: run.extent,
      position: stored ? run.position + inside - skipped : undefined,
      length: Math.min(length, rest, end - inside),
    }
  }
}

/** The run of stored or zero blocks around byte `inside` of a cluster that is stored in part. */
function blocksAt(run: ClusterRun, inside: number) {
  const isStored = (block: number) => (run.mask & (1 << block)) !== 0
  const first = Math.floor(inside / blockSize)
  const stored = isStored(first)
  let end = first
  while (end < clusterSize / blockSize && isStored(end) === stored) end++
  let skipped = 0
  for (let block = 0; block < first; block++) if (!isStored(block)) skipped += blockSize
  return { end: end * blockSize, stored, skipped }
}

/** Extents by number: where they lie, whether they were checked, and the last few whole. */
class ExtentCache {
  readonly #reader: VmaReader
  #offsets = new Float64Array(1024)
  #count = 0
  /** One byte each: 1 once the data was compared with its checksum, or has none. */
  #checked = new Uint8Array(1024)
  /** In order of last use. */
  readonly #kept = new Map<number, Promise<Buffer>>()

  constructor(reader: VmaReader) {
    this.#reader = reader
  }

  add(extent: ScannedExtent): void {
    if (this.#count === this.#offsets.length) this.#grow()
    this.#offsets[this.#count] = extent.offset
    this.#checked[this.#count] = extent.checksum === undefined ? 1 : 0
    this.#count++
  }

  /** Fills `target` from `position` in the archive, which lies in the data of that extent. */
  async read(extent: number, position: number, target: Uint8Array): Promise<void> {
    const kept = this.#kept.get(extent)
    if (!kept && this.#checked[extent] === 1) {
      const count = await this.#reader.readAt(position, target)
      if (count === target.length) return
      throw new BlockError(
        'CORRUPT_IMAGE',
        `${this.#reader.name}: the archive has become shorter`,
        {
          path: this.#reader.name,
          offset: position + count,
        },
      )
    }
    const data = await this.#keep(extent, kept ?? this.#load(extent))
    data.copy(target, 0, position - this.#offsets[extent] - extentHeader.size)
  }

  #load(extent: number): Promise<Buffer> {
    const loading = this.#loadChecked(extent)
    // A failure is told to those who wait; the next one may try again.
    loading.catch(() => this.#kept.delete(extent))
    return loading
  }

  #keep(extent: number, loading: Promise<Buffer>): Promise<Buffer> {
    this.#kept.delete(extent)
    this.#kept.set(extent, loading)
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= keptExtents) break
      this.#kept.delete(oldest)
    }
    return loading
  }

  async #loadChecked(extent: number): Promise<Buffer> {
    const offset = this.#offsets[extent]
    const raw = Buffer.alloc(extentHeader.size)
    await this.#reader.readAt(offset, raw)
    const decoded = decodeExtent(raw, this.#reader.header.uuid, offset)
    const { data } = await this.#reader.load({ ...decoded, offset, raw }, new ExtentMemory())
    this.#checked[extent] = 1
    return data
  }

  #grow(): void {
    const offsets = new Float64Array(2 * this.#count)
    offsets.set(this.#offsets)
    const checked = new Uint8Array(2 * this.#count)
    checked.set(this.#checked)
    this.#offsets = offsets
    this.#checked = checked
  }
}

function chooseDevice(reader: VmaReader, name: string | undefined): VmaDevice {
  const { devices } = reader.header
  const disks = devices.filter((device) => !isVmstate(device))
  const device = name === undefined && disks.length === 1 ? disks[0] : undefined
  if (device) return device
  const names = disks.map((disk) => disk.name).join(', ')
  if (name === undefined) {
    throw new BlockError(
      'INVALID_ARGUMENT',
      `'${reader.name}' holds ${disks.length} disks; choose one with 'device': ${names}`,
      { path: reader.name },
    )
  }
  const found = deviceNamed(devices, name)
  if (!isVmstate(found)) return found
  throw new BlockError('INVALID_ARGUMENT', `'${name}' is RAM state, not a disk`, {
    path: reader.name,
  })
}

function factsOf({ header }: VmaReader, device: VmaDevice) {
  return {
    device: device.name,
    uuid: formatUuid(header.uuid),
    ctime: header.ctime,
    checksums: header.extensions.checksums,
  }
}

function readOnly(path: string): BlockError {
  return new BlockError('READ_ONLY', `'${path}' is an archive; it cannot be changed`, { path })
}

/** Opens a device of the archive in the child `file`. */
export async function openVmaLayer(
  { file, device }: VmaOptions,
  context: OpenContext,
): Promise<VmaLayer> {
  if (!context.flags.readOnly) {
    throw new BlockError('READ_ONLY', `${context.name}: an archive can only be opened read-only`, {
      node: context.name,
      errno: 'EROFS',
    })
  }
  const child = await context.child('file', file)
  const name = child.image?.filename ?? context.name
  const reader = await VmaReader.open(await childSource(name, child, context))
  return await VmaLayer.open(reader, device)
}

/** A child of the graph as a source; the graph closes it. */
async function childSource(name: string, child: BlockLayer, io: Io): Promise<ArchiveSource> {
  const { signal } = io
  const file: RandomAccess = {
    size: child.size,
    async readAt(offset, target) {
      const part = target.subarray(0, Math.max(0, Math.min(target.length, child.size - offset)))
      if (part.length > 0) await child.read(offset, part, { signal })
      return part.length
    },
  }
  const random = await randomAccessTo(name, file)
  if (!random) {
    throw new BlockError('UNSUPPORTED', `'${name}' is compressed and can only be read in order`, {
      path: name,
    })
  }
  let position = 0
  return {
    name,
    random,
    async read(target) {
      const count = await random.readAt(position, target)
      position += count
      return count
    },
    async [Symbol.asyncDispose]() {},
  }
}
