/** `varve snap load`: brings a snapshot to a QEMU that waits for one. */
import { neverAborted } from '../../block/layer.ts'
import { RateLimit } from '../../block/rate-limit.ts'
import { SnapshotReader } from '../../snapshot/image/snapshot-reader.ts'
import { type LoadSummary, loadSnapshot, recoverLoad } from '../../snapshot/load/load.ts'
import { ReturnPath } from '../../snapshot/load/return-path.ts'
import type { NamedIo } from '../command.ts'
import type { SnapArguments } from './arguments.ts'
import { closedEarly, openChannel } from './channel.ts'
import { openSnapshotImage } from './image.ts'
import { tracedLoad } from './trace.ts'

export async function load(settings: SnapArguments, io: NamedIo): Promise<number> {
  const [filename] = settings.files
  await using image = await openSnapshotImage(filename, io, {
    readOnly: true,
    cache: settings.cache,
  })
  const snapshot = await SnapshotReader.open(image)
  const summary = await loadOver(snapshot, settings, io)
  if (settings.json) io.stderr.write(`${JSON.stringify({ file: filename, ...summary })}\n`)
  return 0
}

/** Sends a snapshot to where the settings say. */
export async function loadOver(
  snapshot: SnapshotReader,
  settings: SnapArguments,
  io: NamedIo,
): Promise<LoadSummary> {
  const bulk = settings.postcopy === undefined && !settings.recover
  const channel = await openChannel(settings.uri, 'load', io.signal, bulk)
  const rate = settings.speed === undefined ? undefined : new RateLimit()
  if (rate) rate.rate = settings.speed ?? 0
  try {
    const work = settings.recover ? recoverLoad : loadSnapshot
    return await work(snapshot, channel.sink, {
      postcopyPercent: settings.postcopy,
      returnPath: () => new ReturnPath(channel.source),
      rate,
      ...tracedLoad(settings, io),
      signal: io.signal ?? neverAborted,
    })
  } catch (error) {
    throw closedEarly(error) ?? error
  } finally {
    await channel.close()
  }
}
