/**
 * The stream job: an image takes over what its backing files provide, down to a base, and then no
 * longer needs those in between. Guests see the same data all the time; a guest's write to a range
 * that is being taken over waits for it, since otherwise old data could replace new. What guests read
 * meanwhile is taken over at once, by a copy-on-read filter.
 */
import { Bitset } from '../bitmap/bitset.ts'
import { maxCopyLength } from '../block/block-copy.ts'
import type { ChainProbe } from '../block/driver.ts'
import type { ErrorPolicy } from '../block/error-policy.ts'
import { type Capabilities, type Io, plainIo, plainZeroIo } from '../block/layer.ts'
import { CopyError } from '../block/transfer.ts'
import { SpareBuffers } from '../bytes/spare-buffers.ts'
import { isZero } from '../bytes/zero.ts'
import { BlockError, inContext } from '../errors.ts'
import { CopyOnRead } from '../filter/copy-on-read.ts'
import { chainOf, edgeBelow, skipFilters } from '../graph/chain.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import { changeRecords, recordOf } from '../graph/record.ts'
import { chainExtentAt } from '../graph/status.ts'
import { type Copier, type CopyStatus, runCopyLoop } from './copy-loop.ts'
import { JobGround } from './ground.ts'
import type { Job, JobOptions } from './job.ts'
import type { JobTable } from './job-table.ts'
import type { JobControl } from './work.ts'

export interface StreamOptions
  extends Omit<JobOptions, 'type' | 'onSourceError' | 'onTargetError'> {
  /** The image that takes over. */
  readonly node: BlockNode
  /** What stays below it: a node of its chain. Nothing does unless given. */
  readonly base?: BlockNode
  /** Name of the base to record in the image; that by which the base was opened unless given. */
  readonly backingFile?: string
  readonly onError?: ErrorPolicy
  /** Name of the filter's node while the job runs. */
  readonly filterName?: string
}

/** Starts to stream. The image is open for writing as long as the job runs. */
export async function startStream(
  graph: Graph,
  jobs: JobTable,
  options: StreamOptions,
): Promise<Job> {
  jobs.checkId(options.id)
  const { base, onError } = options
  const node = skipFilters(options.node)
  const inner = innerNodes(node, base)
  for (const each of [node, ...inner]) each.blockers.check('stream')
  const ground = new JobGround(graph, options.id, 'stream')
  try {
    await ground.makeWritable(node)
    try {
      await ground.addFilter(
        'copy-on-read',
        options.filterName,
        node,
        (next) => new StreamFilter(next, chainAbove(node, base)),
      )
    } catch (error) {
      throw inContext('Could not create node', error)
    }
    const unresized = ground.unresized(node)
    await ground.insertFilter(node).catch((error) => {
      throw inContext('Could not replace node', error)
    })
    ground.use(ground.filter as BlockNode, ['consistentRead'], unresized, 'device')
    ground.use(node, [], unresized, 'active node')
    // Nobody may change what is taken over.
    for (const each of inner) {
      ground.use(each, [], ['consistentRead', 'writeUnchanged'], 'intermediate node')
    }
    ground.freeze(node, base)
    ground.block([node, ...inner])
  } catch (error) {
    await ground.release()
    throw error
  }
  const release = () => ground.release()
  const job = jobs.start(
    { ...options, type: 'stream', onSourceError: onError, onTargetError: onError },
    {
      async run(control) {
        if (inner.length === 0) return
        control.setTotal(node.size)
        await runCopyLoop({
          copy: new StreamCopier(node, control),
          status: streamStatus(node, base),
          control,
          signal: control.signal,
          // As QEMU's: it takes over what it can, and keeps the backing file for the rest.
          ignored: 'fail',
        })
        await node.layer.flush(plainIo)
      },
      async complete() {
        if (node.children.has('backing')) await detach(graph, ground, node, options)
        await release()
      },
      abort: release,
    },
  )
  ground.job = job
  return job
}

/** The nodes between an image and the base, filters included. */
function innerNodes(node: BlockNode, base: BlockNode | undefined): BlockNode[] {
  const [, ...below] = chainOf(node)
  if (base === undefined) return below
  const end = below.indexOf(base)
  if (end >= 0) return below.slice(0, end)
  throw new BlockError(
    'INVALID_ARGUMENT',
    `Node '${base.name}' is not a backing image of '${node.name}'`,
    { node: base.name, errno: 'EINVAL' },
  )
}

/** What guests read of the images between is taken over then and there. */
class StreamFilter extends CopyOnRead {
  override get capabilities(): Capabilities {
    return { ...super.capabilities, resize: false }
  }
}

/** The images that the stream takes from; the job itself keeps them in their places. */
function chainAbove(node: BlockNode, base: BlockNode | undefined): ChainProbe {
  const end = base && skipFilters(base)
  return {
    async extentAt(offset, length, io) {
      const run = await chainExtentAt(node, offset, length, io, end)
      return { length: run.length, allocated: run.depth !== undefined }
    },
    release() {},
  }
}

