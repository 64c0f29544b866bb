/** Saves a migration stream as a snapshot. */
import type { SnapshotImage } from './image/snapshot-image.ts'
import {
  type SnapshotSummary,
  SnapshotWriter,
  type WriterOptions,
} from './image/snapshot-writer.ts'
import { command as commands } from './stream/format.ts'
import type { StreamReader } from './stream/parser.ts'
import type { StreamItem } from './stream/stream-item.ts'

export interface SaveOptions extends WriterOptions {
  /** The source asked for an answer to a ping, on the return path. */
  readonly onPing?: (value: number) => void
  readonly onProgress?: (streamBytes: number) => void
  readonly signal?: AbortSignal
}

/**
 * Reads the stream to its end and commits the snapshot. On failure nothing is committed; the image
 * is not closed, and the source may have more to say, which is to be drained.
 */
export async function saveSnapshot(
  reader: StreamReader,
  image: SnapshotImage,
  options: SaveOptions = {},
): Promise<SnapshotSummary> {
  const writer = new SnapshotWriter(image, options)
  try {
    for await (const item of reader) {
      options.signal?.throwIfAborted()
      await take(item, writer, options)
      options.onProgress?.(reader.offset)
    }
    return await writer.commit()
  } catch (error) {
    await writer.abandon()
    throw error
  }
}

async function take(item: StreamItem, writer: SnapshotWriter, options: SaveOptions): Promise<void> {
  switch (item.kind) {
    case 'header':
    case 'configuration':
      return writer.leader(item.bytes)
    case 'command':
      // Commands speak of the connection on which they came, not of the guest.
      if (item.command === commands.MIG_CMD_PING) {
        options.onPing?.(Buffer.from(item.payload).readUInt32BE())
      }
      return
    case 'ram-list':
      return await writer.ramList(item)
    case 'ram':
      return await writer.records(item.records)
    case 'section':
      return item.early ? writer.leader(item.bytes) : await writer.devices(item.bytes)
    case 'end':
    case 'description':
      return await writer.devices(item.bytes)
    case 'ram-part':
      return
  }
}
