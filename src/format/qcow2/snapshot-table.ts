/** The snapshot table: where the L1 tables of internal snapshots lie, and what is known of them. */
import type { ClockTime, SnapshotFacts } from '../../block/abilities.ts'
import { plainIo } from '../../block/layer.ts'
import { alignUp } from '../../bytes/range.ts'
import { bits64, struct, u16, u32, u64 } from '../../bytes/struct.ts'
import { viewOf } from '../../bytes/view.ts'
import { BlockError } from '../../errors.ts'
import type { Faults } from './faults.ts'
import type { Header } from './header.ts'
import type { ImageFile } from './image-file.ts'
import { maxL1Bytes, maxSnapshotExtraBytes, maxSnapshots, maxSnapshotTableBytes } from './limits.ts'

export const snapshotEntry = struct('big', {
  l1TableOffset: u64,
  /** Entries. */
  l1Size: u32,
  idSize: u16,
  nameSize: u16,
  dateSeconds: u32,
  dateNanoseconds: u32,
  vmClockNanoseconds: bits64,
  vmStateSize: u32,
  extraDataSize: u32,
})

const entryAlignment = 8

/** The part of the extra data that every version 3 image has. */
export const snapshotExtra = struct('big', { vmStateSize: u64, diskSize: u64 })

export interface Snapshot extends SnapshotFacts {
  /** The whole entry as it is in the file: when others come and go it is kept to the byte. */
  readonly entry: Uint8Array
  readonly l1TableOffset: number
  readonly l1Size: number
  /** Bytes of the disk at that time; undefined in old version 2 images, whose disks never change. */
  readonly diskSize: number | undefined
}

export interface SnapshotTable {
  readonly snapshots: readonly Snapshot[]
  /** Bytes of the table in the file. */
  readonly length: number
}

/** What is wrong with an entry, in the words of qemu-img. */
export interface EntryFault {
  readonly index: number
  readonly message: string
  /** The entry as it can be kept; undefined where the snapshot is lost. */
  readonly mended: Uint8Array | undefined
  /** Nothing is lost: fields are missing whose values are known. */
  readonly harmless: boolean
  /** It is found when its L1 table is to be walked. */
  readonly inWalk?: boolean
}

export interface ScannedTable extends SnapshotTable {
  readonly faults: readonly EntryFault[]
}

/** Reads the table whose place and count `checkHeader` has approved. */
export async function readSnapshotTable(
  file: ImageFile,
  header: Header,
  faults: Faults,
): Promise<SnapshotTable> {
  const table = await scanSnapshotTable(file, header)
  const fault = table.faults.find(({ harmless }) => !harmless)
  if (!fault) return table
  throw faults.corrupt(`${fault.message}; check -r all removes it`, header.snapshotsOffset)
}

/**
 * Refuses what QEMU does not open: extra data that are too long. Whatever else is wrong with the
 * table keeps nobody from the disk.
 */
export async function refuseLongExtra(
  file: ImageFile,
  header: Header,
  faults: Faults,
): Promise<void> {
  if (header.nbSnapshots === 0) return
  try {
    await scanSnapshotTable(file, header, { asFound: true })
  } catch (error) {
    if (!(error instanceof BlockError) || error.errno !== 'EFBIG') throw error
    const hint = 'You can force-remove this extra metadata with qemu-img check -r all'
    throw faults.refuse('CORRUPT_IMAGE', `${error.message}\n${hint}`, header.snapshotsOffset)
  }
}

/**
 * As `readSnapshotTable`, whatever is wrong: `snapshots` are those that can be used. `asFound`: also
 * those whose L1 table is behind the end of the file; where the extra data of one are too long,
 * nothing is read at all.
 */
export async function scanSnapshotTable(
  file: ImageFile,
  header: Header,
  { asFound = false } = {},
): Promise<ScannedTable> {
  const snapshots: Snapshot[] = []
  const faults: EntryFault[] = []
  let at = 0
  for (let index = 0; index < header.nbSnapshots; index++) {
    const entry = await readEntry(
      file,
      header.snapshotsOffset + at,
      at,
      asFound ? index : undefined,
    )
    if (!entry) {
      const left = header.nbSnapshots - index
      const message = `${left} overhanging snapshots (snapshot table is too big)`
      faults.push({ index, message, mended: undefined, harmless: false })
      break
    }
    const fault = faultOf(entry, index, asFound ? Number.POSITIVE_INFINITY : file.size, header)
    const also = asFound && fault?.inWalk ? incomplete(entry, index, header) : undefined
    if (also) faults.push(also)
    if (fault) faults.push(fault)
    if (!fault || fault.harmless) snapshots.push(decodeSnapshot(entry))
    at = alignUp(at + entry.length, entryAlignment)
  }
  return { snapshots, faults, length: at }
}

