/** `vma create`: configuration files and disk images into a new archive. */
import { open } from 'node:fs/promises'
import { openSink } from '../../archive/vma/io/open-sink.ts'
import { type DiskSource, storeDevice } from '../../archive/vma/store-device.ts'
import { maxBlobSize } from '../../archive/vma/structures.ts'
import { VmaWriter, type VmaWriterOptions } from '../../archive/vma/writer.ts'
import { neverAborted } from '../../block/layer.ts'
import { BlockError, systemError } from '../../errors.ts'
import type { CliIo } from '../command.ts'
import { type ImageSpec, Images } from './image.ts'
import { archivePath, parseCommandLine, percent, print } from './support.ts'

export async function createCommand(args: string[], io: CliIo): Promise<void> {
  const line = parseCommandLine(args, 'vc:d:', [{ name: 'reproducible' }], ['filename'])
  const writing = writerOptions(line.has('reproducible'), io)
  const configs = await Promise.all(line.all('c').map((name) => readConfig(name, io)))
  const devices = line.all('d').map(parseDevice)
  refuseDuplicates(devices)
  await using images = new Images(io)
  const sources: OpenDevice[] = []
  for (const device of devices) {
    sources.push({ name: device.name, disk: await images.openSource(device) })
  }
  const target = outputName(line.positionals[0], io)
  const sink = await openSink(target, { stdout: io.stdout, signal: io.signal })
  await using writer = await VmaWriter.open(sink, writing)
  for (const { name, data } of configs) writer.registerConfig(name, data)
  await store(writer, sources, line.has('v'), io)
  await writer.close()
}

function outputName(name: string, io: CliIo): string {
  const isPath = name !== '-' && !name.startsWith('exec:')
  return isPath ? archivePath(name, io) : name
}

/** Reproducible archives carry the time of their sources: `SOURCE_DATE_EPOCH`, or the epoch. */
function writerOptions(reproducible: boolean, io: CliIo): VmaWriterOptions {
  if (!reproducible) return {}
  const given = io.env.SOURCE_DATE_EPOCH
  if (given === undefined || given === '') return { reproducible }
  const ctime = Number(given)
  if (/^\d+$/.test(given) && Number.isSafeInteger(ctime)) return { reproducible, ctime }
  throw new BlockError(
    'INVALID_ARGUMENT',
    `SOURCE_DATE_EPOCH is '${given}', not a number of seconds`,
  )
}

export interface DeviceSpec extends ImageSpec {
  readonly name: string
}

/** `[format=FORMAT:][NAME=]PATH`; devices without a name are called `disk<index>`. */
export function parseDevice(text: string, index: number): DeviceSpec {
  const [, format, rest] = /^(?:format=([^:]*):)?(.*)$/s.exec(text)!
  const [, name, path] = /^(?:([^=/]+)=)?(.*)$/s.exec(rest)!
  if (path === '' || format === '') {
    throw new BlockError('INVALID_ARGUMENT', `-d ${text}: expected [format=FORMAT:][NAME=]PATH`)
  }
  return { format, name: name ?? `disk${index}`, path }
}

/** Reads at most what an archive can hold, and a byte more that makes the writer refuse it. */
async function readConfig(name: string, io: CliIo) {
  try {
    await using file = await open(archivePath(name, io))
    const data = Buffer.alloc(maxBlobSize + 1)
    let length = 0
    while (length < data.length) {
      const { bytesRead } = await file.read(data, length)
      if (bytesRead === 0) break
      length += bytesRead
    }
    return { name, data: data.subarray(0, length) }
  } catch (error) {
    throw systemError(error, `Could not read '${name}'`, { path: name })
  }
}

interface OpenDevice {
  readonly name: string
  readonly disk: DiskSource
}

function refuseDuplicates(devices: readonly DeviceSpec[]): void {
  const seen = new Set<string>()
  for (const { name } of devices) {
    if (seen.has(name)) {
      throw new BlockError('INVALID_ARGUMENT', `two devices are called '${name}'`)
    }
    seen.add(name)
  }
}

async function store(
  writer: VmaWriter,
  devices: readonly OpenDevice[],
  verbose: boolean,
  io: CliIo,
): Promise<void> {
  const ids = devices.map(({ name, disk }) => writer.registerStream(name, disk.size))
  const total = devices.reduce((sum, { disk }) => sum + disk.size, 0)
  const progress = new CreateProgress(io, total, verbose)
  for (const [index, { disk }] of devices.entries()) {
    const signal = io.signal ?? neverAborted
    await storeDevice(writer, ids[index], disk, { signal }, progress.add)
    await progress.settle()
  }
  if (!verbose) return
  for (const { name, size, zeroBytes } of writer.status.streams) {
    const line = `image ${name}: size=${size} zeros=${zeroBytes} saved=${size - zeroBytes}\n`
    await print(io.stderr, line)
  }
}

/** A line on standard error for each percent. */
class CreateProgress {
  readonly #io: CliIo
  readonly #total: number
  readonly #verbose: boolean
  #done = 0
  #zeroes = 0
  #shown = 0
  #printing: Promise<void> = Promise.resolve()

  constructor(io: CliIo, total: number, verbose: boolean) {
    this.#io = io
    this.#total = total
    this.#verbose = verbose
  }

  readonly add = ({ bytes, zeroBytes }: { bytes: number; zeroBytes: number }): void => {
    this.#done += bytes
    this.#zeroes += zeroBytes
    const now = Math.floor(percent(this.#done, this.#total))
    if (!this.#verbose || now === this.#shown) return
    this.#shown = now
    const line = `progress ${now}% ${this.#done}/${this.#total} ${this.#zeroes}\n`
    this.#printing = this.#printing.then(() => print(this.#io.stderr, line))
    this.#printing.catch(() => {})
  }

  /** Waits for the lines; fails when one could not be printed. */
  async settle(): Promise<void> {
    await this.#printing
  }
}
