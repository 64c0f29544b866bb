/** An internal snapshot in the words of QMP, which `info` and `query-named-block-nodes` share. */
import type { SnapshotFacts } from './abilities.ts'

/** `SnapshotInfo`, in the order in which qemu-img prints its members. */
export interface SnapshotInfo {
  icount?: number
  'vm-clock-nsec': number
  name: string
  'date-sec': number
  'date-nsec': number
  'vm-clock-sec': number
  id: string
  'vm-state-size': number
}

export function snapshotInfo(snapshot: SnapshotFacts): SnapshotInfo {
  const { icount, date, vmClock } = snapshot
  return {
    icount,
    'vm-clock-nsec': vmClock.nanoseconds,
    name: snapshot.name,
    'date-sec': date.seconds,
    'date-nsec': date.nanoseconds,
    'vm-clock-sec': vmClock.seconds,
    id: snapshot.id,
    'vm-state-size': snapshot.vmStateSize,
  }
}
