/**
 * The mirror job: a target is made like its source while guests write, and kept so. When the job
 * is ready, `complete` gives the source's users the target instead, in one drained moment; a soft
 * cancel leaves them where they are, and the target as it is then. An active commit is a mirror
 * from the top of a chain to its base.
 */
import type { DirtyBitmap } from '../bitmap/dirty-bitmap.ts'
import { checkUsable } from '../bitmap/usable.ts'
import { type Completion, plainIo, type WriteIo, type ZeroIo } from '../block/layer.ts'
import type { ChildRole, Needs, Permissions } from '../block/permission.ts'
import { isPowerOfTwo, MiB } from '../bytes/range.ts'
import { BlockError, invalid } from '../errors.ts'
import { chainTo, skipFilters } from '../graph/chain.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import { checkNotBacking } from '../graph/overlay.ts'
import { checkReplaceable } from '../graph/replaceable.ts'
import { backingOf } from '../graph/status.ts'
import { JobFilter, JobGround } from './ground.ts'
import type { Job, JobOptions } from './job.ts'
import type { JobTable } from './job-table.ts'
import { MirrorCopy } from './mirror-copy.ts'
import { type MirrorScope, markDifferences } from './mirror-scope.ts'
import { type BitmapMode, SyncBitmap } from './sync-bitmap.ts'
import type { JobControl } from './work.ts'

export interface MirrorOptions extends Omit<JobOptions, 'type'> {
  readonly source: BlockNode
  /** Of the same size; what it holds is replaced. */
  readonly target: BlockNode
  /**
   * `full`: all; `top`: what the topmost image holds; `none`: only what is written from now on;
   * `bitmap`: what `bitmap` says; `incremental`: the same, with the mode `on-success`.
   */
  readonly sync: 'full' | 'top' | 'none' | 'incremental' | 'bitmap'
  /** A bitmap of the source; what it does not say is the same on both sides already. */
  readonly bitmap?: DirtyBitmap
  /** What becomes of it; `on-success` unless given. */
  readonly bitmapMode?: BitmapMode
  /** Bytes that are copied for a changed one; a power of two from 512 to 64 MiB. */
  readonly granularity?: number
  /** Bytes in flight at most; 16 MiB unless given. */
  readonly bufferSize?: number
  /** `write-blocking`: guests' writes are answered when the target has them, too. */
  readonly copyMode?: 'background' | 'write-blocking'
  /** The node whose users get the target: the source unless given, or something that it shows. */
  readonly replaces?: BlockNode
  /** Whether zeroes may deallocate in the target; true unless given. */
  readonly unmap?: boolean
  /** Name of the filter's node while the job runs. */
  readonly filterName?: string
  /** What becomes the target's backing file when the target takes over; it has its own unless given. */
  readonly pivotBacking?: BlockNode
}

/** What a mirror works on; an active commit has no users to tell apart. */
export interface MirrorWork
  extends Pick<
    MirrorOptions,
    | 'source'
    | 'target'
    | 'granularity'
    | 'bufferSize'
    | 'copyMode'
    | 'replaces'
    | 'unmap'
    | 'filterName'
    | 'pivotBacking'
  > {
  readonly scope: MirrorScope
}

const defaultGranularity = 64 * 1024
const minGranularity = 512
const maxGranularity = 64 * MiB
const defaultBufferSize = 16 * MiB

/** Starts to mirror. The job becomes ready when source and target are the same. */
export async function startMirror(
  graph: Graph,
  jobs: JobTable,
  options: MirrorOptions,
): Promise<Job> {
  jobs.checkId(options.id)
  const { source, target, replaces } = options
  if (source === target) throw invalid("Can't mirror node into itself")
  checkGranularity(options.granularity)
  if (replaces) checkReplaceable(source, replaces)
  const scope = scopeOf(options)
  const granularity = options.granularity || options.bitmap?.granularity
  return await startMirrorWork(
    graph,
    jobs,
    { ...options, type: 'mirror' },
    { ...options, granularity, scope },
  )
}

export async function startMirrorWork(
  graph: Graph,
  jobs: JobTable,
  jobOptions: JobOptions,
  work: MirrorWork,
): Promise<Job> {
  const mirror = await Mirror.open(graph, jobOptions, work)
  try {
    const job = jobs.start(jobOptions, mirror)
    mirror.ground.job = job
    return job
  } catch (error) {
    await mirror.abort()
    throw error
  }
}

