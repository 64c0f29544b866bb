/**
 * The consistency check: what the refcounts say against what is referred to, and the flags of
 * table entries against both. Repairing keeps to an order, too: first nothing refers to what does
 * not exist, then counts rise, then flags follow, then counts fall; between the steps the file is
 * flushed, so that a crash in the middle leaves the image no worse.
 */
import type { CheckResult } from '../../../block/abilities.ts'
import { incompatible } from '../header.ts'
import type { HeaderState } from '../header-state.ts'
import { tableFaults } from '../header-tables.ts'
import { snapshotTableError } from '../snapshot-table.ts'
import type { Counts } from './counts.ts'
import { pieceLength } from './counts.ts'
import { look } from './look.ts'
import { checkExtensions, endExtensions } from './lost-extensions.ts'
import { rebuildRefcounts } from './rebuild.ts'
import { type CheckedImage, References } from './references.ts'
import { mendCopiedFlags, writeCounts } from './repair.ts'
import { Report } from './report.ts'
import { rescueMisledL1, rescueTables } from './rescue.ts'
import { mendSnapshotTable } from './snapshot-table.ts'
import { clustersOf, outsideImage, readStoredCounts, type StoredCounts } from './stored-counts.ts'
import { UnreadableBlocks } from './unreadable-blocks.ts'

/**
 * `leaks`: only what frees space. `all`: everything, broken entries given up. `counts`: refcounts
 * and flags alone, for images that were not closed.
 */
export type Repair = 'none' | 'leaks' | 'all' | 'counts'

export interface CheckRequest extends CheckedImage {
  readonly state: HeaderState
  readonly repair: Repair
}

/** Checks what is in the file. Nobody may change it meanwhile. */
export async function checkImage(request: CheckRequest): Promise<CheckResult> {
  const { repair } = request
  const report = new Report()
  await rescue(request, report)
  let stored = await readStoredCounts(request)
  let before = repair === 'all' ? await look(request, stored) : undefined
  if (before && (await rescueMisledL1(request, report, before))) {
    before = await look(request, stored)
  }
  if (before) await mendSnapshotTable(request, report, before, stored)
  const references = await countAll(request, report, stored, before)
  // What was mended may have made the file longer, or have been what a broken refcount table lies on.
  const { blocks } = stored
  if (before) stored = await readStoredCounts(request)
  const state = compare(request, report, stored, references)
  if (repair === 'none') {
    if (report.checkErrors === 0) report.tell(references.copiedFaults)
  } else {
    const rebuild = repair === 'leaks' ? state.lost : !state.inPlace
    if (repair === 'leaks' && !state.inPlace) references.doubt()
    await mend(request, report, stored, references, rebuild ? blocks : undefined)
  }
  const end = highestCluster(request, stored, references.counts) + 1
  const clusterSize = 2 ** request.header.clusterBits
  return report.result(end * clusterSize, Math.ceil(request.header.size / clusterSize))
}

/** What the header says of its tables; without repair, only what can be told as it is found. */
async function rescue(request: CheckRequest, report: Report): Promise<void> {
  const { header, file, faults, repair } = request
  const found = [...tableFaults(header, file.size, faults)]
  if (repair === 'all') {
    checkExtensions(header, faults)
    await rescueTables(request, report, found)
    return await endExtensions(request, report)
  }
  if (header.brokenExtension) throw header.brokenExtension.error
  const refused = found.find(({ readable }) => !readable)
  if (refused) throw refused.table === 'snapshots' ? snapshotTableError(header) : refused.error
}

function highestCluster(request: CheckRequest, stored: StoredCounts, counts: Counts): number {
  const highest = Math.max(stored.counts.highest(), counts.highest())
  if (!tellsAsFound(request) || stored.unreadable.size === 0) return highest
  const { entries } = stored.layout
  for (let cluster = highest; cluster > 0; cluster--) {
    const block = Math.floor(cluster / entries)
    if (stored.unreadable.has(block)) cluster = block * entries
    else if (stored.counts.get(cluster) > 0 || counts.get(cluster) > 0) return cluster
  }
  return 0
}

async function countAll(
  request: CheckRequest,
  report: Report,
  stored: StoredCounts,
  before: References | undefined,
): Promise<References> {
  const references = await References.count(request, report, {
    stored: stored.counts,
    mend: before && request.state,
    blocks: stored.blocks.values(),
    before,
    most: tellsAsFound(request) ? stored.layout.max : undefined,
  })
  const clusterSize = 2 ** request.header.clusterBits
  const indices = [...stored.faults.keys(), ...stored.blocks.keys()]
  for (const index of indices.sort((one, other) => one - other)) {
    const offset = stored.blocks.get(index)
    if (offset === undefined) {
      report.corruption(stored.faults.get(index)!)
      continue
    }
    references.region(offset, clusterSize, 1)
    const count = references.counts.get(offset / clusterSize)
    if (count !== 1) report.corruption(`refcount block ${index} refcount=${count}`)
  }
  return references
}

/** Nothing that is broken is mended, so it is told as qemu-img tells it. */
function tellsAsFound({ repair }: CheckRequest): boolean {
  return repair === 'none' || repair === 'leaks'
}

interface CountsState {
  /** They cannot be relied on, in QEMU's view. */
  readonly lost: boolean
  /** Counts can be put right where they are; otherwise all of them have to be written anew. */
  readonly inPlace: boolean
}

