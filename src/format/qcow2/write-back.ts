/**
 * Bringing changed metadata to the disk, in the order that keeps every moment of it consistent:
 *
 *   1. early: refcount blocks, and tables that nothing on disk points at yet (new L2 tables, new
 *      refcount blocks, an L1 or refcount table that moved);
 *   2. where there are new refcount blocks: flush, then the refcount table's entries for them, or
 *      the header's one sector that points at its new place;
 *   3. flush: whatever the references of step 4 lead to is on stable storage now, counts, tables
 *      and the guest's data alike;
 *   4. references: entries of L2 tables and the L1 table, or the header's sector that points at
 *      the L1 table's new place;
 *   5. flush;
 *   6. release: clusters that step 4 let go of lose their count and can be used again.
 *
 * A crash between any two of these leaves clusters counted that nothing refers to: a leak. What is
 * written is a copy taken at the beginning, so that changes made meanwhile, whose data is not on
 * stable storage yet, wait for the next cycle. What could not be written counts as changed again.
 *
 * With lazy refcounts the dirty bit replaces the counts in steps 1 and 2, until the image is closed.
 */
import type { DebugEvent } from '../../block/debug.ts'
import { type Completion, type Io, plainIo } from '../../block/layer.ts'
import type { Allocator } from './allocator.ts'
import type { FreedRun, FreeReason, PendingFrees } from './frees.ts'
import type { GuestSpace } from './guest-space.ts'
import type { Header } from './header.ts'
import type { HeaderState } from './header-state.ts'
import type { ImageFile } from './image-file.ts'
import type { L2Tables } from './l2-tables.ts'
import type { Refcounts } from './refcounts.ts'
import type { Table, TablePiece } from './table.ts'

/** Writes of one step that are in flight together. */
const maxWritesInFlight = 16

export interface WriteBackParts {
  readonly file: ImageFile
  readonly header: HeaderState
  readonly l2Tables: L2Tables
  readonly refcounts: Refcounts
  readonly frees: PendingFrees
  readonly allocator: Allocator
  /** Postpone refcounts until the image is closed. May change between cycles. */
  readonly lazy: boolean
  /** Kinds of freed clusters whose space goes back to the file system. */
  readonly discards: ReadonlySet<FreeReason>
  /** The guest's data, which has to be stable before entries refer to it. */
  readonly space: GuestSpace
}

/** What one cycle writes: see the steps above. */
interface Batch {
  early: TablePiece[]
  tableEntries: TablePiece[]
  earlyHeader: Header | undefined
  references: TablePiece[]
  lateHeader: Header | undefined
  frees: FreedRun[]
}

export class WriteBack {
  readonly #parts: WriteBackParts
  /** The end of the work that was begun last. Never rejects. */
  #running: Promise<void> = Promise.resolve()
  #busy = 0
  /** A cycle that waits for its turn: it will include all changes made until now. */
  #queued: Promise<void> | undefined

  constructor(parts: WriteBackParts) {
    this.#parts = parts
  }

  /** Kinds of freed clusters whose space goes back to the file system. */
  get discards(): ReadonlySet<FreeReason> {
    return this.#parts.discards
  }

  /** All changes, and all data written before, on stable storage. */
  flush(io: Io): Completion {
    if (this.#busy !== 0 || this.#hasChanges()) return this.flushChanges()
    const { file, space } = this.#parts
    const data = space.flush(io)
    if (!(data instanceof Promise)) return file.layer.flush(io)
    return data.then(() => file.layer.flush(io))
  }

  /** As `flush`, where something has changed. */
  flushChanges(): Promise<void> {
    const cycle = () => this.#cycle(!this.#parts.lazy)
    if (this.#busy === 0) return this.#inTurn(cycle)
    // The cycle under way may have missed what the caller wrote; the next one will not.
    this.#queued ??= this.#inTurn(() => {
      this.#queued = undefined
      return cycle()
    })
    return this.#queued
  }

  /** For closing: afterwards the counts on disk are exact and the dirty bit is clear. */
  async finish(): Promise<void> {
    const { refcounts, header } = this.#parts
    await this.#inTurn(() => this.#cycle(true))
    // Releasing clusters has changed counts once more.
    if (refcounts.changedBlocks.size > 0) await this.#inTurn(() => this.#cycle(true))
    if (!header.dirtyBit) return
    header.dirtyBit = false
    await this.#inTurn(() => this.#cycle(true))
  }

