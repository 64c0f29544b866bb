/** The library's front door: one image, opened for one caller. */
import type { NodeOptions, SecretSource } from './block/driver.ts'
import { type Io, neverAborted, plainIo, type WriteIo, type ZeroIo } from './block/layer.ts'
import type { Permission } from './block/permission.ts'
import { noSecret } from './block/secrets.ts'
import type { ByteRange } from './bytes/range.ts'
import { drivers } from './drivers.ts'
import { BlockError, invalid } from './errors.ts'
import type { Edge } from './graph/edge.ts'
import { Graph } from './graph/graph.ts'
import type { BlockNode } from './graph/node.ts'
import { allowAll, type OpenPolicy, refuseAll, sameFolder } from './graph/open-policy.ts'
import { type ChainExtent, chainExtentAt } from './graph/status.ts'

export interface OpenDiskOptions {
  /** `qcow2`, `raw`, …; probed when left out, which is refused for raw images opened for writing. */
  readonly format?: string
  readonly readOnly?: boolean
  /** Which files the image may name: none unless given. */
  readonly backing?: 'refuse' | 'same-folder' | 'allow' | OpenPolicy
  /** Further options of the image's node, as `blockdev-add` has them. */
  readonly options?: NodeOptions
  /** What options such as `encrypt.key-secret` name, by id. */
  readonly secrets?: Readonly<Record<string, Uint8Array>> | SecretSource
  readonly signal?: AbortSignal
}

const policies = { refuse: refuseAll, 'same-folder': sameFolder, allow: allowAll }

/**
 * Opens an image. The disk is closed, and its metadata written, by disposing it:
 * `await using disk = await openDisk('a.qcow2', { readOnly: true })`.
 */
export async function openDisk(filename: string, options: OpenDiskOptions = {}): Promise<Disk> {
  const policy = options.backing ?? 'refuse'
  const graph = new Graph({
    drivers,
    policy: typeof policy === 'string' ? policies[policy] : policy,
    secrets: secretSource(options.secrets),
  })
  try {
    const node = await graph.openFile(
      filename,
      { ...options.options, ...(options.format === undefined ? {} : { driver: options.format }) },
      { readOnly: options.readOnly ?? false, discard: 'unmap' },
      options.signal ?? neverAborted,
    )
    return new Disk(graph, node)
  } catch (error) {
    await graph[Symbol.asyncDispose]()
    throw error
  }
}

function secretSource(secrets: OpenDiskOptions['secrets']): SecretSource | undefined {
  if (secrets === undefined || typeof secrets === 'function') return secrets
  return async (id) => {
    if (Object.hasOwn(secrets, id)) return secrets[id]
    throw noSecret(id)
  }
}

export class Disk implements AsyncDisposable {
  readonly node: BlockNode
  readonly graph: Graph
  readonly #edge: Edge

  /** Use `openDisk`. */
  constructor(graph: Graph, node: BlockNode) {
    this.graph = graph
    this.node = node
    const uses: Permission[] = node.readOnly
      ? ['consistentRead']
      : ['consistentRead', 'write', 'resize']
    this.#edge = graph.attach(node, { description: 'a library caller', uses })
  }

  /** Bytes that a guest sees. */
  get size(): number {
    return this.#edge.size
  }

  /** Fills `target` with what a guest reads at `offset`; any alignment. */
  async read(offset: number, target: Uint8Array, io?: Partial<Io>): Promise<void> {
    checkBytes(target)
    await this.#edge.read(offset, target, io)
  }

  async write(offset: number, source: Uint8Array, io?: Partial<WriteIo>): Promise<void> {
    checkBytes(source)
    await this.#edge.write(offset, source, io)
  }

  async writeZeroes(offset: number, length: number, io?: Partial<ZeroIo>): Promise<void> {
    await this.#edge.writeZeroes(offset, length, io)
  }

  async discard(offset: number, length: number, io?: Partial<Io>): Promise<void> {
    await this.#edge.discard(offset, length, io)
  }

  /** What was written before is on stable storage afterwards. */
  async flush(io?: Partial<Io>): Promise<void> {
    await this.#edge.flush(io)
  }

  /** Changes the size in bytes; what is gained reads as zeroes. */
  async truncate(size: number, io?: Partial<Io>): Promise<void> {
    await this.#edge.truncate(size, io)
  }

  /** What a guest sees, run by run, backing files followed; the whole disk unless `range` is given. */
  async *extents(range: Partial<ByteRange> = {}, io?: Partial<Io>): AsyncGenerator<ChainExtent> {
    const start = range.offset ?? 0
    const end = range.length === undefined ? this.size : start + range.length
    if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || end < start) {
      throw invalid(`${start} to ${end} is not a range of bytes`)
    }
    if (end > this.size) {
      const what = `${start} to ${end} reaches behind the end of the disk at ${this.size}`
      throw new BlockError('OUT_OF_RANGE', what, { node: this.node.name, offset: start })
    }
    for (let at = start; at < end; ) {
      const run = await chainExtentAt(this.node, at, end - at, { ...plainIo, ...io })
      yield run
      at += run.length
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#edge[Symbol.asyncDispose]()
    await this.graph[Symbol.asyncDispose]()
  }
}

/** Programs without types pass anything; what is longer than its `length` would be half filled. */
function checkBytes(bytes: unknown): void {
  if (bytes instanceof Uint8Array) return
  throw invalid('the bytes have to be a Uint8Array, such as a Buffer')
}
