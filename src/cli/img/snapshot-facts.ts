/** Internal snapshots, as qemu-img lists them. */
import type { SnapshotInfo } from '../../block/snapshot-info.ts'
import { sizeText } from './size-text.ts'

/** The table that people read, a line each. */
export function describeSnapshots(snapshots: readonly SnapshotInfo[]): string[] {
  const heading = columns('ID', 'TAG', 'VM SIZE', 'DATE', 'VM CLOCK', 'ICOUNT')
  return ['Snapshot list:', heading, ...snapshots.map(snapshotLine)]
}

function snapshotLine(snapshot: SnapshotInfo): string {
  const { id, name, icount } = snapshot
  return columns(
    id,
    name,
    sizeText(snapshot['vm-state-size']),
    localTime(snapshot['date-sec']),
    clockText(snapshot['vm-clock-sec'], snapshot['vm-clock-nsec']),
    icount === undefined ? '' : String(icount),
  )
}

function columns(
  id: string,
  tag: string,
  size: string,
  date: string,
  clock: string,
  icount: string,
): string {
  const left = `${id.padEnd(9)} ${tag.padEnd(16)} `
  return left + size.padStart(8) + date.padStart(20) + clock.padStart(13) + icount.padStart(11)
}

function localTime(seconds: number): string {
  const date = new Date(seconds * 1000)
  const day = [date.getFullYear(), date.getMonth() + 1, date.getDate()].map(twoDigits).join('-')
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(twoDigits).join(':')}`
}

function clockText(seconds: number, nanoseconds: number): string {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60]
  const milliseconds = Math.floor(nanoseconds / 1_000_000)
  return `${parts.map(twoDigits).join(':')}.${String(milliseconds).padStart(3, '0')}`
}

function twoDigits(value: number): string {
  return String(value).padStart(2, '0')
}