  /** Writes all changes and then runs `work`, while nobody else writes the header. */
  async withHeader(work: () => Promise<void>): Promise<void> {
    await this.#inTurn(async () => {
      await this.#cycle(!this.#parts.lazy)
      await work()
    })
  }

  /** Runs `work` while nobody else writes the header; changes in memory are not written before. */
  async alone(work: () => Promise<void>): Promise<void> {
    await this.#inTurn(work)
  }

  /** Makes room in the cache of refcount blocks. */
  async writeBlocks(): Promise<void> {
    await this.#inTurn(() => this.#cycle(true))
  }

  /** Runs `work` alone, after what was begun before; failures do not keep later work from running. */
  #inTurn(work: () => Promise<void>): Promise<void> {
    const turn = this.#busy++ === 0 ? work() : this.#running.then(work)
    const done = () => {
      this.#busy--
    }
    this.#running = turn.then(done, done)
    return turn
  }

  #hasChanges(): boolean {
    const { header, l2Tables, refcounts, frees, lazy } = this.#parts
    if (l2Tables.changed.size > 0 || l2Tables.changedL1.size > 0 || frees.length > 0) return true
    if (!lazy && (refcounts.changedBlocks.size > 0 || refcounts.changedTable.size > 0)) return true
    return header.changed
  }

  async #cycle(withCounts: boolean): Promise<void> {
    const batch = this.#collect(withCounts)
    const tables = new Set(
      [...batch.early, ...batch.tableEntries, ...batch.references].map(({ table }) => table),
    )
    for (const table of tables) table.pins++
    try {
      await this.#writeEarly(batch)
      await this.#writeReferences(batch)
    } catch (error) {
      this.#giveBack(batch)
      throw error
    } finally {
      for (const table of tables) table.unpin()
    }
    await this.#release(batch.frees)
  }

  /** Copies of all changes, at one moment. */
  #collect(withCounts: boolean): Batch {
    const { header, l2Tables, refcounts, frees, lazy } = this.#parts
    const refersAnew = l2Tables.changed.size > 0 || l2Tables.changedL1.size > 0
    if (lazy && !withCounts && refersAnew) header.dirtyBit = true
    const batch: Batch = {
      early: [],
      tableEntries: [],
      references: [],
      earlyHeader: header.earlyChanges(),
      lateHeader: header.lateChanges(),
      frees: frees.take(),
    }
    for (const table of l2Tables.changed) take(table, batch.early, batch.references, l2Events)
    for (const table of l2Tables.changedL1) take(table, batch.early, batch.references, l1Events)
    // A refcount table that moved has to be complete before the header points at it.
    if (withCounts || refcounts.table.fresh) {
      for (const table of refcounts.changedBlocks)
        take(table, batch.early, batch.early, blockEvents)
      for (const table of refcounts.changedTable)
        take(table, batch.early, batch.tableEntries, refcountTableEvents)
    }
    return batch
  }

  /** Steps 1 to 3. */
  async #writeEarly(batch: Batch): Promise<void> {
    const { file, header } = this.#parts
    await this.#write(batch.early)
    if (batch.tableEntries.length > 0 || batch.earlyHeader) {
      await this.#flushFile()
      batch.early = confirmed(batch.early)
      await this.#write(batch.tableEntries)
      if (batch.earlyHeader) {
        await file.at('refblock_alloc_switch_table')
        await header.write(batch.earlyHeader, file)
      }
    }
    await Promise.all([this.#parts.space.flush(plainIo), this.#flushFile()])
    batch.early = confirmed(batch.early)
    batch.tableEntries = confirmed(batch.tableEntries)
  }

  /** Steps 4 and 5. */
  async #writeReferences(batch: Batch): Promise<void> {
    if (batch.references.length === 0 && !batch.lateHeader) return
    const { file, header } = this.#parts
    await this.#write(batch.references)
    if (batch.lateHeader) {
      await file.at('l1_grow_activate_table')
      await header.write(batch.lateHeader, file)
    }
    await this.#flushFile()
    batch.references = []
  }

  /** Step 6. */
  async #release(frees: readonly FreedRun[]): Promise<void> {
    const { allocator, refcounts, file } = this.#parts
    let failure: { error: unknown } | undefined
    for (let at = 0; at < frees.length; at += maxWritesInFlight) {
      const part = frees.slice(at, at + maxWritesInFlight)
      await file.at('cluster_free')
      await Promise.all(part.map((run) => this.#discard(run)))
      for (const run of part) {
        if (!refcounts.cache.hasRoom()) await this.#writeCounts()
        await allocator.lower(run).catch((error) => {
          // The rest is released all the same: only this count is wrong.
          failure ??= { error }
        })
      }
    }
    if (failure) throw failure.error
  }

  /** Gives the space of clusters that are about to become free back to the file system. */
  async #discard({ offset, count, reason }: FreedRun): Promise<void> {
    const { file, refcounts, discards, header, allocator } = this.#parts
    if (!discards.has(reason)) return
    const clusterSize = 2 ** header.current.clusterBits
    for (let index = 0; index < count; index++) {
      const cluster = Math.floor(offset / clusterSize) + index
      if (allocator.isMetadata(cluster) || (await refcounts.get(cluster)) !== 1) continue
      const at = offset + index * clusterSize
      const length = Math.min(clusterSize, file.size - at)
      // A hint: a file system that cannot do it keeps the space, which is then reused.
      if (length > 0) await Promise.resolve(file.layer.discard(at, length, plainIo)).catch(() => {})
    }
  }

  /** Writes refcount blocks, in no order to anything else, so that they can leave the cache. */
  async #writeCounts(): Promise<void> {
    const pieces: TablePiece[] = []
    for (const table of this.#parts.refcounts.changedBlocks) {
      if (!table.fresh) pieces.push(...table.takeChanges(blockEvents.other))
    }
    try {
      await this.#write(pieces)
    } catch (error) {
      giveBack(pieces)
      throw error
    }
  }

  async #write(pieces: readonly TablePiece[]): Promise<void> {
    const { file } = this.#parts
    for (let at = 0; at < pieces.length; at += maxWritesInFlight) {
      const part = pieces.slice(at, at + maxWritesInFlight)
      for (const result of await Promise.allSettled(
        part.map(async ({ offset, bytes, events = [] }) => {
          for (const event of events) {
            const held = file.at(event)
            if (held) await held
          }
          await file.write(offset, bytes)
        }),
      )) {
        if (result.status === 'rejected') throw result.reason
      }
    }
  }

  async #flushFile(): Promise<void> {
    await this.#parts.file.flush()
  }

  #giveBack(batch: Batch): void {
    giveBack(batch.early)
    giveBack(batch.tableEntries)
    giveBack(batch.references)
    this.#parts.frees.giveBack(batch.frees)
  }
}