/** An entry as long as it says it is; undefined where there is no room for that. */
async function readEntry(
  file: ImageFile,
  offset: number,
  at: number,
  /** Refused where it has too much extra data. */
  strictIndex: number | undefined,
): Promise<Uint8Array | undefined> {
  // What is told as it is found goes on behind the end of the file, as QEMU does, where zeroes are read.
  const fileEnd = strictIndex === undefined ? file.size : Number.POSITIVE_INFINITY
  const end = Math.min(fileEnd, offset - at + maxSnapshotTableBytes)
  if (offset + snapshotEntry.size > end) return undefined
  const fixed = new Uint8Array(snapshotEntry.size)
  await file.read(offset, fixed, plainIo)
  const view = viewOf(fixed)
  const { offsets, size } = snapshotEntry
  const names = view.getUint16(offsets.idSize) + view.getUint16(offsets.nameSize)
  const extra = view.getUint32(offsets.extraDataSize)
  if (strictIndex !== undefined && extra > maxSnapshotExtraBytes) throw tooMuchExtra(strictIndex)
  const length = size + extra + names
  if (offset + length > end) return undefined
  const entry = new Uint8Array(length)
  await file.read(offset, entry, plainIo)
  return entry
}

/** What only a repair of everything takes away. */
export function tooMuchExtra(index: number): BlockError {
  const message = `Too much extra metadata in snapshot table entry ${index}`
  return new BlockError('CORRUPT_IMAGE', message, { errno: 'EFBIG' })
}

/** Why a check cannot go on with the table that the header leads to, in the words of qemu-img. */
export function snapshotTableError({ nbSnapshots }: Header): BlockError {
  const left = nbSnapshots - maxSnapshots
  if (left <= 0) {
    const message = 'ERROR snapshot table offset invalid'
    return new BlockError('CORRUPT_IMAGE', message, { errno: 'EINVAL' })
  }
  const hint = `You can force-remove all ${left} overhanging snapshots with qemu-img check -r all`
  const message = `ERROR snapshot table too large\n${hint}`
  return new BlockError('CORRUPT_IMAGE', message, { errno: 'EFBIG' })
}

function faultOf(
  entry: Uint8Array,
  index: number,
  fileSize: number,
  header: Header,
): EntryFault | undefined {
  const view = viewOf(entry)
  const extra = view.getUint32(snapshotEntry.offsets.extraDataSize)
  if (extra > maxSnapshotExtraBytes) {
    const message = `too much extra metadata in snapshot table entry ${index} (${extra} > ${maxSnapshotExtraBytes})`
    const mended = withExtra(
      entry,
      entry.subarray(snapshotEntry.size).slice(0, maxSnapshotExtraBytes),
    )
    return { index, message, mended, harmless: false }
  }
  let snapshot: Snapshot
  try {
    snapshot = decodeSnapshot(entry)
  } catch {
    const message = `snapshot table entry ${index} has numbers beyond 2^53`
    return { index, message, mended: undefined, harmless: false }
  }
  const lost = l1FaultOf(snapshot, fileSize, header)
  if (lost !== undefined) {
    const message = `snapshot ${snapshot.id} (${snapshot.name}) ${lost}; snapshot table entry corrupted`
    return { index, message, mended: undefined, harmless: false, inWalk: true }
  }
  return incomplete(entry, index, header)
}

/** An entry that lacks what every one of version 3 has. */
function incomplete(entry: Uint8Array, index: number, header: Header): EntryFault | undefined {
  const extra = viewOf(entry).getUint32(snapshotEntry.offsets.extraDataSize)
  if (header.version < 3 || extra >= snapshotExtra.size) return undefined
  const known = { vmStateSize: decodeSnapshot(entry).vmStateSize, diskSize: header.size }
  const mended = withExtra(entry, snapshotExtra.encode(known))
  return { index, message: `snapshot table entry ${index} is incomplete`, mended, harmless: true }
}

