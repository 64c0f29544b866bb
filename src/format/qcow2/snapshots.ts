/**
 * Internal snapshots. A snapshot is an L1 table of its own: whatever the active one refers to, it
 * refers to as well, and what both refer to is copied before it is written (its `copied` flag is
 * not set). Each verb works out counts, flags and tables as they are to be and has `Switchover`
 * put them in force at one moment, so a crash leaves the image either as it was or as it is to be.
 *
 * L2 tables are shared between the disk and its snapshots, with all flags clear. A table whose
 * flags have to change gets a new place; a snapshot's flags mean nothing (specification, "L2 table
 * entries") until it is applied.
 */
import type {
  ClockTime,
  InternalSnapshots,
  NewSnapshot,
  SnapshotFacts,
} from '../../block/abilities.ts'
import { plainIo } from '../../block/layer.ts'
import { maxDiskSize } from '../../bytes/range.ts'
import { viewOf } from '../../bytes/view.ts'
import { readBitmapPlace } from './bitmap-directory.ts'
import { incompatible, l1SizeFor } from './header.ts'
import type { Qcow2Image } from './image.ts'
import { readSoundL1Table, referAll, setFlags, tableAt } from './l1-references.ts'
import { entrySize, highOf, lowOf, setCopied, setShared } from './l2-table.ts'
import { maxL1Bytes, maxSnapshotNameBytes, maxSnapshots, maxSnapshotTableBytes } from './limits.ts'
import { type HostOffset, hostOffset } from './offsets.ts'
import { encodeSnapshot, joinEntries, readSnapshotTable, type Snapshot } from './snapshot-table.ts'
import { stateOffset } from './state-area.ts'
import { Switchover } from './switchover.ts'

export function internalSnapshots(image: Qcow2Image): InternalSnapshots {
  return {
    create: (snapshot) => createSnapshot(image, snapshot),
    apply: (selector) => applySnapshot(image, selector),
    delete: (selector) => deleteSnapshot(image, selector),
    open: (selector) => openSnapshot(image, selector),
  }
}

async function createSnapshot(image: Qcow2Image, wanted: NewSnapshot): Promise<SnapshotFacts> {
  checkChangeable(image)
  return await Switchover.run(image, async (change) => {
    const { header, layout } = image
    const table = await readTable(image)
    const facts = factsOf(image, wanted, table)
    const { size, l1Size, l1TableOffset } = header.current
    const l1 = await readSoundL1Table(image, l1TableOffset, l1Size)
    const stateIndex = Math.min(l1Size, stateOffset(size, layout) / layout.coverage)

    await referAll(image, change, l1, 1, 0, stateIndex)
    await shareTables(image, change, l1, stateIndex)
    const taken = l1.slice()
    // The state of the machine moves: only the snapshot has it from now on.
    const rest = facts.vmStateSize > 0 ? l1 : taken
    rest.fill(0, stateIndex * entrySize)
    const own = trimmed(taken, l1SizeFor(size, header.current))
    const l1Offset = await writeNew(change, own)

    const entry = encodeSnapshot({
      ...facts,
      l1TableOffset: l1Offset,
      l1Size: own.length / entrySize,
      diskSize: size,
    })
    await change.commit({
      ...(await moveActiveL1(image, change, l1)),
      ...(await writeTable(image, change, table, [...table.snapshots.map(entryOf), entry])),
    })
    return facts
  })
}

async function applySnapshot(image: Qcow2Image, selector: string): Promise<void> {
  checkChangeable(image)
  // They would say that nothing has changed. QEMU refuses in these words.
  if (readBitmapPlace(image.header.current)) {
    throw image.faults.refuse('BUSY', 'Device has active dirty bitmaps')
  }
  await Switchover.run(image, async (change) => {
    const { header } = image
    const snapshot = find((await readTable(image)).snapshots, selector, image)
    const { l1Size, l1TableOffset } = header.current
    const size = diskSizeOf(image, snapshot)
    const wanted = await readSoundL1Table(image, snapshot.l1TableOffset, snapshot.l1Size)
    const current = await readSoundL1Table(image, l1TableOffset, l1Size)

    await referAll(image, change, current, -1)
    await referAll(image, change, wanted, 1)
    const entries = Math.max(snapshot.l1Size, l1SizeFor(size, header.current))
    const l1 = new Uint8Array(entries * entrySize)
    l1.set(wanted)
    await cleanTables(image, change, l1)
    await change.commit({ ...(await moveActiveL1(image, change, l1)), size })
  })
}

