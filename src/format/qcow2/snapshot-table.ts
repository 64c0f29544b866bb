/** The snapshot table: where the L1 tables of internal snapshots lie, and what is known of them. */
import { type ClockTime, plainIo, type SnapshotFacts } from '../../block/layer.ts'
import { alignUp } from '../../bytes/range.ts'
import { bits64, struct, u16, u32, u64 } from '../../bytes/struct.ts'
import { viewOf } from '../../bytes/view.ts'
import type { Faults } from './faults.ts'
import type { Header } from './header.ts'
import type { ImageFile } from './image-file.ts'
import { maxL1Bytes, maxSnapshotExtraBytes, maxSnapshotTableBytes } from './limits.ts'

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

/** Reads the table whose place and count `checkHeader` has approved. */
export async function readSnapshotTable(
  file: ImageFile,
  header: Header,
  faults: Faults,
): Promise<SnapshotTable> {
  const snapshots: Snapshot[] = []
  let at = 0
  for (let index = 0; index < header.nbSnapshots; index++) {
    const offset = header.snapshotsOffset + at
    const fixed = new Uint8Array(snapshotEntry.size)
    await file.read(offset, fixed, plainIo)
    const { extraDataSize, idSize, nameSize } = snapshotEntry.decode(fixed)
    if (extraDataSize > maxSnapshotExtraBytes) {
      throw faults.corrupt(`snapshot ${index} has ${extraDataSize} bytes of extra data`, offset)
    }
    const length = snapshotEntry.size + extraDataSize + idSize + nameSize
    if (at + length > maxSnapshotTableBytes || offset + length > file.size) {
      throw faults.corrupt('Snapshot table too large', offset)
    }
    const entry = new Uint8Array(length)
    await file.read(offset, entry, plainIo)
    snapshots.push(decodeSnapshot(entry))
    checkL1(snapshots[index], file, header, faults, offset)
    at = alignUp(at + length, entryAlignment)
  }
  return { snapshots, length: at }
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

function checkL1(
  { id, l1TableOffset, l1Size }: Snapshot,
  file: ImageFile,
  header: Header,
  faults: Faults,
  at: number,
): void {
  if (l1Size * 8 > maxL1Bytes) throw faults.corrupt(`snapshot '${id}': L1 table too large`, at)
  const end = l1TableOffset + l1Size * 8
  if (l1TableOffset % 2 ** header.clusterBits !== 0 || end > file.size) {
    throw faults.corrupt(`snapshot '${id}': L1 table offset invalid`, at)
  }
}