/** The entry with other extra data. */
function withExtra(entry: Uint8Array, extra: Uint8Array): Uint8Array {
  const { size, offsets } = snapshotEntry
  const fixed = entry.slice(0, size)
  const names = entry.subarray(size + viewOf(entry).getUint32(offsets.extraDataSize))
  viewOf(fixed).setUint32(offsets.extraDataSize, extra.length)
  return Buffer.concat([fixed, extra, names])
}

function decodeSnapshot(entry: Uint8Array): Snapshot {
  const fields = snapshotEntry.decode(entry)
  const extra = entry.subarray(snapshotEntry.size, snapshotEntry.size + fields.extraDataSize)
  const known = extra.length >= snapshotExtra.size ? snapshotExtra.decode(extra) : undefined
  const idAt = snapshotEntry.size + fields.extraDataSize
  const nameAt = idAt + fields.idSize
  return {
    entry,
    id: Buffer.from(entry.subarray(idAt, nameAt)).toString('utf8'),
    name: Buffer.from(entry.subarray(nameAt, nameAt + fields.nameSize)).toString('utf8'),
    l1TableOffset: fields.l1TableOffset,
    l1Size: fields.l1Size,
    diskSize: known?.diskSize,
    vmStateSize: known?.vmStateSize ?? fields.vmStateSize,
    date: { seconds: fields.dateSeconds, nanoseconds: fields.dateNanoseconds },
    vmClock: clockTime(fields.vmClockNanoseconds),
    icount: icountIn(extra),
  }
}

/** What is recorded of a new snapshot. */
export interface SnapshotRecord extends SnapshotFacts {
  readonly l1TableOffset: number
  readonly l1Size: number
  readonly diskSize: number
}

export function encodeSnapshot(record: SnapshotRecord): Uint8Array {
  const id = Buffer.from(record.id)
  const name = Buffer.from(record.name)
  const icount = new Uint8Array(8).fill(0xff)
  if (record.icount !== undefined) viewOf(icount).setBigUint64(0, BigInt(record.icount))
  const fields = snapshotEntry.encode({
    l1TableOffset: record.l1TableOffset,
    l1Size: record.l1Size,
    idSize: id.length,
    nameSize: name.length,
    dateSeconds: record.date.seconds,
    dateNanoseconds: record.date.nanoseconds,
    vmClockNanoseconds: nanosecondsOf(record.vmClock),
    // The field of old; whoever knows the extra data ignores it.
    vmStateSize: record.vmStateSize < 2 ** 32 ? record.vmStateSize : 0,
    extraDataSize: snapshotExtra.size + icount.length,
  })
  const { vmStateSize, diskSize } = record
  return Buffer.concat([fields, snapshotExtra.encode({ vmStateSize, diskSize }), icount, id, name])
}

const second = 1_000_000_000n

function clockTime(nanoseconds: bigint): ClockTime {
  return { seconds: Number(nanoseconds / second), nanoseconds: Number(nanoseconds % second) }
}

function nanosecondsOf({ seconds, nanoseconds }: ClockTime): bigint {
  return BigInt(seconds) * second + BigInt(nanoseconds)
}

/** Entries behind each other, each beginning at a multiple of eight. */
export function joinEntries(entries: readonly Uint8Array[]): Uint8Array {
  const starts: number[] = []
  let end = 0
  for (const { length } of entries) {
    starts.push(alignUp(end, entryAlignment))
    end = starts[starts.length - 1] + length
  }
  const table = new Uint8Array(end)
  for (const [index, entry] of entries.entries()) table.set(entry, starts[index])
  return table
}

/** Written since QEMU 5.2, behind what older ones wrote; all ones where it was not counted. */
function icountIn(extra: Uint8Array): number | undefined {
  if (extra.length < snapshotExtra.size + 8) return undefined
  const icount = viewOf(extra).getBigUint64(snapshotExtra.size)
  return icount <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(icount) : undefined
}

function l1FaultOf(
  { l1TableOffset, l1Size }: Snapshot,
  fileSize: number,
  header: Header,
): string | undefined {
  const where = `l1_offset=0x${l1TableOffset.toString(16)}`
  if (l1TableOffset % 2 ** header.clusterBits !== 0)
    return `${where}: L1 table is not cluster aligned`
  if (l1Size * 8 > maxL1Bytes) return `l1_size=0x${l1Size.toString(16)}: L1 table is too large`
  return l1TableOffset + l1Size * 8 > fileSize
    ? `${where}: L1 table is behind the end of the file`
    : undefined
}
