/** `varve snap save`: what a QEMU sends is saved, and QEMU is never left standing. */
import { returnMessage } from '../../snapshot/stream/format.ts'
import { readStream, type StreamReader } from '../../snapshot/stream/parser.ts'
import type { NamedIo } from '../command.ts'
import type { SnapArguments } from './arguments.ts'
import { type Channel, openChannel } from './channel.ts'
import { drainAfterFailure } from './drain.ts'
import { NewSnapshotFile } from './image.ts'
import { saveInto } from './save-into.ts'

export async function save(settings: SnapArguments, io: NamedIo): Promise<number> {
  const channel = await openChannel(settings.uri, 'save', io.signal)
  const { pageSize, noDescription } = settings
  const reader = readStream(channel.source, { pageSize, withoutDescription: noDescription })
  let file: NewSnapshotFile | undefined
  try {
    const [filename] = settings.files
    const { imageSize = 0, cache, base, compress } = settings
    file = await NewSnapshotFile.create(filename, io, { size: imageSize, cache, base, compress })
    const summary = await saveInto(file, reader, settings, io, {
      onPing: (value) => void answer(channel, returnMessage.MIG_RP_MSG_PONG, value),
    })
    channel.check()
    await file.keep()
    // QEMU takes the migration for complete when it hears so, which has to be true by then.
    if (reader.hasReturnPath) await answer(channel, returnMessage.MIG_RP_MSG_SHUT, 0)
    if (settings.json) {
      io.stderr.write(
        `${JSON.stringify({ ...summary, file: filename, streamSize: reader.offset })}\n`,
      )
    }
    return 0
  } catch (error) {
    await failed(channel, reader, file)
    throw error
  } finally {
    await channel.close()
  }
}

/** The image is removed, its reason told, and QEMU kept going until it can bear our leaving. */
async function failed(
  channel: Channel,
  reader: StreamReader,
  file: NewSnapshotFile | undefined,
): Promise<void> {
  await file?.discard()
  if (reader.hasReturnPath) {
    await answer(channel, returnMessage.MIG_RP_MSG_SHUT, 1).catch(() => {})
  }
  await drainAfterFailure(channel.source)
}

/** A message on the return path. */
export async function answer(channel: Channel, type: number, value: number): Promise<void> {
  const message = Buffer.alloc(8)
  message.writeUInt16BE(type)
  message.writeUInt16BE(4, 2)
  message.writeUInt32BE(value, 4)
  await channel.sink.write(message).catch(() => {})
}
