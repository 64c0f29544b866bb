/** Devices: what differs from files. */
import { type Stats, statSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { errnoOf } from '../../errors.ts'
import type { OpenFile } from './open-file.ts'

/** Unit of the kernel's `size` attribute, whatever the device's blocks are. */
const sysfsSector = 512

/** Linux, Documentation/admin-guide/devices.txt: SCSI CD-ROM devices, which all are today. */
const cdromMajor = 11

/**
 * What kind of device a path leads to; undefined for anything else, and for what cannot be looked
 * at: opening it will say why.
 */
export function deviceKind(path: string): 'cdrom' | 'other' | undefined {
  let stats: Stats | undefined
  try {
    stats = statSync(path, { throwIfNoEntry: false })
  } catch {
    return undefined
  }
  if (!stats || !isDevice(stats)) return undefined
  const isCdrom = stats.isBlockDevice() && deviceNumbers(stats.rdev).major === cdromMajor
  return isCdrom ? 'cdrom' : 'other'
}

export function isDevice(stats: Stats): boolean {
  return stats.isBlockDevice() || stats.isCharacterDevice()
}

/** Capacity in bytes. Throws a system error. */
export async function deviceSize(device: OpenFile, stats: Stats): Promise<number> {
  if (device.sys.supported.holes) return device.sys.seekEnd(device.fd)
  if (!stats.isBlockDevice()) return 0
  const { major, minor } = deviceNumbers(stats.rdev)
  const sectors = await readFile(`/sys/dev/block/${major}:${minor}/size`, 'latin1')
  return Number(sectors) * sysfsSector
}

/** linux/fs.h: tells a device that a range, given as start and length, is no longer needed. */
const BLKDISCARD = 0x1277

/** Whether the device took the hint; not every device does, nor any range. */
export async function discardOnDevice(
  device: OpenFile,
  offset: number,
  length: number,
): Promise<boolean> {
  if (!device.sys.supported.ioctl) return false
  const range = new Uint8Array(BigUint64Array.of(BigInt(offset), BigInt(length)).buffer)
  try {
    await device.during((fd) => device.sys.ioctl(fd, BLKDISCARD, range))
    return true
  } catch (error) {
    const errno = errnoOf(error)
    if (errno === 'EOPNOTSUPP' || errno === 'EINVAL' || errno === 'ENOTTY') return false
    throw device.fail(error, `discarding ${length} bytes`, offset)
  }
}

export async function deviceIoctl(
  device: OpenFile,
  request: number,
  argument: Uint8Array | number,
): Promise<number> {
  try {
    return await device.during((fd) => device.sys.ioctl(fd, request, argument))
  } catch (error) {
    throw device.fail(error, `ioctl 0x${request.toString(16)}`)
  }
}

/** Linux packs 12 bits of major and 20 of minor: minor's low 8 bits, major, minor's rest. */
function deviceNumbers(rdev: number): { major: number; minor: number } {
  const major = Math.floor(rdev / 2 ** 8) % 2 ** 12
  const minor = (rdev % 2 ** 8) + Math.floor(rdev / 2 ** 20) * 2 ** 8
  return { major, minor }
}