async function deleteSnapshot(image: Qcow2Image, selector: string): Promise<void> {
  checkChangeable(image)
  await Switchover.run(image, async (change) => {
    const { header, layout } = image
    const table = await readTable(image)
    const snapshot = find(table.snapshots, selector, image)
    const { l1Size, l1TableOffset } = header.current
    const gone = await readSoundL1Table(image, snapshot.l1TableOffset, snapshot.l1Size)
    const l1 = await readSoundL1Table(image, l1TableOffset, l1Size)

    await referAll(image, change, gone, -1)
    const clusters = Math.ceil((snapshot.l1Size * entrySize) / layout.clusterSize)
    change.refer(snapshot.l1TableOffset / layout.clusterSize, clusters, -1)
    await ownTables(image, change, l1)
    const left = table.snapshots.filter((each) => each !== snapshot).map(entryOf)
    await change.commit({
      ...(await moveActiveL1(image, change, l1)),
      ...(await writeTable(image, change, table, left)),
    })
  })
}

/** Shows the snapshot instead of the disk. Nothing is written, then or later. */
async function openSnapshot(image: Qcow2Image, selector: string): Promise<void> {
  const { header, faults, readOnly } = image
  if (!readOnly) throw faults.invalid('a snapshot can be opened only in a read-only image')
  const snapshot = find((await readTable(image)).snapshots, selector, image)
  const size = diskSizeOf(image, snapshot)
  const { l1TableOffset, l1Size } = snapshot
  Object.assign(header.current, { size, l1TableOffset, l1Size })
  await image.reload()
}

function checkChangeable({ readOnly, faults, header, corruption }: Qcow2Image): void {
  corruption.refuse()
  if (readOnly) throw faults.refuse('READ_ONLY', 'the snapshots of a read-only image cannot change')
  if (header.current.incompatibleFeatures & incompatible.externalDataFile) {
    throw faults.unsupported('an image with an external data file cannot have snapshots')
  }
}

/** As QEMU has it: a name that is too long is cut off. Whole characters are left. */
function cutOff(name: string): string {
  let cut = name
  while (Buffer.byteLength(cut) > maxSnapshotNameBytes) cut = [...cut].slice(0, -1).join('')
  return cut
}

type Table = Awaited<ReturnType<typeof readSnapshotTable>>

async function readTable({ file, header, faults }: Qcow2Image): Promise<Table> {
  return await readSnapshotTable(file, header.current, faults)
}

/** By id, or else by name; of several with that name the first. */
export function findSnapshot<S extends SnapshotFacts>(
  snapshots: readonly S[],
  selector: string,
): S | undefined {
  return (
    snapshots.find(({ id }) => id === selector) ?? snapshots.find(({ name }) => name === selector)
  )
}

function find(snapshots: readonly Snapshot[], selector: string, { faults }: Qcow2Image): Snapshot {
  const found = findSnapshot(snapshots, selector)
  if (found) return found
  throw faults.missing(`there is no snapshot '${selector}'`)
}

const entryOf = ({ entry }: Snapshot) => entry

function factsOf({ faults }: Qcow2Image, wanted: NewSnapshot, { snapshots }: Table): SnapshotFacts {
  const { vmStateSize = 0, vmClock = never, icount } = wanted
  const name = cutOff(wanted.name)
  const id = wanted.id ?? freeId(snapshots)
  if (Buffer.byteLength(id) > maxSnapshotNameBytes) {
    throw faults.invalid(`the id of a snapshot has at most ${maxSnapshotNameBytes} bytes`)
  }
  if (snapshots.some((each) => each.id === id)) {
    throw faults.exists(`there is a snapshot with the id '${id}' already`)
  }
  if (snapshots.length >= maxSnapshots) {
    throw faults.invalid(`an image has at most ${maxSnapshots} snapshots`)
  }
  return { id, name, vmStateSize, date: wanted.date ?? now(), vmClock, icount }
}

/** One more than the highest number among the ids. */
function freeId(snapshots: readonly Snapshot[]): string {
  const numbers = snapshots.map(({ id }) => Number(/^\d{1,15}/.exec(id)?.[0] ?? 0))
  return String(Math.max(0, ...numbers) + 1)
}

/** The clock of a machine that has not run. */
const never: ClockTime = { seconds: 0, nanoseconds: 0 }

function now(): ClockTime {
  const milliseconds = Date.now()
  return {
    seconds: Math.floor(milliseconds / 1000),
    nanoseconds: (milliseconds % 1000) * 1_000_000,
  }
}

/** The disk's size at that time; in old version 2 images it could not change. */
function diskSizeOf({ faults, header }: Qcow2Image, { id, diskSize }: Snapshot): number {
  const size = diskSize ?? header.current.size
  const tooLarge = l1SizeFor(size, header.current) * entrySize > maxL1Bytes
  if (size % 512 === 0 && size <= maxDiskSize && !tooLarge) return size
  throw faults.corrupt(
    `snapshot '${id}' is of a disk of ${size} bytes`,
    header.current.snapshotsOffset,
  )
}

