/** Saves a stream into a new image, sharing the pages of a base where there is one. */
import { neverAborted } from '../../block/layer.ts'
import { baseOf } from '../../snapshot/image/base.ts'
import { SnapshotReader } from '../../snapshot/image/snapshot-reader.ts'
import type { SnapshotSummary } from '../../snapshot/image/snapshot-writer.ts'
import { type SaveOptions, saveSnapshot } from '../../snapshot/save.ts'
import { readStream, type StreamReader } from '../../snapshot/stream/parser.ts'
import type { ByteSource } from '../../snapshot/stream/window.ts'
import type { NamedIo } from '../command.ts'
import type { SnapArguments } from './arguments.ts'
import { type NewSnapshotFile, openSnapshotImage } from './image.ts'
import { tracedSave } from './trace.ts'

type Settings = Pick<SnapArguments, 'base' | 'compress' | 'pageSize' | 'noDescription' | 'cache'> &
  Partial<Pick<SnapArguments, 'trace'>>

export async function saveInto(
  file: NewSnapshotFile,
  source: ByteSource | StreamReader,
  settings: Settings,
  io: NamedIo,
  options: SaveOptions = {},
): Promise<SnapshotSummary> {
  const { pageSize, noDescription, base, compress, cache } = settings
  const reader =
    'read' in source ? readStream(source, { pageSize, withoutDescription: noDescription }) : source
  const traced = tracedSave(settings, io)
  const common = { signal: io.signal ?? neverAborted, ...traced, ...options, compress }
  if (base === undefined) return await saveSnapshot(reader, file.image, common)
  await using image = await openSnapshotImage(base, io, { readOnly: true, cache })
  const below = await baseOf(await SnapshotReader.open(image))
  return await saveSnapshot(reader, file.image, { ...common, base: below })
}