/** Takes a table's changes: to `fresh` if nothing on disk points at it yet. */
function take(table: Table, fresh: TablePiece[], other: TablePiece[], events: TableEvents): void {
  const list = table.fresh ? fresh : other
  const told = table.fresh ? events.fresh : events.other
  for (const piece of table.takeChanges(told)) list.push(piece)
}

/** What blkdebug is told before a new table is written, and before parts of an old one are. */
interface TableEvents {
  readonly fresh: readonly DebugEvent[]
  readonly other: readonly DebugEvent[]
}
const l2Events: TableEvents = { fresh: ['l2_alloc_write', 'l2_update'], other: ['l2_update'] }
const l1Events: TableEvents = { fresh: ['l1_grow_write_table'], other: ['l1_update'] }
const blockEvents: TableEvents = {
  fresh: ['refblock_alloc', 'refblock_alloc_write', 'refblock_update_part'],
  other: ['refblock_update_part'],
}
const refcountTableEvents: TableEvents = {
  fresh: ['reftable_grow', 'refblock_alloc_write_table'],
  other: ['refblock_alloc_hookup', 'reftable_update'],
}

/** The pieces are on stable storage, so their tables may be pointed at. Nothing remains to do. */
function confirmed(pieces: readonly TablePiece[]): TablePiece[] {
  for (const { table } of pieces) table.fresh = false
  return []
}

function giveBack(pieces: readonly TablePiece[]): void {
  for (const piece of pieces) piece.table.giveBack(piece)
}