/**
 * Has the tables of the disk be shared: no flags in them, none at their entries. `change` counts
 * two references to each already, the disk's own and the snapshot's.
 */
async function shareTables(
  image: Qcow2Image,
  change: Switchover,
  l1: Uint8Array,
  end: number,
): Promise<void> {
  await eachTable(image, l1, end, async (index, table, bytes) => {
    setShared(viewOf(l1), index, table)
    if (!setFlags(image, bytes, () => false)) return
    change.refer(table / image.layout.clusterSize, 1, -2, 'other')
    const place = await writeNew(change, bytes)
    change.refer(place / image.layout.clusterSize, 1, 1)
    setShared(viewOf(l1), index, place)
  })
}

/** As above where the disk is one of several that share; a table with flags it gets for itself. */
async function cleanTables(image: Qcow2Image, change: Switchover, l1: Uint8Array): Promise<void> {
  await eachTable(image, l1, l1.length / entrySize, async (index, table, bytes) => {
    setShared(viewOf(l1), index, table)
    if (!setFlags(image, bytes, () => false)) return
    change.refer(table / image.layout.clusterSize, 1, -1, 'other')
    setCopied(viewOf(l1), index, await writeNew(change, bytes))
  })
}

/** Has flags say what has one reference left. */
async function ownTables(image: Qcow2Image, change: Switchover, l1: Uint8Array): Promise<void> {
  const { clusterSize } = image.layout
  const isOwn = (cluster: number) => change.countOf(cluster) === 1
  await eachTable(image, l1, l1.length / entrySize, async (index, table, bytes) => {
    if (!isOwn(table / clusterSize)) return
    setCopied(viewOf(l1), index, table)
    if (!setFlags(image, bytes, isOwn)) return
    change.refer(table / clusterSize, 1, -1, 'other')
    setCopied(viewOf(l1), index, await writeNew(change, bytes))
  })
}

/** Goes through the entries in front of `end` that have a table, and reads it. */
async function eachTable(
  image: Qcow2Image,
  l1: Uint8Array,
  end: number,
  work: (index: number, table: HostOffset, bytes: Uint8Array) => Promise<void>,
): Promise<void> {
  const bytes = new Uint8Array(image.layout.clusterSize)
  for (let index = 0; index < end; index++) {
    const table = tableAt(image, l1, index)
    if (table === 0) continue
    await image.file.read(table, bytes, plainIo)
    await work(index, table, bytes)
  }
}

/** Writes the active L1 table to a new place, unless it is as it was. */
async function moveActiveL1(image: Qcow2Image, change: Switchover, l1: Uint8Array) {
  const { header, layout } = image
  const { l1TableOffset, l1Size } = header.current
  const now = await readSoundL1Table(image, l1TableOffset, l1Size)
  if (Buffer.compare(now, l1) === 0) return {}
  if (l1Size > 0) {
    const clusters = Math.ceil(now.length / layout.clusterSize)
    change.refer(l1TableOffset / layout.clusterSize, clusters, -1, 'other')
  }
  return { l1TableOffset: await writeNew(change, l1), l1Size: l1.length / entrySize }
}

/** Writes the snapshot table to a new place and lets go of the old one. */
async function writeTable(
  image: Qcow2Image,
  change: Switchover,
  old: Table,
  entries: readonly Uint8Array[],
) {
  const { header, layout, faults } = image
  if (old.length > 0) {
    const clusters = Math.ceil(old.length / layout.clusterSize)
    change.refer(header.current.snapshotsOffset / layout.clusterSize, clusters, -1, 'other')
  }
  const bytes = joinEntries(entries)
  if (bytes.length > maxSnapshotTableBytes) {
    throw faults.invalid(
      `the snapshot table has reached its limit of ${maxSnapshotTableBytes} bytes`,
    )
  }
  return { snapshotsOffset: await writeNew(change, bytes), nbSnapshots: entries.length }
}

/** Writes to clusters of its own; 0 for nothing at all. */
async function writeNew(change: Switchover, bytes: Uint8Array): Promise<HostOffset> {
  if (bytes.length === 0) return hostOffset(0)
  const place = change.take(change.clustersOf(bytes.length))
  await change.write(place, bytes)
  return place
}

/** An L1 table up to its last entry, at least `least` entries long. */
function trimmed(l1: Uint8Array, least: number): Uint8Array {
  const view = viewOf(l1)
  let entries = l1.length / entrySize
  while (entries > least && highOf(view, entries - 1) === 0 && lowOf(view, entries - 1) === 0) {
    entries--
  }
  return l1.slice(0, entries * entrySize)
}
