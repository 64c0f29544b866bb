/** What a restore is going to make of its archives, decided before anything is written. */
import { basename } from 'node:path'
import { isVmstate, type VmaDevice } from '../../archive/vma/header.ts'
import { configNameOf, isFileName } from '../../archive/vma/names.ts'
import type { VmaReader } from '../../archive/vma/reader.ts'
import { deviceNamed } from '../../archive/vma/restore.ts'
import { BlockError, invalid } from '../../errors.ts'
import type { DeviceFormat } from './device-file.ts'

export interface ArchivePlan {
  readonly reader: VmaReader
  /** The folder below the target folder that its files go to; undefined: the latter itself. */
  readonly subfolder: string | undefined
  readonly devices: readonly { readonly device: VmaDevice; readonly file: string }[]
  readonly configs: readonly { readonly data: Uint8Array; readonly file: string }[]
}

export interface PlanOptions {
  readonly format: DeviceFormat
  /** Names of the devices that are wanted; all of them when there are none. */
  readonly devices: readonly string[]
}

/**
 * Several archives go to folders of their own. A device that is asked for has to be in one of
 * them; archives without any that is asked for give their configuration files only.
 */
export function planRestore(
  archives: readonly { readonly name: string; readonly reader: VmaReader }[],
  options: PlanOptions,
): ArchivePlan[] {
  const subfolders = archives.map(({ name }) => (archives.length > 1 ? folderOf(name) : undefined))
  refuseTwins(subfolders)
  refuseUnknown(
    archives.map(({ reader }) => reader),
    options.devices,
  )
  return archives.map(({ reader }, index) => ({
    reader,
    subfolder: subfolders[index],
    devices: devicesOf(reader, options).map((device) => ({
      device,
      file: deviceFileName(device, options.format),
    })),
    configs: reader.header.configs.map(({ name, data }) => ({ data, file: configNameOf(name) })),
  }))
}

/** `vzdump-qemu-100.vma.zst` becomes `vzdump-qemu-100`. */
function folderOf(archive: string): string {
  if (archive === '-') return 'stdin'
  const name = basename(archive)
    .replace(/\.(zst|gz)$/, '')
    .replace(/\.vma$/, '')
  if (isFileName(name)) return name
  throw invalid(`'${archive}' does not tell a folder name; restore it alone`)
}

function refuseTwins(subfolders: readonly (string | undefined)[]): void {
  const twin = subfolders.find((name, index) => name && subfolders.indexOf(name) < index)
  if (twin) throw invalid(`two archives would be restored to '${twin}'; restore them apart`)
}

function refuseUnknown(readers: readonly VmaReader[], wanted: readonly string[]): void {
  const known = new Set(readers.flatMap(({ header }) => header.devices.map(({ name }) => name)))
  const unknown = wanted.find((name) => !known.has(name))
  if (unknown === undefined) return
  const names = [...known].join(', ') || 'none'
  throw invalid(`there is no device '${unknown}'; the devices are: ${names}`)
}

/** Of two devices of one name neither can be restored by it. */
function devicesOf({ header }: VmaReader, { devices }: PlanOptions): readonly VmaDevice[] {
  const all = header.devices
  const chosen = devices.length === 0 ? all : all.filter(({ name }) => devices.includes(name))
  for (const { name } of chosen) deviceNamed(all, name)
  return chosen
}

function deviceFileName(device: VmaDevice, format: DeviceFormat): string {
  if (isVmstate(device)) return 'vmstate.bin'
  if (isFileName(device.name)) return `disk-${device.name}.${format}`
  throw new BlockError(
    'UNSUPPORTED',
    `device '${device.name}' has a name that cannot be a file's; ` +
      "'varve vma extract -r' lets you say where it goes",
  )
}