class Mirror {
  readonly ground: JobGround
  readonly #work: MirrorWork
  readonly #copy: MirrorCopy
  #control: JobControl | undefined

  static async open(graph: Graph, { id, type }: JobOptions, work: MirrorWork): Promise<Mirror> {
    const { source, target, scope } = work
    const commits = 'above' in scope
    const nodes = new Set(commits ? chainTo(source, target) : [skipFilters(source)])
    for (const node of [source, ...nodes]) {
      node.blockers.check(commits ? 'commit-source' : 'mirror-source')
    }
    target.blockers.check(commits ? 'commit-target' : 'mirror-target')
    // Whoever stands on it would see it change.
    if (!commits) checkNotBacking(target)
    const ground = new JobGround(graph, id, type)
    try {
      if (commits) await ground.makeWritable(target)
      const filter = await ground.addFilter(
        'mirror_top',
        work.filterName,
        source,
        (next) => new MirrorTop(next),
      )
      filter.blocking = work.copyMode === 'write-blocking'
      filter.commits = commits
      const unresized = ground.unresized(source)
      await ground.insertFilter(source, ['consistentRead'], unresized)
      const grows = commits && target.size < source.size
      ground.use(
        target,
        grows ? ['write', 'resize'] : ['write'],
        commits ? ground.unresized(target) : ['writeUnchanged'],
        'device',
      )
      ground.use(source, [], unresized, 'source')
      // While they are committed they do not show what they did.
      const between = commits ? [...nodes].filter((node) => node !== source) : []
      for (const node of between) {
        ground.use(node, [], ['write', 'writeUnchanged'], 'intermediate node')
      }
      if (commits) ground.freeze(source, target)
      if (commits && target.size < source.size) await target.truncate(source.size)
      ground.block(new Set([source, ...nodes]))
      ground.block([target], ['remove'])
      if (work.replaces && !nodes.has(work.replaces)) ground.block([work.replaces])
      return new Mirror(ground, filter, work)
    } catch (error) {
      await ground.release()
      throw error
    }
  }