/** What the image lacks and the images between provide. */
function streamStatus(node: BlockNode, base: BlockNode | undefined): CopyStatus {
  const end = base && skipFilters(base)
  return async (offset, length, io) => {
    const own = await node.extentAt(offset, length, io)
    if (own.kind !== 'backing') return { kind: 'absent', length: own.length }
    const run = await chainExtentAt(node, offset, own.length, io, end)
    if (run.depth === undefined) return { kind: 'absent', length: run.length }
    if (!run.zero) return { kind: 'data', length: run.length }
    // Without a base, what is not allocated reads as zeroes in the end.
    return { kind: end ? 'zero' : 'absent', length: run.length }
  }
}

/** Gives the image its new backing file, in the file and in the graph. */
async function detach(
  graph: Graph,
  ground: JobGround,
  node: BlockNode,
  { base, backingFile }: StreamOptions,
): Promise<void> {
  ground.thaw()
  await graph.setBacking(node, base, () =>
    changeRecords([node], base && recordOf(base, backingFile)),
  )
}

/** Fills in what the image lacks. Its requests pass by the node, whose range it holds meanwhile. */
class StreamCopier implements Copier {
  readonly clusterSize: number
  readonly size: number
  readonly todo: Bitset
  readonly #node: BlockNode
  readonly #control: JobControl
  readonly #spare = new SpareBuffers()

  constructor(node: BlockNode, control: JobControl) {
    this.#node = node
    this.#control = control
    this.size = node.size
    this.clusterSize = node.layer.image?.clusterSize ?? node.layer.limits.preferredLength
    this.todo = new Bitset(Math.ceil(this.size / this.clusterSize))
    this.todo.add(0, this.todo.capacity)
  }

  copy(offset: number, length: number, io: Io): Promise<void> {
    return this.#alone(offset, length, io, () => this.#fill(offset, length, io))
  }

  copyZeroes(offset: number, length: number, io: Io): Promise<void> {
    return this.#alone(offset, length, io, () =>
      this.#eachLacking(offset, length, io, async (at, bytes) => {
        await this.#node.layer.writeZeroes(at, bytes, { ...plainZeroIo, ...io, unchanged: true })
      }),
    )
  }

  async dismiss(offset: number, length: number): Promise<void> {
    this.#done(offset, length)
  }

  async #alone(
    offset: number,
    length: number,
    { signal }: Io,
    work: () => Promise<void>,
  ): Promise<void> {
    try {
      await this.#node.serialised({ offset, length }, signal, work)
    } catch (error) {
      // One policy for both sides: whatever fails counts as reading.
      throw new CopyError('source', offset, error)
    }
    this.#done(offset, length)
  }

  async #fill(offset: number, length: number, io: Io): Promise<void> {
    const buffer = this.#spare.take(Math.max(length, maxCopyLength))
    try {
      await this.#eachLacking(offset, length, io, (at, bytes) =>
        this.#take(at, buffer.subarray(0, bytes), io),
      )
    } finally {
      this.#spare.giveBack(buffer)
    }
  }

  /** A guest may have written since the status was asked for: asked again, now that all wait. */
  async #eachLacking(
    offset: number,
    length: number,
    io: Io,
    work: (at: number, bytes: number) => Promise<void>,
  ): Promise<void> {
    const end = offset + length
    for (let at = offset; at < end; ) {
      const run = await this.#node.layer.extentAt(at, end - at, io)
      const bytes = Math.min(run.length, end - at)
      if (run.kind === 'backing') await work(at, bytes)
      at += bytes
    }
  }

  async #take(offset: number, data: Uint8Array, io: Io): Promise<void> {
    const { layer } = this.#node
    await layer.read(offset, data, io)
    const writeIo = { ...plainZeroIo, ...io, unchanged: true }
    for (let at = 0; at < data.length; at += this.clusterSize) {
      const cluster = data.subarray(at, at + this.clusterSize)
      if (isZero(cluster)) await layer.writeZeroes(offset + at, cluster.length, writeIo)
      else await layer.write(offset + at, cluster, writeIo)
    }
  }

  #done(offset: number, length: number): void {
    // Two workers may have come to the same clusters: they count once.
    const end = Math.ceil((offset + length) / this.clusterSize)
    let first = this.todo.next(Math.floor(offset / this.clusterSize), end)
    while (first < end) {
      const behind = this.todo.nextAbsent(first, end)
      this.todo.delete(first, behind)
      const { size, clusterSize } = this
      this.#control.advance(Math.min(size, behind * clusterSize) - first * clusterSize)
      first = this.todo.next(behind, end)
    }
  }
}

/** The base that is below the given lowest image of a stream. */
export function baseBelow(bottom: BlockNode): BlockNode | undefined {
  return edgeBelow(skipFilters(bottom))?.node
}
