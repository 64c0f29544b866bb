/** The backup job: a disk as it was when the job began, copied to a node while it is written to. */

import type { DirtyBitmap } from '../bitmap/dirty-bitmap.ts'
import { checkUsable } from '../bitmap/usable.ts'
import { BlockError, invalid } from '../errors.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import { Fleecing, type FleecingOptions } from './fleecing.ts'
import { jobUser } from './ground.ts'
import type { Job, JobOptions } from './job.ts'
import type { JobTable } from './job-table.ts'
import { PreservedDisk, type SyncMode } from './preserved-disk.ts'
import { type BitmapMode, SyncBitmap } from './sync-bitmap.ts'
import type { JobControl, JobWork } from './work.ts'

export interface BackupOptions extends Omit<JobOptions, 'type'> {
  readonly source: BlockNode
  /** Of the same size; what it holds is replaced. */
  readonly target: BlockNode
  /**
   * `full`: all; `top`: what the topmost image holds; `none`: only what the guest overwrites;
   * `bitmap`: what `bitmap` says.
   */
  readonly sync: SyncMode
  /** A bitmap of the source; required with `bitmap`, and brought up to date with the others. */
  readonly bitmap?: DirtyBitmap
  /** What becomes of it; `on-success` unless given. */
  readonly bitmapMode?: BitmapMode
  readonly compress?: boolean
  /** Guests wait for a spill area, in a file or on `node`, and not for the target. */
  readonly fleecing?: FleecingOptions & { readonly node?: BlockNode }
  /** Name of the filter's node while the job runs. */
  readonly filterName?: string
}

/** A disk that is preserved, and the job that will copy it. */
export interface PreparedBackup {
  readonly job: Job
  /** Takes everything back; the job has not been started. */
  abort(): Promise<void>
}

/** Starts a backup. When this settles the moment is preserved; the job copies from then on. */
export async function startBackup(
  graph: Graph,
  jobs: JobTable,
  options: BackupOptions,
): Promise<Job> {
  const { job } = await prepareBackup(graph, jobs, options)
  queueMicrotask(() => job.start())
  return job
}

/** As `startBackup`, but the job is the caller's to start. */
export async function prepareBackup(
  graph: Graph,
  jobs: JobTable,
  options: BackupOptions,
): Promise<PreparedBackup> {
  checkBackup(options)
  checkSizes(options)
  let job: Job | undefined
  const fleecing = options.fleecing && new Fleecing(options.fleecing)
  let disk: PreservedDisk | undefined
  try {
    disk = await PreservedDisk.open(graph, {
      ...options,
      bitmap: syncBitmap(options),
      fleecing,
      spill: options.fleecing?.node,
      description: jobUser('backup', options.id),
      job: () => job,
    })
    jobs.checkId(options.id)
    await PreservedDisk.preserve(graph, [disk])
    job = jobs.create({ ...options, type: 'backup' }, backupWork(disk, fleecing, options))
    const created = job
    disk.join(created)
    return { job: created, abort: () => created.cancel() }
  } catch (error) {
    await disk?.drop()
    await fleecing?.[Symbol.asyncDispose]()
    throw error
  }
}

function syncBitmap(options: BackupOptions): SyncBitmap | undefined {
  const { bitmap, bitmapMode = 'on-success', sync, id } = options
  if (sync === 'bitmap' && !bitmap) throw new TypeError('a bitmap is needed')
  if (!bitmap) return undefined
  checkUsable(bitmap, { readOnly: true })
  return new SyncBitmap(options.source.bitmaps, bitmap, bitmapMode, `job '${id}'`)
}

function backupWork(
  disk: PreservedDisk,
  fleecing: Fleecing | undefined,
  options: BackupOptions,
): JobWork {
  const drop = async (succeeded: boolean) => {
    await disk.drop(succeeded)
    await fleecing?.[Symbol.asyncDispose]()
  }
  return {
    async run(control: JobControl) {
      disk.report(control)
      const copy = (signal: AbortSignal) => disk.copy(control, signal)
      await (fleecing ? fleecing.during(control, copy) : copy(control.signal))
      // The backup is worth something only once it survives a power cut.
      await options.target.flush()
    },
    complete: () => drop(true),
    abort: () => drop(false),
  }
}

const sectorSize = 512

/** What a backup of one node to another needs. */
export function checkBackup({
  source,
  target,
  compress,
}: Pick<BackupOptions, 'source' | 'target' | 'compress'>): void {
  if (source === target) {
    throw invalid('Source and target cannot be the same')
  }
  // Of a job's filter QEMU says so later, when the sizes are right.
  if (!source.isFilter) source.blockers.check('backup-source')
  target.blockers.check('backup-target')
  if (compress && !target.layer.compressed) {
    throw new BlockError('UNSUPPORTED', 'Compression is not supported for this drive ', {
      node: target.name,
      errno: 'ENOTSUP',
    })
  }
}

export function checkSizes({ source, target }: Pick<BackupOptions, 'source' | 'target'>): void {
  // Sizes are counted in sectors; a target whose last one is shorter than the source's is too small.
  const sectors = ({ size }: BlockNode) => Math.ceil(size / sectorSize)
  if (sectors(source) !== sectors(target) || target.size < source.size) {
    throw new BlockError('INVALID_ARGUMENT', `Source and target image have different sizes`, {
      node: target.name,
      errno: 'EINVAL',
    })
  }
}
