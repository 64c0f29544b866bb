/**
 * A disk of one moment, kept by a copy-before-write filter while a job copies it: the part that a
 * backup to a node and a backup into an archive have in common.
 */

import { CopyError } from '../block/block-copy.ts'
import { inContext } from '../errors.ts'
import {
  type CopyBeforeWrite,
  copyClusterSize,
  openCopyBeforeWrite,
} from '../filter/copy-before-write.ts'
import { chainOf, filteredEdge } from '../graph/chain.ts'
import type { Edge } from '../graph/edge.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import { type CopyStatus, runCopyLoop, statusOf } from './copy-loop.ts'
import type { Fleecing } from './fleecing.ts'
import { JobDrain } from './ground.ts'
import type { Job } from './job.ts'
import type { SyncBitmap } from './sync-bitmap.ts'
import type { JobControl } from './work.ts'

/** `bitmap`: what a dirty bitmap says. */
export type SyncMode = 'full' | 'top' | 'none' | 'bitmap'

export interface PreserveOptions {
  readonly source: BlockNode
  readonly target: BlockNode
  readonly sync: SyncMode
  /** The bitmap that is brought up to date, and with `bitmap` says what to copy. */
  readonly bitmap?: SyncBitmap
  readonly compress?: boolean
  /** Guests wait for room there instead of the target. It has to live longer than the disk. */
  readonly fleecing?: Fleecing
  /** The disk's own node for that; what it holds is overwritten. */
  readonly spill?: BlockNode
  /** Name of the filter's node. */
  readonly filterName?: string
  /** As messages name the job. */
  readonly description: string
  /** The job, once there is one: it stands still while the node is drained. */
  readonly job: () => Job | undefined
}

export class PreservedDisk {
  readonly source: BlockNode
  readonly filter: BlockNode
  readonly layer: CopyBeforeWrite
  readonly #graph: Graph
  readonly #options: PreserveOptions
  readonly #broken = new AbortController()
  /** The job's own use of the filter, once that is in place. */
  #edge: Edge | undefined
  readonly #drain: JobDrain
  #dropped = false
  #unblock: (() => void)[] = []

  /** Opens the filter; nothing is preserved before `preserve`. */
  static async open(graph: Graph, options: PreserveOptions): Promise<PreservedDisk> {
    options.source.blockers.check('backup-source')
    options.target.blockers.check('backup-target')
    const { fleecing, spill } = options
    spill?.blockers.check('backup-target')
    if (fleecing && !spill) await fleecing.openFile(copyClusterSize(options.target.layer))
    const name = options.filterName === undefined ? {} : { 'node-name': options.filterName }
    const added = graph.add('copy-before-write', name, (context) =>
      openCopyBeforeWrite(
        {
          file: options.source.name,
          target: options.target.name,
          onCopyError: 'break-snapshot',
          timeoutMs: 0,
          compress: options.compress,
          spill: spill?.name,
          makeCopy: fleecing?.makeCopy.bind(fleecing),
        },
        context,
      ),
    )
    const { node, layer } = await added.catch((error) => {
      throw inContext('Could not create node', error)
    })
    return new PreservedDisk(graph, options, node, layer)
  }

  private constructor(
    graph: Graph,
    options: PreserveOptions,
    filter: BlockNode,
    layer: CopyBeforeWrite,
  ) {
    this.#graph = graph
    this.source = options.source
    this.filter = filter
    this.layer = layer
    this.#drain = new JobDrain(options.job)
    this.#options = options
    layer.onBroken = (error) => this.#broken.abort(error instanceof CopyError ? error.cause : error)
  }

