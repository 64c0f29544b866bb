/**
 * A disk of one moment, kept by a copy-before-write filter while a job copies it: the part that a
 * backup to a node and a backup into an archive have in common.
 */

import { CopyError } from '../block/block-copy.ts'
import { type CopyBeforeWrite, openCopyBeforeWrite } from '../filter/copy-before-write.ts'
import type { Edge } from '../graph/edge.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import { runCopyLoop, statusOf } from './copy-loop.ts'
import type { Job, JobControl } from './job.ts'

export type SyncMode = 'full' | 'top' | 'none'

export interface PreserveOptions {
  readonly source: BlockNode
  readonly target: BlockNode
  readonly sync: SyncMode
  readonly compress?: boolean
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
  #dropped = false

  /** Opens the filter; nothing is preserved before `preserve`. */
  static async open(graph: Graph, options: PreserveOptions): Promise<PreservedDisk> {
    const name = options.filterName === undefined ? {} : { 'node-name': options.filterName }
    const { node, layer } = await graph.add('copy-before-write', name, (context) =>
      openCopyBeforeWrite(
        {
          file: options.source.name,
          target: options.target.name,
          onCopyError: 'break-snapshot',
          timeoutMs: 0,
          compress: options.compress,
        },
        context,
      ),
    )
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
    this.#options = options
    layer.onBroken = (error) => this.#broken.abort(error instanceof CopyError ? error.cause : error)
  }

  /** Puts the filters of all disks in place, in one moment: this is the time that is preserved. */
  static async preserve(graph: Graph, disks: readonly PreservedDisk[]): Promise<void> {
    for (const { layer } of disks) layer.copy.todo.add(0, layer.copy.todo.capacity)
    await graph.insertFilters(disks.map(({ filter, source }) => ({ filter, node: source })))
    for (const disk of disks) disk.#attach()
  }

  /** Copies the disk, or, with `none`, only waits while guest writes do. */
  async copy(control: JobControl): Promise<void> {
    const signal = AbortSignal.any([control.signal, this.#broken.signal])
    this.layer.copy.onProgress = (bytes) => control.advance(bytes)
    if (this.#options.sync === 'none') return await control.rest(signal)
    await runCopyLoop({
      copy: this.layer.copy,
      status: statusOf(this.source, this.#options.sync === 'top'),
      control,
      signal,
    })
  }

  /** Takes the filter out; guest writes go straight to the disk again. Idempotent. */
  async drop(): Promise<void> {
    if (this.#dropped) return
    this.#dropped = true
    await this.#edge?.[Symbol.asyncDispose]()
    await this.#graph.dropFilter(this.filter)
  }

  /** Stands still while the node is drained: the copying is the layer's, not the edge's. */
  #attach(): void {
    const { description, job } = this.#options
    this.#edge = this.#graph.attach(this.filter, {
      description,
      uses: ['consistentRead'],
      drain: {
        begin: async () => {
          await job()?.hold()
          await this.layer.copy.idle()
        },
        end: () => job()?.letGo(),
      },
    })
  }
}
