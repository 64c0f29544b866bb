/** Disk images named on the command line of `vma create` and `vma extract -r`. */
import type { DiskSource } from '../../archive/vma/store-device.ts'
import { drivers } from '../../drivers.ts'
import { BlockError } from '../../errors.ts'
import type { Edge } from '../../graph/edge.ts'
import type { Graph } from '../../graph/graph.ts'
import type { BlockNode } from '../../graph/node.ts'
import { formatOf } from '../../graph/probe.ts'
import { chainExtentAt } from '../../graph/status.ts'
import type { CliIo, NamedCliIo } from '../command.ts'
import { type CacheMode, imageGraph, openImage } from '../open-image.ts'
import { pathOf } from './support.ts'

export interface ImageSpec {
  readonly path: string
  /** Undefined: found out from the image. */
  readonly format: string | undefined
}

/** How much of a target is looked at to see whether it is an image of another format. */
const probeLength = 2048

/** The images of one command. They are closed together. */
export class Images implements AsyncDisposable {
  readonly #io: NamedCliIo
  readonly #graph: Graph
  readonly #edges: Edge[] = []

  constructor(io: CliIo) {
    // Not a copy: that would make the streams which nobody has asked for yet.
    this.#io = Object.assign(Object.create(io), { program: 'vma' })
    this.#graph = imageGraph(this.#io)
  }

  /** Opens an image to read all of it, its backing files included. */
  async openSource({ path, format }: ImageSpec): Promise<DiskSource> {
    const filename = pathOf(path, this.#io)
    const node = await openImage(this.#graph, { filename, format }, this.#io)
    return diskSource(node, this.#attach(node, 'vma create', ['consistentRead']))
  }

  /** Opens an existing image to be overwritten. A format that is not named is raw. */
  async openTarget({ path, format }: ImageSpec, cache: CacheMode): Promise<Edge> {
    const filename = pathOf(path, this.#io)
    const request = { filename, format: format ?? (await this.#guessRaw(filename)) }
    const options = { ...request, readOnly: false, cache, unmap: true }
    const node = await openImage(this.#graph, options, this.#io)
    return this.#attach(node, 'vma extract', ['consistentRead', 'write'])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const edge of this.#edges.splice(0)) await edge[Symbol.asyncDispose]()
    await this.#graph[Symbol.asyncDispose]()
  }

  #attach(node: BlockNode, description: string, uses: readonly ('consistentRead' | 'write')[]) {
    const edge = this.#graph.attach(node, { description, uses })
    this.#edges.push(edge)
    return edge
  }

  /**
   * Raw, unless the target looks like an image of another format. A guest can write any header
   * into a raw disk, so it is never opened as what it looks like.
   */
  async #guessRaw(filename: string): Promise<'raw'> {
    const node = await openImage(this.#graph, { filename, format: 'raw' }, this.#io)
    const head = new Uint8Array(Math.min(probeLength, node.size))
    {
      const uses = ['consistentRead'] as const
      await using edge = this.#graph.attach(node, { description: 'format probing', uses })
      await edge.read(0, head)
    }
    await this.#graph.remove(node.name)
    const format = formatOf(drivers, head)
    if (format === undefined || format === 'raw') return 'raw'
    throw new BlockError(
      'INVALID_ARGUMENT',
      `'${filename}' looks like a ${format} image; name its format, format=${format} or format=raw`,
      { path: filename },
    )
  }
}

/** A disk as the archive reads it: zeroes known through the whole chain of backing files. */
function diskSource(node: BlockNode, edge: Edge): DiskSource {
  return {
    size: edge.size,
    read: (offset, target, io) => edge.read(offset, target, io),
    async extentAt(offset, length, io) {
      const run = await chainExtentAt(node, offset, length, io)
      return run.zero
        ? { kind: 'zero', allocated: false, offset, length: run.length }
        : { kind: 'data', offset, length: run.length }
    },
  }
}
