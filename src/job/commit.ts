/**
 * The commit job: what images between a base and a top hold goes down into the base, which then
 * takes their place below the top's overlay. While the base is being written to, the images
 * between show a mixture to anybody who looks at them directly; through the top nothing changes.
 *
 * The active layer, which guests write to meanwhile, is committed by a mirror to the base.
 */
import { BlockCopy } from '../block/block-copy.ts'
import type { ErrorPolicy } from '../block/error-policy.ts'
import type { Io } from '../block/layer.ts'
import {
  everyPermission,
  noPermission,
  type Permission,
  type Permissions,
} from '../block/permission.ts'
import { invalid } from '../errors.ts'
import { chainOf, chainTo, imagesOf, skipFilters } from '../graph/chain.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import { changeRecords, recordOf } from '../graph/record.ts'
import { chainExtentAt } from '../graph/status.ts'
import { type CopyStatus, runCopyLoop } from './copy-loop.ts'
import { JobFilter, JobGround } from './ground.ts'
import type { Job, JobOptions } from './job.ts'
import type { JobTable } from './job-table.ts'
import { startMirrorWork } from './mirror.ts'

export interface CommitOptions
  extends Omit<JobOptions, 'type' | 'onSourceError' | 'onTargetError'> {
  /** The active layer. */
  readonly node: BlockNode
  /** The highest image that is committed; the active layer unless given. */
  readonly top?: BlockNode
  /** The image that receives; the lowest of the chain unless given. */
  readonly base?: BlockNode
  /** Name of the base to record in the top's overlay; that by which it was opened unless given. */
  readonly backingFile?: string
  readonly onError?: ErrorPolicy
  /** Name of the filter's node while the job runs. */
  readonly filterName?: string
}

/** Starts to commit. The job of an active layer gets ready, and ends with `complete`. */
export async function startCommit(
  graph: Graph,
  jobs: JobTable,
  options: CommitOptions,
): Promise<Job> {
  jobs.checkId(options.id)
  const active = skipFilters(options.node)
  const top = options.top ? skipFilters(options.top) : active
  const base = options.base ?? imagesOf(top).at(-1)!
  checkChain(options.node, top, base)
  const { onError } = options
  const jobOptions = {
    ...options,
    type: 'commit',
    onSourceError: onError,
    onTargetError: onError,
  } as const
  if (top !== active) return await startInner(graph, jobs, { ...options, top, base }, jobOptions)
  if (options.backingFile !== undefined) {
    throw invalid(`'backing-file' specified, but '${options.node.name}' is the active layer`)
  }
  return await startMirrorWork(graph, jobs, jobOptions, {
    source: options.node,
    target: base,
    scope: { above: base },
    filterName: options.filterName,
  })
}

async function startInner(
  graph: Graph,
  jobs: JobTable,
  {
    id,
    node,
    top,
    base,
    backingFile,
    filterName,
  }: CommitOptions & { top: BlockNode; base: BlockNode },
  jobOptions: JobOptions,
): Promise<Job> {
  const chain = chainTo(top, base)
  for (const each of new Set([skipFilters(node), ...chain])) each.blockers.check('commit-source')
  base.blockers.check('commit-target')
  const ground = new JobGround(graph, id, 'commit')
  const release = () => ground.release()
  try {
    await ground.makeWritable(base)
    const readOnly = { 'read-only': true }
    await ground.addFilter('commit_top', filterName, top, (next) => new CommitTop(next), readOnly)
    await ground.insertFilter(top)
    // The job is its user, too: who wants a disk that nobody stands on is refused.
    if (node !== top) ground.use(node, [])
    for (const each of chain) {
      ground.use(each, [], ['write', 'writeUnchanged'], 'intermediate node')
    }
    ground.use(top, [], undefined, 'device')
    const grows: Permission[] = base.size < top.size ? ['resize'] : []
    const uses: Permission[] = ['consistentRead', 'write', ...grows]
    ground.use(base, uses, ['consistentRead', 'writeUnchanged'], 'device')
    ground.freeze(top, base)
    if (base.size < top.size) await base.truncate(top.size)
    ground.block(new Set([skipFilters(node), ...chain.slice(1)]))
    ground.block([top, base], ['remove'])
  } catch (error) {
    await release()
    throw error
  }
  const job = jobs.start(jobOptions, {
    async run(control) {
      control.setTotal(top.size)
      const copy = new BlockCopy({ source: top, target: base, clusterSize: clusterSizeOf(top) })
      copy.todo.add(0, copy.todo.capacity)
      copy.onProgress = (bytes) => control.advance(bytes)
      const { signal } = control
      await runCopyLoop({ copy, status: commitStatus(top, base), control, signal })
      await base.flush()
    },
    async complete() {
      await takeOut(graph, ground, base, backingFile)
      await release()
    },
    abort: release,
  })
  ground.job = job
  return job
}

/** Puts the base in the place of the filter and of everything between the two. */
async function takeOut(
  graph: Graph,
  ground: JobGround,
  base: BlockNode,
  backingFile: string | undefined,
): Promise<void> {
  const filter = ground.filter
  if (!filter) return
  const overlays = [...filter.parents]
    .filter(({ role, owner }) => role === 'backing' && owner)
    .map(({ owner }) => owner!)
  const readOnly = overlays.filter((overlay) => overlay.flags.readOnly)
  for (const overlay of readOnly) await graph.setReadOnly(overlay, false)
  let putBack = async () => {}
  try {
    await graph.changed(
      [filter],
      (shape) => {
        ground.thaw()
        const moves = ground.others(filter).map((edge) => ({ edge, to: base }))
        shape.change({ moves, leaving: filter, dropped: ground.edges })
        return { edges: ground.edges, nodes: [ground.filterLeft()!] }
      },
      async () => {
        putBack = await changeRecords(overlays, recordOf(base, backingFile))
      },
    )
  } catch (error) {
    await putBack()
    throw error
  } finally {
    for (const overlay of readOnly) await graph.setReadOnly(overlay, true).catch(() => {})
  }
}

/** What images above the base hold. */
function commitStatus(top: BlockNode, base: BlockNode): CopyStatus {
  const end = skipFilters(base)
  return async (offset, length, io: Io) => {
    const run = await chainExtentAt(top, offset, length, io, end)
    if (run.depth === undefined) return { kind: 'absent', length: run.length }
    return { kind: run.zero ? 'zero' : 'data', length: run.length }
  }
}

/** Readers above bear that the base, far below them, is written to, and what is between shows no disk. */
class CommitTop extends JobFilter {
  childPermissions(): Permissions {
    return { uses: noPermission, shares: everyPermission }
  }
}

function clusterSizeOf(top: BlockNode): number {
  return Math.min(64 * 1024, top.layer.image?.clusterSize ?? 64 * 1024)
}

function checkChain(node: BlockNode, top: BlockNode, base: BlockNode): void {
  if (!chainOf(node).includes(base)) {
    throw invalid(`'${base.name}' is not in this backing file chain`)
  }
  if (top === skipFilters(base)) throw invalid('cannot commit an image into itself')
  if (!chainOf(top).includes(base)) {
    throw invalid(`'${base.name}' is not in this backing file chain`)
  }
}