  private constructor(ground: JobGround, filter: MirrorTop, work: MirrorWork) {
    this.ground = ground
    this.#work = work
    const { source, target } = work
    this.#copy = new MirrorCopy({
      source,
      target,
      granularity: work.granularity || granularityFor(target),
      bufferSize: work.bufferSize || defaultBufferSize,
      unmap: work.unmap ?? true,
    })
    if (filter.blocking) filter.both = { copy: this.#copy, target }
    if (!('bitmap' in work.scope)) return
    const { bitmap } = work.scope
    // Followed from now on, so that a write is in the bitmap or in the copy's, or in both.
    bitmap.freeze()
    this.#copy.bitmap.merge(bitmap.bitmap)
  }

  async run(control: JobControl): Promise<void> {
    this.#control = control
    this.#checkSizes()
    await markDifferences(control, { ...this.#work, bitmap: this.#copy.bitmap })
    this.#copy.marked()
    this.#copy.report(control)
    let ready = false
    while (!(ready && control.ending && this.#copy.clean)) {
      await control.pausePoint()
      const { news } = this.#copy
      await this.#copy.converge(control)
      if (!ready) {
        await control.during(async () => await this.#work.target.flush())
        if (!this.#copy.clean) continue
        ready = true
        control.ready()
      }
      if (control.ending === undefined) await control.wait(news)
      this.#copy.report(control)
    }
    await control.during(async () => await this.#work.target.flush())
  }

  /** What guests have written since the work ended is copied while they are held back. */
  async complete(): Promise<void> {
    const { source, target, replaces = source, pivotBacking } = this.#work
    const pivots = this.#control?.ending === 'complete'
    const { graph } = this.ground
    const { filter } = this.ground
    if (!filter) return
    await graph.changed(
      [filter, source, target],
      (shape) => {
        this.ground.thaw()
        const to = pivots && replaces === source ? target : source
        const moves = this.ground.others(filter).map((edge) => ({ edge, to }))
        if (pivots && replaces !== source) {
          moves.push(...this.ground.others(replaces).map((edge) => ({ edge, to: target })))
        }
        const attaches = pivots && pivotBacking && target.layer.setBacking !== undefined
        const backing = attaches ? { of: target, to: pivotBacking } : undefined
        shape.change({ moves, leaving: filter, dropped: this.ground.edges, backing })
        this.#stop(true)
        return {
          edges: this.ground.edges,
          nodes: [this.ground.filterLeft()!, ...(pivots ? [source, replaces] : [])],
        }
      },
      async () => {
        await this.#copy.finish(plainIo)
        await target.flush()
      },
    )
    if (pivots) this.ground.keepWritable()
    await this.ground.release()
  }

  async abort(): Promise<void> {
    this.#stop(false)
    await this.ground.release()
  }

  /** In one turn, so that a guest's write is either followed or for the bitmap to know. */
  #stop(succeeded: boolean): void {
    const { scope } = this.#work
    this.#copy.stop()
    if ('bitmap' in scope) scope.bitmap.endFollowed(succeeded, this.#copy.bitmap.runs())
  }

  #checkSizes(): void {
    const { source, target, scope } = this.#work
    if ('above' in scope || source.size === target.size) return
    throw new BlockError('INVALID_ARGUMENT', 'Source and target image have different sizes', {
      node: target.name,
      errno: 'EINVAL',
    })
  }
}

/** Lets guests through; with write-blocking, to both sides. */
class MirrorTop extends JobFilter {
  blocking = false
  commits = false
  both: { readonly copy: MirrorCopy; readonly target: BlockNode } | undefined

  override write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    const { both } = this
    if (!both) return this.next.write(offset, source, io)
    return both.copy.writeBoth(
      offset,
      source.length,
      () => this.next.write(offset, source, io),
      () => both.target.write(offset, source, io),
    )
  }

  override writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    const { both } = this
    if (!both) return this.next.writeZeroes(offset, length, io)
    return both.copy.writeBoth(
      offset,
      length,
      () => this.next.writeZeroes(offset, length, io),
      () => both.target.writeZeroes(offset, length, io),
    )
  }

  /** With write-blocking, a write behind the filter's back could be taken for one of its own. */
  childPermissions(role: ChildRole, needs: Needs): Permissions | undefined {
    // What an active commit reads while it writes below is no disk of anybody's.
    if (this.commits && !this.blocking) {
      const uses = new Set(needs.uses)
      uses.delete('consistentRead')
      return { uses, shares: needs.shares }
    }
    if (!this.blocking || role !== 'filtered' || needs.uses.size === 0) return undefined
    const shares = new Set(needs.shares)
    shares.delete('write')
    return { uses: needs.uses, shares }
  }
}

function granularityFor(target: BlockNode): number {
  const { clusterSize } = target.layer.image ?? {}
  return clusterSize === undefined ? defaultGranularity : Math.max(4096, clusterSize)
}

export function checkGranularity(granularity: number | undefined): void {
  if (granularity === undefined || granularity === 0) return
  if (granularity < minGranularity || granularity > maxGranularity) {
    throw invalid("Parameter 'granularity' expects a value in range [512B, 64MB]")
  }
  if (!isPowerOfTwo(granularity)) throw invalid("Parameter 'granularity' expects a power of 2")
}

function scopeOf({ source, sync, bitmap, bitmapMode, id }: MirrorOptions): MirrorScope {
  if (sync !== 'bitmap' && sync !== 'incremental') {
    if (bitmap || bitmapMode) throw invalid(`a mirror with '${sync}' does not use a bitmap`)
    // Without a backing file there is nothing below the top.
    return { sync: sync === 'top' && !backingOf(source) ? 'full' : sync }
  }
  if (!bitmap) throw invalid(`a mirror with '${sync}' needs a bitmap`)
  if (sync === 'incremental' && bitmapMode && bitmapMode !== 'on-success') {
    throw invalid("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'")
  }
  if (source.bitmaps.get(bitmap.name) !== bitmap) {
    throw invalid(`bitmap '${bitmap.name}' does not belong to node '${source.name}'`)
  }
  checkUsable(bitmap, { readOnly: true })
  return {
    bitmap: new SyncBitmap(source.bitmaps, bitmap, bitmapMode ?? 'on-success', `job '${id}'`),
  }
}
