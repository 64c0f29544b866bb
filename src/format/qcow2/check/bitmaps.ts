/**
 * Persistent bitmaps in a check: what they refer to, and their repair. A bitmap that is broken in
 * any way is given up as a whole, for nobody could rely on what it says; backups begin anew. What
 * is left goes into a new directory behind the end of the file, so nothing is written where the old
 * one seems to be, which may be another's place.
 */
import { plainIo } from '../../../block/layer.ts'
import { alignUp } from '../../../bytes/range.ts'
import { viewOf } from '../../../bytes/view.ts'
import { writeHead } from '../backing-link.ts'
import { tableEntry } from '../bitmap-data.ts'
import {
  type BitmapEntry,
  encodeDirectory,
  encodeExtension,
  readBitmapDirectory,
  scanBitmapDirectory,
} from '../bitmap-directory.ts'
import { extensionType } from '../extensions.ts'
import { autoclear, type Header } from '../header.ts'
import type { HeaderState } from '../header-state.ts'
import { entrySize, highOf, L2Layout, lowOf } from '../l2-table.ts'
import type { CheckedImage } from './references.ts'
import type { Report } from './report.ts'

export interface BitmapCheck extends CheckedImage {
  readonly report: Report
  /** Counts a reference to each cluster of a range. */
  region(offset: number, length: number): void
}

/** A range of the file. */
type Region = readonly [offset: number, length: number]

/** Counts what the directory, the tables and the bits take up. */
export async function countBitmaps(check: BitmapCheck): Promise<void> {
  const { file, header, faults, report, region } = check
  const directory = await readBitmapDirectory(file, header, faults)
  if (!directory) return
  region(directory.offset, directory.length)
  const seen = new Set<number>()
  for (const entry of directory.entries) {
    region(entry.tableOffset, entry.tableSize * entrySize)
    // A table that several entries share would make the walk longer than the file.
    if (seen.has(entry.tableOffset)) continue
    seen.add(entry.tableOffset)
    const { regions, broken } = await bitsOf(check, entry)
    for (const [offset, length] of regions) region(offset, length)
    for (const index of broken) {
      report.corruption(`bitmap '${entry.name}': entry ${index} of its table is broken`)
    }
  }
}

/**
 * Gives up what is broken, and what lies where something else does (`isTaken`), and counts the
 * rest. The image's file may have become longer.
 */
export async function mendBitmaps(
  check: BitmapCheck,
  state: HeaderState,
  isTaken: (offset: number, length: number) => boolean,
): Promise<void> {
  const { file, header, faults, report, region } = check
  const directory = await scanBitmapDirectory(file, header, faults)
  if (!directory) return
  let sound = directory.messages.length === 0
  for (const message of directory.messages) {
    report.corruption(`bitmap directory: ${message}; what is broken is removed`, true)
  }
  const kept: BitmapEntry[] = []
  if (sound && isTaken(directory.offset, directory.length)) sound = false
  for (const entry of directory.entries) {
    const fault = await keep(check, entry, isTaken)
    if (fault === undefined) kept.push(entry)
    else report.corruption(`bitmap '${entry.name}' ${fault}; it is removed`, true)
  }
  if (sound && kept.length === directory.entries.length) {
    return region(directory.offset, directory.length)
  }
  if (sound) check.report.say('The bitmap directory gets a new place')
  const place = await replaceDirectory(check, state, kept)
  if (place) region(...place)
}

/** Counts what a bitmap takes up, unless something is wrong with it: then says what. */
async function keep(
  check: BitmapCheck,
  entry: BitmapEntry,
  isTaken: (offset: number, length: number) => boolean,
): Promise<string | undefined> {
  const { tableOffset, tableSize } = entry
  const table: Region = [tableOffset, tableSize * entrySize]
  if (tableOffset + tableSize * entrySize > alignUp(check.file.end, check.file.clusterSize)) {
    return 'has its table behind the end of the file'
  }
  if (isTaken(...table)) return 'has its table where something else is'
  const { regions, broken } = await bitsOf(check, entry)
  if (broken.length > 0) return `has a broken entry ${broken[0]} in its table`
  const all = [table, ...regions]
  if (regions.some(([offset]) => offset >= check.file.end)) {
    return 'has bits behind the end of the file'
  }
  if (regions.some((region) => isTaken(...region))) return 'has bits where something else is'
  if (new Set(all.map(([offset]) => offset)).size < all.length) return 'has the same bits twice'
  for (const region of all) check.region(...region)
  return undefined
}

/** Clusters of bits that a table names, and its entries that contradict the format. */
async function bitsOf(
  { file }: BitmapCheck,
  { tableOffset, tableSize }: BitmapEntry,
): Promise<{ regions: Region[]; broken: number[] }> {
  const { clusterSize } = file
  const bytes = new Uint8Array(tableSize * entrySize)
  await file.read(tableOffset, bytes, plainIo)
  const view = viewOf(bytes)
  const regions: Region[] = []
  const broken: number[] = []
  for (let index = 0; index < tableSize; index++) {
    const entry = tableEntry(highOf(view, index), lowOf(view, index), clusterSize)
    if (entry === undefined) broken.push(index)
    else if (typeof entry === 'number') regions.push([entry, clusterSize])
  }
  return { regions, broken }
}

/** Returns where the new directory lies, if there is one. */
async function replaceDirectory(
  { file, faults, header }: BitmapCheck,
  state: HeaderState,
  entries: readonly BitmapEntry[],
): Promise<Region | undefined> {
  const others = state.stored.extensions.filter(({ type }) => type !== extensionType.bitmaps)
  const flags = state.stored.autoclearFeatures & ~autoclear.bitmaps
  let next: Header = { ...state.stored, extensions: others, autoclearFeatures: flags }
  const bytes = encodeDirectory(entries)
  const offset = alignUp(file.end, file.clusterSize)
  if (bytes.length > 0) {
    const whole = new Uint8Array(alignUp(bytes.length, file.clusterSize))
    whole.set(bytes)
    await file.write(offset, whole)
    await file.flush()
    const extension = encodeExtension({ offset, length: bytes.length, entries })
    const extensions = [extension, ...others]
    next = { ...next, extensions, autoclearFeatures: flags | autoclear.bitmaps }
  }
  await writeHead({ file, faults, header: state, layout: new L2Layout(header) }, next)
  state.replaceHead(next)
  state.current.autoclearFeatures = next.autoclearFeatures
  return bytes.length > 0 ? [offset, bytes.length] : undefined
}