/** Reports all differences. */
function compare(
  request: CheckRequest,
  report: Report,
  stored: StoredCounts,
  { counts }: References,
): CountsState {
  let missing = false
  const unreadable = new UnreadableBlocks(request, report, stored)
  for (const [cluster, has, needs] of differences(request, stored.counts, counts)) {
    unreadable.tellBefore(cluster)
    if (unreadable.has(cluster)) continue
    const text = `cluster ${cluster} refcount=${has} reference=${needs}`
    if (has > needs) {
      report.say(`Leaked ${text}`)
      report.leaks++
    } else {
      report.corruption(text)
      if (has === 0) missing = true
    }
  }
  unreadable.tellBefore(Number.POSITIVE_INFINITY)
  // More references than refcounts have bits for need other refcounts.
  const faults = [...stored.faults.values()]
  // A block that lies outside is passed over: where it is needed clusters are found to have no count.
  const broken = faults.some((fault) => !fault.endsWith(outsideImage))
  const lost = missing || broken || sharesBlocks(request, stored, counts)
  const unfit = counts.exceeds(stored.layout.max) || sharesTable(request, counts)
  return { lost, inPlace: !lost && !unfit && faults.length === 0 }
}

/** Whether something else refers to a refcount block, which can then not be mended in place. */
function sharesBlocks(request: CheckRequest, stored: StoredCounts, counts: Counts): boolean {
  const clusterSize = 2 ** request.header.clusterBits
  return [...stored.blocks.values()].some((offset) => counts.get(offset / clusterSize) !== 1)
}

function sharesTable(request: CheckRequest, counts: Counts): boolean {
  const { refcountTableOffset, refcountTableClusters, clusterBits } = request.header
  return !counts.areOne(refcountTableOffset / 2 ** clusterBits, refcountTableClusters)
}

/** Clusters of the file whose counts differ: the number, what is stored, what is right. */
function* differences(
  request: CheckedImage,
  stored: Counts,
  counts: Counts,
): Generator<[number, number, number]> {
  const clusters = clustersOf(request)
  const starts = new Set([...stored.pieceStarts(), ...counts.pieceStarts()])
  for (const start of [...starts].sort((one, other) => one - other)) {
    if (stored.samePiece(counts, start)) continue
    const end = Math.min(clusters, start + pieceLength)
    for (let cluster = start; cluster < end; cluster++) {
      const has = stored.get(cluster)
      const needs = counts.get(cluster)
      if (has !== needs) yield [cluster, has, needs]
    }
  }
}

async function mend(
  request: CheckRequest,
  report: Report,
  stored: StoredCounts,
  references: References,
  /** Blocks that are counted; given where all has to be written anew. */
  rebuild: StoredCounts['blocks'] | undefined,
): Promise<void> {
  const { file, repair, state } = request
  // Entries that were given up are gone for good before the clusters they may have had are free.
  await file.flush()
  if (rebuild) {
    if (repair === 'leaks') {
      report.say('ERROR need to rebuild refcount structures')
      report.checkErrors++
      return
    }
    report.say('Rebuilding refcount structure')
    for (const { cluster, before, after } of await rebuildRefcounts(request, rebuild, references)) {
      report.say(`Repairing cluster ${cluster} refcount=${before} reference=${after}`)
    }
    report.corruptionsFixed += report.corruptions
    report.leaksFixed += report.leaks
    report.corruptions = 0
    report.leaks = 0
    await mendCopiedFlags(request, report, references.counts, true)
  } else {
    await mendInPlace(request, report, stored, references)
  }
  if (report.corruptions === 0 && report.checkErrors === 0) await clearMarks(request, state)
}

async function mendInPlace(
  request: CheckRequest,
  report: Report,
  stored: StoredCounts,
  references: References,
): Promise<void> {
  const { repair, file } = request
  const raise: [number, number][] = []
  const lower: [number, number][] = []
  const found = { corruptions: 0, leaks: 0 }
  for (const [cluster, has, needs] of differences(request, stored.counts, references.counts)) {
    const text = `cluster ${cluster} refcount=${has} reference=${needs}`
    const leaked = has > needs
    found[leaked ? 'leaks' : 'corruptions']++
    const fits = needs <= stored.layout.max
    if (leaked ? references.incomplete && repair !== 'all' : repair === 'leaks' || !fits) {
      report.say(`${leaked ? 'Leaked' : 'ERROR'} ${text}`)
      continue
    }
    report.say(`Repairing ${text}`)
    stored.counts.set(cluster, needs)
    ;(leaked ? lower : raise).push([cluster, needs])
    if (leaked) report.leaksFixed++
    else report.corruptionsFixed++
  }
  report.leaks -= lower.length
  report.corruptions -= raise.length
  await writeCounts(request, stored, raise)
  await file.flush()
  // Flags follow counts, which may be wrong while something is broken.
  const flags = repair !== 'leaks' || report.corruptions === 0
  await mendCopiedFlags(request, report, stored.counts, flags)
  await file.flush()
  await writeCounts(request, stored, lower)
  await file.flush()
}

/** The image is whole: it is neither dirty nor corrupt any more. */
async function clearMarks({ file, repair }: CheckRequest, state: HeaderState): Promise<void> {
  const marks = repair === 'all' ? incompatible.dirty | incompatible.corrupt : incompatible.dirty
  state.current.incompatibleFeatures &= ~marks
  const changed = state.earlyChanges()
  if (!changed) return
  await state.write(changed, file)
  await file.flush()
}
