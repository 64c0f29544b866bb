/** `varve restore`: the disks and configuration files of archives, for a person. */
import { writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { Option } from 'commander'
import { formatUuid } from '../archive/vma/header.ts'
import type { VmaReader } from '../archive/vma/reader.ts'
import { restoreArchive } from '../archive/vma/restore.ts'
import { neverAborted } from '../block/layer.ts'
import { invalid, systemError } from '../errors.ts'
import type { CliIo } from './command.ts'
import { sizeText } from './img/size-text.ts'
import { collect, Interrupted, nativeProgram, runNative } from './native.ts'
import {
  openProgress,
  type Progress,
  type ProgressMode,
  progressHelp,
  progressModes,
  secondsSince,
  takenText,
} from './progress.ts'
import {
  type CreatedDevice,
  DeviceFiles,
  type DeviceFormat,
  deviceFormats,
} from './restore/device-file.ts'
import { NewFiles } from './restore/new-files.ts'
import { type ArchivePlan, planRestore } from './restore/plan.ts'
import { openArchive, print } from './vma/support.ts'

interface Options {
  readonly format: DeviceFormat
  readonly device?: readonly string[]
  readonly progress: ProgressMode
  readonly json?: boolean
}

/** What `--json` tells of an archive. */
interface Restored {
  readonly archive: string
  readonly uuid: string
  readonly ctime: number
  readonly devices: readonly CreatedDevice[]
  readonly configs: readonly { path: string; size: number }[]
}

export async function run(args: string[], io: CliIo): Promise<number> {
  const program = nativeProgram('restore', 'Restores disks and configuration files from backups.')
    .usage('[options] ARCHIVE... DIR')
    .argument(
      '<name...>',
      'archives, plain or compressed with zstd or gzip, - for standard input; then the folder',
    )
    .addOption(
      new Option('--format <format>', 'of the restored disks')
        .choices(deviceFormats)
        .default('raw'),
    )
    .option('--device <name>', 'restore only this one; may be given several times', collect)
    .addOption(new Option('--progress <kind>', progressHelp).choices(progressModes).default('auto'))
    .option('--json', 'describe the result as JSON')
    .action((names: string[], options: Options) => restore(names, options, io))
  return await runNative(program, args, io)
}

async function restore(names: readonly string[], options: Options, io: CliIo): Promise<void> {
  const archives = names.slice(0, -1)
  const folder = names.at(-1)!
  if (archives.length === 0) throw invalid('name the archives first, then the folder')
  if (archives.filter((name) => name === '-').length > 1) {
    throw invalid('standard input can be given once only')
  }
  const started = performance.now()
  try {
    const restored = await restoreAll(archives, resolve(io.cwd, folder), options, io)
    await report(restored, secondsSince(started), options, io)
  } catch (error) {
    if (io.signal?.aborted) throw new Interrupted('interrupted; what was not complete is removed')
    throw error
  }
}

async function restoreAll(
  names: readonly string[],
  folder: string,
  options: Options,
  io: CliIo,
): Promise<Restored[]> {
  const archives: { name: string; reader: VmaReader }[] = []
  try {
    for (const name of names) archives.push({ name, reader: await openArchive(name, io) })
    return await restoreOpened(archives, folder, options, io)
  } finally {
    for (const { reader } of archives) await reader[Symbol.asyncDispose]()
  }
}

async function restoreOpened(
  archives: readonly { readonly name: string; readonly reader: VmaReader }[],
  folder: string,
  options: Options,
  io: CliIo,
): Promise<Restored[]> {
  const plans = planRestore(archives, { format: options.format, devices: options.device ?? [] })
  const sizes = plans.flatMap(({ devices }) => devices.map(({ device }) => device.size))
  const total = sizes.reduce((sum, size) => sum + size, 0)
  using progress = startProgress(total, options, io)
  const restored: Restored[] = []
  for (const plan of plans) {
    const folders = plan.subfolder ? [folder, join(folder, plan.subfolder)] : [folder]
    restored.push(await restoreOne(plan, folders, options.format, progress, io))
  }
  return restored
}

interface SummedProgress extends Disposable {
  add(bytes: number): void
}

function startProgress(total: number, options: Options, io: CliIo): SummedProgress {
  const { stdout: lines, stderr: terminal } = io
  const shown: Progress = openProgress({
    mode: options.progress,
    label: 'restore',
    terminal,
    lines,
  })
  let done = 0
  return {
    add: (bytes) => {
      done += bytes
      shown.update(done, total)
    },
    [Symbol.dispose]: () => shown.stop(),
  }
}

async function restoreOne(
  plan: ArchivePlan,
  folders: readonly string[],
  format: DeviceFormat,
  progress: SummedProgress,
  io: CliIo,
): Promise<Restored> {
  const signal = io.signal ?? neverAborted
  await using files = await NewFiles.open(folders)
  const configs = await storeConfigs(plan, files)
  await using devices = new DeviceFiles(files, format, signal)
  for (const { device, file } of plan.devices) await devices.create(device, file)
  const { targets, state } = devices
  const onProgress = ({ bytes }: { bytes: number }) => progress.add(bytes)
  await restoreArchive(plan.reader, { targets, state, signal, onProgress })
  await devices.finish()
  await files.publish()
  const { name: archive, header } = plan.reader
  const { uuid, ctime } = header
  return { archive, uuid: formatUuid(uuid), ctime, devices: devices.created, configs }
}

async function storeConfigs({ configs }: ArchivePlan, files: NewFiles) {
  const stored: { path: string; size: number }[] = []
  for (const { file, data } of configs) {
    const { path, temporary } = await files.add(file)
    await writeFile(temporary, data, { flag: 'wx', mode: 0o644 }).catch((error) => {
      throw systemError(error, `Could not write '${path}'`, { path })
    })
    stored.push({ path, size: data.length })
  }
  return stored
}

async function report(
  archives: readonly Restored[],
  seconds: number,
  options: Options,
  io: CliIo,
): Promise<void> {
  if (options.json || options.progress === 'json') {
    await print(io.stdout, `${JSON.stringify({ event: 'restored', seconds, archives })}\n`)
    return
  }
  const devices = archives.flatMap((archive) => archive.devices)
  for (const { name, size, path } of devices) {
    await print(io.stdout, `${path}: ${name}, ${sizeText(size)}\n`)
  }
  const configs = archives.flatMap((archive) => archive.configs)
  for (const { path } of configs) await print(io.stdout, `${path}\n`)
  const bytes = devices.reduce((sum, { size }) => sum + size, 0)
  await print(
    io.stdout,
    `restored ${count(devices.length, 'disk')} of ${sizeText(bytes)} and ` +
      `${count(configs.length, 'configuration file')} in ${takenText(seconds)}; all checks passed\n`,
  )
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? '' : 's'}`
}
