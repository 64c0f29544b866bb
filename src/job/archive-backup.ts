/**
 * A backup of several disks, as they were in one moment, into one VMA archive. The disks are
 * copied one after the other; clusters that guests are about to overwrite come in between.
 */

import type { VmaStreamStatus } from '../archive/vma/device-stream.ts'
import { VmaDeviceTarget } from '../archive/vma/device-target.ts'
import type { ArchiveSink } from '../archive/vma/io/sink.ts'
import { randomUuid } from '../archive/vma/uuid.ts'
import { VmaWriter } from '../archive/vma/writer.ts'
import { BlockError, invalid } from '../errors.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import { Fleecing, type FleecingOptions } from './fleecing.ts'
import { jobUser } from './ground.ts'
import type { Job, JobOptions } from './job.ts'
import type { JobTable } from './job-table.ts'
import { PreservedDisk } from './preserved-disk.ts'
import type { JobControl, JobWork } from './work.ts'

export interface ArchiveDisk {
  /** As the archive calls it. */
  readonly name: string
  readonly node: BlockNode
  /** With `fleecing`, where its old data goes; what it holds is overwritten. A file unless given. */
  readonly spill?: BlockNode
}

export interface ArchiveBackupOptions extends Omit<JobOptions, 'type'> {
  /** Taken over: finished when the backup is complete, aborted when it is not. */
  readonly sink: ArchiveSink
  readonly disks: readonly ArchiveDisk[]
  /** Configuration files to store; names without folders. */
  readonly configs?: readonly { readonly name: string; readonly data: Uint8Array }[]
  /** 16 bytes; random unless given. */
  readonly uuid?: Uint8Array
  /** Guests wait for a spill area and not for the archive. */
  readonly fleecing?: FleecingOptions
}

export interface ArchiveBackup {
  readonly job: Job
  /** 16 bytes. */
  readonly uuid: Uint8Array
  /** What is stored of each disk, in the order given. */
  streams(): readonly VmaStreamStatus[]
  /** With fleecing: bytes of old data that wait now, and that have waited at the worst moment. */
  spill(): { readonly used: number; readonly peak: number } | undefined
}

/** Starts a backup. When this settles the moment is preserved; the job stores it from then on. */
export async function startArchiveBackup(
  graph: Graph,
  jobs: JobTable,
  options: ArchiveBackupOptions,
): Promise<ArchiveBackup> {
  const uuid = options.uuid ?? randomUuid()
  const writer = await VmaWriter.open(options.sink, { uuid })
  const parts: Part[] = []
  let fleecing: Fleecing | undefined
  let job: Job | undefined
  const cleanUp = async () => {
    for (const part of parts) await part.disk.drop()
    for (const part of parts) await graph.remove(part.target.name)
    await fleecing?.[Symbol.asyncDispose]()
  }
  try {
    fleecing = options.fleecing && new Fleecing(options.fleecing)
    jobs.checkId(options.id)
    checkDisks(options)
    for (const { name, data } of options.configs ?? []) writer.registerConfig(name, data)
    for (const disk of options.disks) {
      parts.push(await openPart(graph, writer, disk, { fleecing, id: options.id, job: () => job }))
    }
    await PreservedDisk.preserve(
      graph,
      parts.map(({ disk }) => disk),
    )
  } catch (error) {
    await cleanUp()
    await writer[Symbol.asyncDispose]()
    throw error
  }
  job = jobs.start({ ...options, type: 'backup' }, archiveWork(writer, parts, fleecing, cleanUp))
  for (const { disk } of parts) disk.join(job)
  return { job, uuid, streams: () => writer.status.streams, spill: () => fleecing?.usage }
}

interface Part {
  readonly deviceId: number
  readonly target: BlockNode
  readonly disk: PreservedDisk
}

interface PartOptions {
  readonly fleecing: Fleecing | undefined
  readonly id: string
  readonly job: () => Job | undefined
}

async function openPart(
  graph: Graph,
  writer: VmaWriter,
  { name, node, spill }: ArchiveDisk,
  { fleecing, id, job }: PartOptions,
): Promise<Part> {
  const deviceId = writer.registerStream(name, node.size)
  const { node: target } = await graph.add(
    'vma-writer',
    {},
    async () => new VmaDeviceTarget(writer, deviceId, node.size),
  )
  try {
    const disk = await PreservedDisk.open(graph, {
      source: node,
      target,
      sync: 'full',
      fleecing,
      spill: fleecing && spill,
      description: jobUser('backup', id),
      job,
    })
    return { deviceId, target, disk }
  } catch (error) {
    await graph.remove(target.name)
    throw error
  }
}

function archiveWork(
  writer: VmaWriter,
  parts: readonly Part[],
  fleecing: Fleecing | undefined,
  cleanUp: () => Promise<void>,
): JobWork {
  // When one disk of the moment is lost the others need not be copied any more.
  const copyAll = async (control: JobControl, end: AbortSignal) => {
    const signal = AbortSignal.any([end, ...parts.map(({ disk }) => disk.broken)])
    for (const { disk, deviceId } of parts) {
      await disk.copy(control, signal)
      await writer.closeStream(deviceId)
    }
  }
  return {
    async run(control: JobControl) {
      control.setTotal(parts.reduce((sum, { disk }) => sum + disk.source.size, 0))
      // Guests store clusters of all disks from now on, whichever is being copied.
      for (const { disk } of parts) disk.layer.copy.onProgress = (bytes) => control.advance(bytes)
      const copy = (signal: AbortSignal) => copyAll(control, signal)
      await (fleecing ? fleecing.during(control, copy) : copy(control.signal))
      await writer.close()
    },
    complete: cleanUp,
    async abort() {
      await cleanUp()
      await writer[Symbol.asyncDispose]()
    },
  }
}

function checkDisks({ disks }: ArchiveBackupOptions): void {
  if (disks.length === 0) {
    throw invalid('a backup needs at least one disk')
  }
  const twice = disks.find(({ node }, index) =>
    disks.some((other, at) => at < index && other.node === node),
  )
  if (twice) {
    throw new BlockError('INVALID_ARGUMENT', `node '${twice.node.name}' is named twice`, {
      node: twice.node.name,
      errno: 'EINVAL',
    })
  }
}
