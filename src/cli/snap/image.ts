/** Snapshot images as files: new ones, which get their name when they are complete, and old ones. */
import { open, rename, rm, stat } from 'node:fs/promises'
import { dirname, isAbsolute, relative } from 'node:path'
import { temporaryNameFor } from '../../archive/vma/io/new-name.ts'
import { KiB, MiB } from '../../bytes/range.ts'
import { createImage } from '../../create-image.ts'
import { BlockError, systemError } from '../../errors.ts'
import type { Graph } from '../../graph/graph.ts'
import type { SnapshotImage } from '../../snapshot/image/snapshot-image.ts'
import type { NamedIo } from '../command.ts'
import { type CacheMode, imageGraph, openImage } from '../open-image.ts'

/** Opens the image of a snapshot; closing it closes everything. */
export async function openSnapshotImage(
  filename: string,
  io: NamedIo,
  options: { readonly readOnly: boolean; readonly cache?: CacheMode },
): Promise<SnapshotImage> {
  const graph = imageGraph(io)
  try {
    const { readOnly, cache } = options
    const node = await openImage(graph, { filename, format: 'qcow2', readOnly, cache }, io)
    const edge = graph.attach(node, {
      description: 'a snapshot',
      uses: readOnly ? ['consistentRead'] : ['consistentRead', 'write', 'resize'],
      shares: readOnly ? undefined : ['consistentRead'],
    })
    const state = node.layer.vmState
    if (!state) throw new BlockError('UNSUPPORTED', `${filename}: cannot hold the state of a VM`)
    return {
      name: filename,
      ram: edge,
      state,
      async [Symbol.asyncDispose]() {
        await edge[Symbol.asyncDispose]()
        await graph[Symbol.asyncDispose]()
      },
    }
  } catch (error) {
    await graph[Symbol.asyncDispose]()
    throw error
  }
}

export interface NewSnapshotOptions {
  /** Bytes of the disk. */
  readonly size: number
  readonly cache?: CacheMode
  /** File name of the snapshot whose pages it shares. */
  readonly base?: string
  readonly compress?: boolean
}

/** A new image beside its final name, which it gets at the end, or never. */
export class NewSnapshotFile {
  readonly path: string
  readonly temporary: string
  readonly image: SnapshotImage
  #named = false

  private constructor(path: string, temporary: string, image: SnapshotImage) {
    this.path = path
    this.temporary = temporary
    this.image = image
  }

  /** As qemu-snap makes it: qcow2 version 3 with large clusters and lazy, short refcounts. */
  static async create(
    path: string,
    io: NamedIo,
    options: NewSnapshotOptions,
  ): Promise<NewSnapshotFile> {
    await refuseSpecial(path)
    const temporary = temporaryNameFor(path)
    const graph: Graph = imageGraph(io)
    try {
      const format = { filename: temporary, format: 'qcow2', options: formatOptions(path, options) }
      await createImage(graph, format)
      const image = await openSnapshotImage(temporary, io, { ...options, readOnly: false })
      return new NewSnapshotFile(path, temporary, {
        ...{ name: path, ram: image.ram, state: image.state },
        [Symbol.asyncDispose]: () => image[Symbol.asyncDispose](),
      })
    } catch (error) {
      await rm(temporary, { force: true })
      throw error
    } finally {
      await graph[Symbol.asyncDispose]()
    }
  }

  /** Closes the image and gives it its name; a snapshot of that name is replaced. */
  async keep(): Promise<void> {
    await this.image[Symbol.asyncDispose]()
    try {
      await rename(this.temporary, this.path)
      this.#named = true
      const folder = await open(dirname(this.path))
      await folder.sync().catch(() => {})
      await folder.close()
    } catch (error) {
      throw systemError(error, `Could not give '${this.path}' its name`, { path: this.path })
    }
  }

  /** Removes the image, unless it has its name. */
  async discard(): Promise<void> {
    if (this.#named) return
    await Promise.resolve(this.image[Symbol.asyncDispose]()).catch(() => {})
    await rm(this.temporary, { force: true })
  }
}

/**
 * An overlay has clusters of one page, so it holds no more than the pages that have changed;
 * compressed clusters are smaller than usual, since a page costs reading the whole of its cluster.
 */
function formatOptions(path: string, { size, base, compress }: NewSnapshotOptions) {
  const common = { size, compat: 'v3', lazy_refcounts: true }
  const packed = compress ? { compression_type: 'zstd' } : {}
  if (base !== undefined) {
    // As the image names it: from its own folder.
    const name = isAbsolute(base) ? base : relative(dirname(path), base)
    const backing = { backing_file: name, backing_fmt: 'qcow2' }
    return { ...common, ...packed, ...backing, cluster_size: 4 * KiB }
  }
  if (compress) return { ...common, ...packed, cluster_size: 64 * KiB }
  return { ...common, cluster_size: MiB, refcount_bits: 8 }
}

/** Replacing a device or a pipe by a file is nobody's wish. */
async function refuseSpecial(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined)
  if (!found || found.isFile()) return
  throw new BlockError('INVALID_ARGUMENT', `'${path}' exists and is no file`, { path })
}
