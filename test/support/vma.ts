/** What the tests of archives share: a sink in memory, disks with a pattern, and a writing loop. */
import type { LoadedExtent } from '../../src/archive/vma/extent-stream.ts'
import type { ArchiveSink } from '../../src/archive/vma/io/sink.ts'
import type { ArchiveSource } from '../../src/archive/vma/io/source.ts'
import { VmaReader } from '../../src/archive/vma/reader.ts'
import type { DiskSource } from '../../src/archive/vma/store-device.ts'
import { clusterSize } from '../../src/archive/vma/structures.ts'
import { VmaWriter, type VmaWriterOptions } from '../../src/archive/vma/writer.ts'
import { isZero } from '../../src/bytes/zero.ts'
import { Random } from './random.ts'

/** Keeps what it gets. */
export class MemorySink implements ArchiveSink {
  readonly parts: Buffer[] = []
  state: 'open' | 'finished' | 'aborted' = 'open'

  get bytes(): Buffer {
    return Buffer.concat(this.parts)
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.parts.push(Buffer.from(bytes))
  }

  async finish(): Promise<void> {
    this.state = 'finished'
  }

  async abort(): Promise<void> {
    this.state = 'aborted'
  }
}

/** Reads from memory; without `random` when it is to behave like a pipe. */
export function memorySource(bytes: Uint8Array, seekable: boolean): ArchiveSource {
  let position = 0
  const readAt = async (offset: number, target: Uint8Array) => {
    const part = bytes.subarray(offset, offset + target.length)
    target.set(part)
    return part.length
  }
  return {
    name: 'memory',
    random: seekable ? { size: bytes.length, readAt } : undefined,
    async read(target) {
      const count = await readAt(position, target)
      position += count
      return count
    },
    async [Symbol.asyncDispose]() {},
  }
}

/** A disk of zero and random blocks of 4 KiB, some clusters all zero. */
export function patternedDisk(size: number, seed: number): Buffer {
  const random = new Random(seed)
  const disk = Buffer.alloc(size)
  for (let at = 0; at < size; at += 4096) {
    if (at % clusterSize === 0 && random.below(4) === 0) at += clusterSize
    if (random.below(3) === 0) continue
    for (let word = at; word + 4 <= Math.min(size, at + 4096); word += 4) {
      disk.writeUInt32LE(random.below(2 ** 32), word)
    }
  }
  return disk
}

export interface TestDevice {
  readonly name: string
  readonly content: Buffer
  /** What is registered; the content's length when left out. */
  readonly size?: number
}

export interface TestConfig {
  readonly name: string
  readonly data: Uint8Array
}

/** Writes whole devices, cluster by cluster, one after the other. */
export async function writeArchive(
  sink: ArchiveSink,
  devices: readonly TestDevice[],
  configs: readonly TestConfig[] = [],
  options: VmaWriterOptions = {},
): Promise<void> {
  await using writer = await VmaWriter.open(sink, options)
  for (const { name, data } of configs) writer.registerConfig(name, data)
  const ids = devices.map(({ name, content, size }) =>
    writer.registerStream(name, size ?? content.length),
  )
  for (const [index, { content }] of devices.entries()) {
    for (let at = 0; at < content.length; at += clusterSize) {
      const data = content.subarray(at, at + clusterSize)
      await writer.write(ids[index], at / clusterSize, data)
    }
    await writer.closeStream(ids[index])
  }
  await writer.close()
}

/** The bytes of an archive. */
export async function archiveOf(
  devices: readonly TestDevice[],
  configs: readonly TestConfig[] = [],
  options: VmaWriterOptions = {},
): Promise<Buffer> {
  const sink = new MemorySink()
  await writeArchive(sink, devices, configs, options)
  return sink.bytes
}

/** Copies an extent's blocks of one device into `disk`. */
export function applyExtent(extent: LoadedExtent, deviceId: number, disk: Buffer): void {
  for (const cluster of extent.clusters) {
    if (cluster.deviceId !== deviceId) continue
    let from = cluster.dataOffset
    for (let block = 0; block < 16; block++) {
      if ((cluster.mask & (1 << block)) === 0) continue
      extent.data.copy(disk, cluster.cluster * clusterSize + block * 4096, from, from + 4096)
      from += 4096
    }
  }
}

/** Reads an archive to its end; the disks by name. Throws what the reader throws. */
export async function readArchive(
  bytes: Uint8Array,
  seekable = false,
): Promise<Map<string, Buffer>> {
  await using reader = await VmaReader.open(memorySource(bytes, seekable))
  const disks = new Map(reader.header.devices.map(({ id, size }) => [id, Buffer.alloc(size)]))
  for await (const extent of reader.extents()) {
    for (const [id, disk] of disks) applyExtent(extent, id, disk)
  }
  return new Map(reader.header.devices.map(({ id, name }) => [name, disks.get(id)!]))
}

/** A disk in memory whose zero runs are known in steps of `granularity`. */
export function memoryDisk(content: Buffer, granularity = clusterSize): DiskSource {
  const isZeroAt = (at: number) => isZero(content.subarray(at, at + granularity))
  return {
    size: content.length,
    async read(offset, target) {
      content.copy(target, 0, offset, offset + target.length)
    },
    extentAt(offset, length) {
      const start = offset - (offset % granularity)
      const zero = isZeroAt(start)
      let end = start
      while (end < offset + length && isZeroAt(end) === zero) end += granularity
      const found = Math.min(end - offset, length)
      return zero
        ? { kind: 'zero', allocated: true, offset, length: found }
        : { kind: 'data', offset, length: found }
    },
  }
}
