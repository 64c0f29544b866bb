/**
 * Images whose data lies in a file of its own (incompatible bit 2). Each cluster has the offset
 * there that it has on the disk, so none is counted, shared or compressed.
 *
 * A raw data file (autoclear bit 1) is a disk by itself: every cluster has its entry from the
 * beginning, and whatever reads as zeroes is zeroes there.
 */
import { type BlockLayer, type Io, plainIo, type ZeroIo } from '../../block/layer.ts'
import { alignUp } from '../../bytes/range.ts'
import { cryptMethod } from './encryption/place.ts'
import { extensionType, textOf } from './extensions.ts'
import type { Header } from './header.ts'
import { incompatible } from './header.ts'
import type { Qcow2Image } from './image.ts'

/** Finds the data file of an image that has one; undefined where the header names none. */
export type OpenDataFile = (header: Header) => Promise<BlockLayer | undefined>

export const noDataFile: OpenDataFile = async (header) => {
  if (hasDataFile(header)) throw new TypeError('nobody has opened the data file')
  return undefined
}

export function hasDataFile({ incompatibleFeatures }: Header): boolean {
  return (incompatibleFeatures & incompatible.externalDataFile) !== 0n
}

/** As recorded; undefined where it is left to whoever opens the image. */
export function dataFileName(header: Header): string | undefined {
  const found = header.extensions.find(({ type }) => type === extensionType.dataFile)
  return found && textOf(found.data)
}

/**
 * How long a data file has to be for a disk of `size` bytes: as long as that, so that every cluster
 * can be written in place. Enciphered, it has all of the last cluster, for zeroes are not simply what
 * lies behind its end: a program that makes the disk larger, and looks at nothing else, would show
 * what they decipher to.
 */
export function dataFileLength({ clusterBits, cryptMethod: method }: Header, size: number): number {
  return method === cryptMethod.none ? size : alignUp(size, 2 ** clusterBits)
}

/** Makes a data file as long as the disk needs it. */
export async function lengthenDataFile(file: BlockLayer, header: Header): Promise<void> {
  const length = dataFileLength(header, header.size)
  if (file.size < length && file.capabilities.resize) await file.truncate(length, plainIo)
}

/** How far clusters of the disk can be written: a device may end with the disk. */
export function dataFileEnd({ dataFile, header }: Qcow2Image): number {
  const { size } = header.current
  const inside = Math.min(dataFile?.size ?? 0, dataFileLength(header.current, size))
  return Math.max(size, inside)
}

/**
 * What a data file needs when its clusters are marked as zero: a raw one, the zeroes. The others
 * may give their space back at once, since nobody else can get it: whatever a crash leaves of the
 * tables, zeroes are what was asked for. If it is enciphered zeroes mean nothing there: see
 * `giveBackEnciphered`.
 */
export async function zeroDataFile(
  image: Qcow2Image,
  offset: number,
  length: number,
  io: ZeroIo,
): Promise<void> {
  const { dataFile, raw, discardsRequested, space } = image
  if (!dataFile || space.enciphered) return
  const inside = Math.min(length, dataFile.size - offset)
  if (inside <= 0) return
  const mayUnmap = io.mayUnmap && discardsRequested
  if (raw) await dataFile.writeZeroes(offset, inside, { ...io, mayUnmap })
  else if (mayUnmap) await discard(dataFile, offset, inside, io)
}

/**
 * The space in a data file of what now reads as zeroes. While tables on disk say that it is data,
 * what a hole deciphers to is nothing that was ever written, so they come first.
 */
export async function giveBackEnciphered(
  image: Qcow2Image,
  offset: number,
  length: number,
  io: ZeroIo,
): Promise<void> {
  const { dataFile, discardsRequested, space, writeBack } = image
  if (!dataFile || !space.enciphered || !io.mayUnmap || !discardsRequested) return
  const inside = Math.min(length, dataFile.size - offset)
  if (inside <= 0) return
  await writeBack.flushChanges()
  await discard(dataFile, offset, inside, io)
}

/** A hint: a file system that cannot do it keeps the space. */
async function discard(file: BlockLayer, offset: number, length: number, io: Io): Promise<void> {
  await Promise.resolve(file.discard(offset, length, io)).catch(() => {})
}