  /** Puts the filters of all disks in place, in one moment: this is the time that is preserved. */
  static async preserve(graph: Graph, disks: readonly PreservedDisk[]): Promise<void> {
    const sources = disks.map(({ source }) => source)
    // A write is either in the backup or in the bitmap's successor, never in both or in neither.
    await graph.drained(sources, async () => {
      for (const disk of disks) disk.#begin()
      const places = disks.map(({ filter, source }) => ({ filter, node: source }))
      await graph.insertFilters(places).catch((error) => {
        throw inContext('Could not replace node', error)
      })
    })
    for (const disk of disks) {
      disk.#attach()
      // The source can be backed up twice at the same time; the target is the job's alone.
      const { target, spill } = disk.#options
      const reason = 'block device is in use by block job: backup'
      for (const node of spill ? [target, spill] : [target]) {
        disk.#unblock.push(node.blockers.add(reason))
      }
      // Nobody may stand on the filter, which leaves with the job.
      disk.#unblock.push(disk.filter.blockers.add(reason))
    }
  }

  /** Bytes that the copying will deal with. */
  get total(): number {
    const { todo, clusterSize, size } = this.layer.copy
    return todo.size === todo.capacity ? size : Math.min(size, todo.size * clusterSize)
  }

  /** Fires, with the error, when the disk of that moment is lost. */
  get broken(): AbortSignal {
    return this.#broken.signal
  }

  /** Tells of the progress of a job that copies nothing but this disk. */
  report(control: JobControl): void {
    let { total } = this
    control.setTotal(total)
    this.layer.copy.onProgress = (bytes) => control.advance(bytes)
    // What the topmost image does not hold is no part of the work.
    this.layer.copy.onDismissed = (bytes) => {
      total -= bytes
      control.setTotal(total)
    }
  }

  /**
   * Copies the disk, or, with `none`, only waits while guest writes do; until `end` fires, if it
   * does.
   */
  async copy(control: JobControl, end: AbortSignal = control.signal): Promise<void> {
    const signal = AbortSignal.any([control.signal, end, this.#broken.signal])
    const { fleecing } = this.#options
    if (this.#options.sync === 'none') return await control.rest(signal)
    await runCopyLoop({
      copy: this.layer.copy,
      status: this.#status(),
      control,
      signal,
      turn: fleecing && (() => fleecing.turn(control)),
    })
  }

  /**
   * Takes the filter out; guest writes go straight to the disk again. Idempotent. `succeeded`: all
   * was copied, which is for the bitmap to know.
   */
  async drop(succeeded = false): Promise<void> {
    if (this.#dropped) return
    this.#dropped = true
    for (const unblock of this.#unblock) unblock()
    await this.layer.copy.idle()
    this.#options.bitmap?.end(succeeded, this.layer.copy)
    await this.#edge?.[Symbol.asyncDispose]()
    await this.#graph.dropFilter(this.filter)
  }

  /** The job has been made: it waits for drains that have begun before. */
  join(job: Job): void {
    this.#drain.join(job)
  }

  #begin(): void {
    const { bitmap, sync } = this.#options
    const { copy } = this.layer
    bitmap?.freeze()
    if (bitmap && sync === 'bitmap') copy.select(bitmap.bitmap)
    else copy.todo.add(0, copy.todo.capacity)
  }

  /**
   * Of what the filter shows now: an overlay may have been put on the source, and the source itself
   * may be gone. What the topmost image held is what the source holds, not the overlay.
   */
  #status(): CopyStatus {
    const { filter, source } = this
    const onlyTop = this.#options.sync === 'top'
    return async (offset, length, io) => {
      const shown = filteredEdge(filter)?.node ?? source
      const isBelow = onlyTop && chainOf(shown).includes(source)
      return await statusOf(shown, isBelow ? source : undefined)(offset, length, io)
    }
  }

  /** Stands still while the node is drained: the copying is the layer's, not the edge's. */
  #attach(): void {
    const { description } = this.#options
    const drain = this.#drain
    this.#edge = this.#graph.attach(this.filter, {
      description,
      name: 'main node',
      uses: [],
      stays: true,
      drain: {
        begin: async () => {
          await drain.begin()
          await this.layer.copy.idle()
        },
        end: () => drain.end(),
      },
    })
  }
}
