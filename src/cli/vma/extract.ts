/** `vma extract`: devices and configuration files of an archive into a new directory. */
import { mkdir, rmdir, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { FileTarget } from '../../archive/vma/file-target.ts'
import { isVmstate, type VmaDevice } from '../../archive/vma/header.ts'
import { openReadable } from '../../archive/vma/io/open-source.ts'
import { configNameOf, isFileName } from '../../archive/vma/names.ts'
import type { VmaReader } from '../../archive/vma/reader.ts'
import { deviceNamed, type RestoreTarget, restoreArchive } from '../../archive/vma/restore.ts'
import { BlockError, systemError } from '../../errors.ts'
import type { CliIo } from '../command.ts'
import { type DeviceMap, readDeviceMap } from './device-map.ts'
import { MappedTargets } from './mapped-targets.ts'
import {
  archivePath,
  listOf,
  openArchive,
  parseCommandLine,
  print,
  ReadProgress,
  UsageError,
} from './support.ts'

export async function extractCommand(args: string[], io: CliIo): Promise<void> {
  const line = parseCommandLine(args, 'vd:r:', [{ name: 'keep' }], ['filename', 'targetdir'])
  const [filename, targetDir] = line.positionals
  const verbose = line.has('v')
  const mapName = line.last('r')
  if (filename === '-' && mapName === '-') {
    throw new UsageError('the archive and the device map cannot both be standard input')
  }
  await using reader = await openArchive(filename, io)
  const configs = configsOf(reader)
  const wanted = chooseDevices(reader, line.last('d'))
  await using folder = await Folder.create(archivePath(targetDir, io), line.has('keep'))
  for (const { name, data } of configs) await folder.store(name, data)
  if (verbose || mapName !== undefined) await print(io.stdout, listOf(reader.header))
  const map = await mapOf(mapName, io)
  await using targets = await MappedTargets.open(mappedOnly(wanted, map), map, io)
  const files = await folder.createFiles(unmapped(wanted, map), io)
  await restore(reader, new Map([...targets.all, ...files.targets]), files.state, verbose, io)
  await targets.flush()
  await folder.publish()
}

/** Names that are safe to use, and no two alike. */
function configsOf(reader: VmaReader) {
  const seen = new Set<string>()
  return reader.header.configs.map(({ name, data }) => {
    const base = configNameOf(name)
    if (seen.has(base)) {
      throw new BlockError('INVALID_ARGUMENT', `two configuration files are called '${base}'`)
    }
    seen.add(base)
    return { name: base, data }
  })
}

/** The devices of a list like `scsi0,scsi1`, or all. */
function chooseDevices(reader: VmaReader, list: string | undefined): VmaDevice[] {
  const { devices } = reader.header
  const names = list && new Set(list.split(/[,;\s]+/).filter((name) => name !== ''))
  const chosen = names ? [...names].map((name) => deviceNamed(devices, name)) : [...devices]
  for (const { name } of chosen) deviceNamed(chosen, name)
  return chosen
}

async function mapOf(name: string | undefined, io: CliIo): Promise<DeviceMap | undefined> {
  if (name === undefined) return undefined
  return await readDeviceMap(
    name === '-' ? io.stdin : await openReadable(archivePath(name, io), io.signal),
  )
}

function mappedOnly(wanted: readonly VmaDevice[], map: DeviceMap | undefined): VmaDevice[] {
  return map ? wanted.filter(({ name }) => map.mapped.has(name)) : []
}

/** What becomes a file. With a map, everything but a vmstate has to be in it. */
function unmapped(wanted: readonly VmaDevice[], map: DeviceMap | undefined): VmaDevice[] {
  if (!map) return [...wanted]
  const left = wanted.filter(({ name }) => !map.mapped.has(name) && !map.skipped.has(name))
  const lost = left.find((device) => !isVmstate(device))
  if (!lost) return left
  throw new BlockError(
    'INVALID_ARGUMENT',
    `the device map does not say where '${lost.name}' goes; 'skip=${lost.name}' leaves it out`,
  )
}

async function restore(
  reader: VmaReader,
  targets: ReadonlyMap<number, RestoreTarget>,
  state: { readonly id: number; readonly target: FileTarget } | undefined,
  verbose: boolean,
  io: CliIo,
): Promise<void> {
  const chosen = reader.header.devices.filter(({ id }) => targets.has(id) || id === state?.id)
  const total = chosen.reduce((sum, { size }) => sum + size, 0)
  const progress = new ReadProgress(io.stdout, verbose ? total : Infinity)
  await restoreArchive(reader, {
    targets,
    state,
    signal: io.signal,
    onProgress: (passed) => progress.add(passed),
  })
  if (verbose) await progress.printTotals()
}

/** The new directory. Disposed before it was published, it disappears with what was made in it. */
class Folder implements AsyncDisposable {
  readonly #path: string
  readonly #keep: boolean
  readonly #made: string[] = []
  readonly #files: FileTarget[] = []
  #published = false

  private constructor(path: string, keep: boolean) {
    this.#path = path
    this.#keep = keep
  }

  static async create(path: string, keep: boolean): Promise<Folder> {
    try {
      await mkdir(path)
    } catch (error) {
      throw systemError(error, `Could not create the directory '${path}'`, { path })
    }
    return new Folder(path, keep)
  }

  async store(name: string, data: Uint8Array): Promise<void> {
    const path = join(this.#path, name)
    this.#made.push(path)
    try {
      await writeFile(path, data, { flag: 'wx' })
    } catch (error) {
      throw systemError(error, `Could not write '${path}'`, { path })
    }
  }

  /** A file for each device; their names are announced. */
  async createFiles(devices: readonly VmaDevice[], io: CliIo) {
    const targets = new Map<number, RestoreTarget>()
    let state: { id: number; target: FileTarget } | undefined
    for (const device of devices) {
      const target = await this.#createFile(device)
      if (isVmstate(device)) {
        state = { id: device.id, target }
        continue
      }
      targets.set(device.id, target)
      await print(io.stdout, `DEVINFO ${this.#temporaryOf(device)} ${device.size}\n`)
    }
    return { targets, state }
  }

  /** Everything is written: gives the files their final names. */
  async publish(): Promise<void> {
    for (const file of this.#files) await file.flush()
    for (const file of this.#files) await file.publish()
    this.#published = true
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const file of this.#files) await file[Symbol.asyncDispose]()
    if (this.#published || this.#keep) return
    for (const path of this.#made) await unlink(path).catch(() => {})
    await rmdir(this.#path).catch(() => {})
  }

  async #createFile(device: VmaDevice): Promise<FileTarget> {
    if (!isFileName(device.name)) {
      throw new BlockError(
        'UNSUPPORTED',
        `device '${device.name}' has a name that cannot be a file's; say where it goes with -r`,
      )
    }
    const [temporary, final] = isVmstate(device)
      ? [this.#temporaryOf(device), 'vmstate.bin']
      : [this.#temporaryOf(device), `disk-${device.name}.raw`]
    const path = join(this.#path, final)
    if (this.#made.includes(path) || this.#made.includes(temporary)) {
      throw new BlockError('UNSUPPORTED', `a configuration file is called like '${path}'`, { path })
    }
    const size = isVmstate(device) ? 0 : device.size
    const file = await FileTarget.create(path, temporary, size)
    this.#files.push(file)
    this.#made.push(temporary, path)
    return file
  }

  #temporaryOf(device: VmaDevice): string {
    return join(this.#path, isVmstate(device) ? 'tmp-vmstate.bin' : `tmp-disk-${device.name}.raw`)
  }
}
