/** Saves a migration stream as a snapshot. */
import { BlockError } from '../errors.ts'
import type { SnapshotImage } from './image/snapshot-image.ts'
import {
  type SnapshotSummary,
  SnapshotWriter,
  type WriterOptions,
} from './image/snapshot-writer.ts'
import { asRunning } from './run-state.ts'
import { command as commands } from './stream/format.ts'
import type { StreamReader } from './stream/parser.ts'
import type { StreamItem } from './stream/stream-item.ts'

export interface SaveOptions extends WriterOptions {
  /** The source asked for an answer to a ping, on the return path. */
  readonly onPing?: (value: number) => void
  /** Pages begin to come: the state of the guest is that of a moment that is past. */
  readonly onRam?: () => void
  /** Save the guest as running although it was stopped. */
  readonly asRunning?: boolean
  readonly onProgress?: (streamBytes: number) => void
  /** `end`: of the item, in the stream. */
  readonly onItem?: (item: StreamItem, end: number) => void
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
      if (reader.usesMultifd) throw elsewhere(reader)
      options.onItem?.(item, reader.offset)
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
      options.onRam?.()
      return await writer.records(item.records)
    case 'section':
      if (item.early) return writer.leader(item.bytes)
      return await writer.devices(options.asRunning ? asRunning(item) : item.bytes)
    case 'end':
    case 'description':
      return await writer.devices(item.bytes)
    case 'ram-part':
      return
  }
}

/** One channel of several is a stream that looks whole. */
function elsewhere({ offset }: StreamReader): BlockError {
  const text = 'a snapshot cannot carry multifd: most of the pages come over other connections'
  return new BlockError('UNSUPPORTED', text, { offset, errno: 'ENOTSUP' })
}
