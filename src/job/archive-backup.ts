/**
 * A backup of several disks, as they were in one moment, into one VMA archive. The disks are
 * copied one after the other; clusters that guests are about to overwrite come in between.
 */
import { VmaDeviceTarget } from '../archive/vma/device-target.ts'
import type { ArchiveSink } from '../archive/vma/io/sink.ts'
import { randomUuid } from '../archive/vma/uuid.ts'
import { type VmaStreamStatus, VmaWriter } from '../archive/vma/writer.ts'
import { BlockError } from '../errors.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import type { Job, JobControl, JobOptions, JobWork } from './job.ts'
import type { JobTable } from './job-table.ts'
import { PreservedDisk } from './preserved-disk.ts'

export interface ArchiveBackupOptions extends Omit<JobOptions, 'type'> {
  /** Taken over: finished when the backup is complete, aborted when it is not. */
  readonly sink: ArchiveSink
  readonly disks: readonly { readonly name: string; readonly node: BlockNode }[]
  /** Configuration files to store; names without folders. */
  readonly configs?: readonly { readonly name: string; readonly data: Uint8Array }[]
  /** 16 bytes; random unless given. */
  readonly uuid?: Uint8Array
}

export interface ArchiveBackup {
  readonly job: Job
  /** 16 bytes. */
  readonly uuid: Uint8Array
  /** What is stored of each disk, in the order given. */
  streams(): readonly VmaStreamStatus[]
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
  let job: Job | undefined
  const cleanUp = async () => {
    for (const part of parts) await part.disk.drop()
    for (const part of parts) await graph.remove(part.target.name)
  }
  try {
    jobs.checkId(options.id)
    checkDisks(options)
    for (const { name, data } of options.configs ?? []) writer.registerConfig(name, data)
    for (const disk of options.disks) {
      parts.push(await openPart(graph, writer, disk, options.id, () => job))
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
  job = jobs.start({ ...options, type: 'backup' }, archiveWork(writer, parts, cleanUp))
  return { job, uuid, streams: () => writer.status.streams }
}

interface Part {
  readonly deviceId: number
  readonly target: BlockNode
  readonly disk: PreservedDisk
}

async function openPart(
  graph: Graph,
  writer: VmaWriter,
  { name, node }: { readonly name: string; readonly node: BlockNode },
  id: string,
  job: () => Job | undefined,
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
      description: `job '${id}'`,
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
  cleanUp: () => Promise<void>,
): JobWork {
  return {
    async run(control: JobControl) {
      control.setTotal(parts.reduce((sum, { disk }) => sum + disk.source.size, 0))
      // Guests store clusters of all disks from now on, whichever is being copied.
      for (const { disk } of parts) disk.layer.copy.onProgress = (bytes) => control.advance(bytes)
      for (const { disk, deviceId } of parts) {
        await disk.copy(control)
        await writer.closeStream(deviceId)
      }
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
    throw new BlockError('INVALID_ARGUMENT', 'a backup needs at least one disk', {
      errno: 'EINVAL',
    })
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
