/** Chains of qcow2 images in memory, and a model of what each image of them holds. */
import { createHash } from 'node:crypto'
import type { Permission } from '../../src/block/permission.ts'
import { drivers } from '../../src/drivers.ts'
import type { Edge } from '../../src/graph/edge.ts'
import type { Graph } from '../../src/graph/graph.ts'
import type { BlockNode } from '../../src/graph/node.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { type Faults, FaultyLayer } from './faults.ts'

export interface ImageOptions {
  readonly size: number
  readonly backing?: BlockNode
  /** What the image records of it; the node's name unless given. */
  readonly backingFile?: string
  readonly clusterSize?: number
  readonly readOnly?: boolean
  readonly discard?: 'unmap'
  /** Where requests to the image's storage may fail. */
  readonly faults?: Faults
}

/** Makes and opens a qcow2 image called `name` in a memory disk called `name-file`. */
export async function memoryImage(
  graph: Graph,
  name: string,
  options: ImageOptions,
): Promise<BlockNode> {
  const file = await storage(graph, `${name}-file`, options.faults)
  const { creator } = drivers.find((each) => each.name === 'qcow2')!
  const edge = attach(graph, file, ['consistentRead', 'write', 'resize'])
  const backing = options.backing && {
    backing_file: options.backingFile ?? options.backing.name,
    backing_fmt: 'qcow2',
  }
  const parsed = creator!.parse({
    size: options.size,
    cluster_size: options.clusterSize ?? 65536,
    ...backing,
  })
  await creator!.create(parsed, { file: edge, signal: new AbortController().signal })
  await edge[Symbol.asyncDispose]()
  return await graph.open(
    {
      driver: 'qcow2',
      'node-name': name,
      file: file.name,
      backing: options.backing?.name ?? null,
      'read-only': options.readOnly ?? false,
    },
    { discard: options.discard ?? 'unmap' },
  )
}

async function storage(graph: Graph, name: string, faults: Faults | undefined) {
  if (!faults) {
    const memory = { driver: 'memory', size: 0, 'node-name': name }
    return await graph.open(memory, { discard: 'unmap' })
  }
  const { node } = await graph.add(
    'faulty',
    { 'node-name': name },
    async () => new FaultyLayer(new MemoryLayer({ size: 0 }), faults),
  )
  return node
}

export function attach(
  graph: Graph,
  node: BlockNode,
  uses: Permission[] = ['consistentRead', 'write', 'resize'],
): Edge {
  return graph.attach(node, { description: 'a test', uses })
}

/** Everything that a node shows. */
export async function contentOf(graph: Graph, node: BlockNode): Promise<Buffer> {
  await using edge = attach(graph, node, ['consistentRead'])
  const bytes = Buffer.alloc(node.size)
  await edge.read(0, bytes)
  return bytes
}

/** Writes as a short-lived guest. */
export async function write(graph: Graph, node: BlockNode, offset: number, bytes: Uint8Array) {
  await using edge = attach(graph, node, ['consistentRead', 'write'])
  await edge.write(offset, bytes)
}

export function digest(bytes: Uint8Array): string {
  return createHash('sha1').update(bytes).digest('hex')
}
