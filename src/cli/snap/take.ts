/** `varve snap take`: saves a running guest by its monitor, start to end. */
import { lstat, statfs } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { neverAborted } from '../../block/layer.ts'
import { alignUp, GiB, MiB } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import { memorySizeOf } from '../../snapshot/control/migration.ts'
import { checkReady, takeSnapshot } from '../../snapshot/control/take.ts'
import { returnMessage } from '../../snapshot/stream/format.ts'
import { readStream, type StreamReader } from '../../snapshot/stream/parser.ts'
import { QmpClient } from '../../wire/qmp/client.ts'
import type { NamedIo } from '../command.ts'
import { sizeText } from '../img/size-text.ts'
import type { SnapArguments } from './arguments.ts'
import { type Channel, listenAt } from './channel.ts'
import { NewSnapshotFile } from './image.ts'
import { meetingPlace } from './meeting-place.ts'
import { answer } from './save.ts'
import { saveInto } from './save-into.ts'

export async function take(settings: SnapArguments, io: NamedIo): Promise<number> {
  const { qmp: monitor = '', cache, base, compress, mode } = settings
  const [filename] = settings.files
  const signal = io.signal ?? neverAborted
  await using qmp = await QmpClient.connect(monitor, { signal })
  await checkReady(qmp)
  const memory = await memorySizeOf(qmp)
  await checkFiles(settings, memory)
  const size = alignUp(2 * memory + 4 * GiB, MiB)
  const file = await NewSnapshotFile.create(filename, io, { size, cache, base, compress })
  try {
    await using place = await meetingPlace(settings.socket)
    const listener = await listenAt(place.path, signal)
    const stream = new IncomingStream(listener.channel, settings)
    try {
      const disks = settings.disks.map(({ disk, file }) => ({ disk, file: resolve(io.cwd, file) }))
      const summary = await takeSnapshot(qmp, {
        ...{ mode, disks, signal, uri: `unix:${place.path}` },
        save: async ({ onRam, running, signal }) => {
          const reader = await stream.open(signal)
          const summary = await saveInto(file, reader, settings, io, {
            ...{ onRam, asRunning: running, signal },
            onPing: (value) => void stream.answer(returnMessage.MIG_RP_MSG_PONG, value),
          })
          stream.check()
          await file.keep()
          if (reader.hasReturnPath) await stream.answer(returnMessage.MIG_RP_MSG_SHUT, 0)
          await stream.close()
          return summary
        },
        drain: () => stream.drain(),
      })
      const { mode: taken, ramSize, normalPages } = summary
      const text = settings.json
        ? JSON.stringify({ ...summary, file: filename })
        : `${filename}: ${sizeText(ramSize)} of RAM, ${normalPages} pages, ${taken}`
      io.stdout.write(`${text}\n`)
      return 0
    } finally {
      await stream.close()
      await listener.close()
    }
  } catch (error) {
    await file.discard()
    throw error
  }
}

/** The connection that QEMU makes, once it does. */
class IncomingStream {
  readonly #connect: () => Promise<Channel>
  readonly #settings: SnapArguments
  #channel: Channel | undefined
  #reader: StreamReader | undefined

  constructor(connect: () => Promise<Channel>, settings: SnapArguments) {
    this.#connect = connect
    this.#settings = settings
  }

  async open(signal: AbortSignal): Promise<StreamReader> {
    const refused = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason))
    })
    this.#channel = await Promise.race([this.#connect(), refused])
    const { pageSize, noDescription } = this.#settings
    const options = { pageSize, withoutDescription: noDescription }
    this.#reader = readStream(this.#channel.source, options)
    return this.#reader
  }

  check(): void {
    this.#channel?.check()
  }

  async answer(type: number, value: number): Promise<void> {
    if (this.#channel) await answer(this.#channel, type, value)
  }

  /** To the end, or until QEMU hangs up. */
  async drain(): Promise<void> {
    if (this.#reader?.hasReturnPath) await this.answer(returnMessage.MIG_RP_MSG_SHUT, 1)
    await this.#reader?.drain().catch(() => {})
  }

  async close(): Promise<void> {
    await this.#channel?.close()
  }
}

/** What would make it fail later is found now. */
async function checkFiles(settings: SnapArguments, memory: number): Promise<void> {
  const [filename] = settings.files
  for (const { file } of settings.disks) {
    if (await lstat(file).catch(() => undefined)) {
      throw new BlockError('INVALID_ARGUMENT', `'${file}' exists already`, { path: file })
    }
  }
  if (settings.force || settings.compress || settings.base !== undefined) return
  const { bavail, bsize } = await statfs(dirname(resolve(filename))).catch((error) => {
    throw new BlockError('IO', `'${dirname(filename)}' is no folder`, { cause: error })
  })
  if (bavail * bsize >= memory) return
  throw new BlockError(
    'NO_SPACE',
    `there are ${sizeText(bavail * bsize)} free for ${sizeText(memory)} of RAM; --force tries ` +
      'nevertheless, which works where much of it is zero',
    { path: filename, errno: 'ENOSPC' },
  )
}
