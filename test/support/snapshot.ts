/** Snapshot images in memory, and what is in them. */
import type { SnapshotImage } from '../../src/snapshot/image/snapshot-image.ts'
import { SnapshotReader } from '../../src/snapshot/image/snapshot-reader.ts'
import type { WriterOptions } from '../../src/snapshot/image/snapshot-writer.ts'
import { saveSnapshot } from '../../src/snapshot/save.ts'
import { readStream } from '../../src/snapshot/stream/parser.ts'
import type { ByteSource } from '../../src/snapshot/stream/window.ts'
import { sourceOf } from './migration.ts'

export interface MemoryImage extends SnapshotImage {
  readonly ramBytes: Uint8Array
  readonly stateBytes: Uint8Array
  /** Writes that settle in any order, after the next turns of the event loop. */
  slow?: () => Promise<void>
}

export function memoryImage(size: number, stateSize = 1024 * 1024): MemoryImage {
  const ramBytes = new Uint8Array(size)
  const stateBytes = new Uint8Array(stateSize)
  const area = (bytes: Uint8Array) => ({
    read(offset: number, target: Uint8Array) {
      target.set(bytes.subarray(offset, offset + target.length))
    },
    async write(offset: number, source: Uint8Array) {
      await image.slow?.()
      bytes.set(source, offset)
    },
  })
  const image: MemoryImage = {
    name: 'memory',
    ram: { ...area(ramBytes), size, flush() {}, compressed: undefined },
    state: area(stateBytes),
    ...{ ramBytes, stateBytes },
    async [Symbol.asyncDispose]() {},
  }
  return image
}

export async function saved(stream: Uint8Array, options: WriterOptions = {}): Promise<MemoryImage> {
  return await savedFrom(sourceOf(stream), options)
}

export async function savedFrom(
  source: ByteSource,
  options: WriterOptions = {},
): Promise<MemoryImage> {
  const image = memoryImage(16 * 1024 * 1024)
  await saveSnapshot(readStream(source), image, options)
  return image
}

/** Every page of RAM, checked; throws where one is damaged. */
export async function ramOf(image: SnapshotImage): Promise<Map<string, Buffer>> {
  const snapshot = await SnapshotReader.open(image)
  const blocks = new Map<string, Buffer>()
  for (const { name, base, usedLength } of snapshot.blocks) {
    const bytes = Buffer.alloc(usedLength)
    await snapshot.read(base, bytes)
    blocks.set(name, bytes)
  }
  return blocks
}
