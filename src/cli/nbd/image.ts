/** The one place where `varve nbd` opens its image. */
import type { Permission } from '../../block/permission.ts'
import { BlockError } from '../../errors.ts'
import { endsWithinSector } from '../../export/nbd/whole-sectors.ts'
import type { Edge } from '../../graph/edge.ts'
import type { Graph } from '../../graph/graph.ts'
import type { BlockNode } from '../../graph/node.ts'
import type { NamedIo } from '../command.ts'
import { CommandFailure } from '../img/failure.ts'
import { type SnapshotParam, showSnapshot } from '../img/snapshot-param.ts'
import { checkNative, imageGraph, openImage } from '../open-image.ts'
import { addOverlay } from '../overlay.ts'
import type { NbdArguments } from './arguments.ts'
import { NbdFailure } from './failure.ts'

export interface ServedImage extends AsyncDisposable {
  readonly edge: Edge
}

/** Disposing it writes everything out and reports what failed. */
export async function openServedImage(settings: NbdArguments, io: NamedIo): Promise<ServedImage> {
  const graph = imageGraph(io)
  try {
    const edge = await attach(graph, settings, io)
    return {
      edge,
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

async function attach(graph: Graph, settings: NbdArguments, io: NamedIo): Promise<Edge> {
  const node = await openNode(graph, settings, io)
  const uses: Permission[] = ['consistentRead']
  if (!settings.readOnly) uses.push('write')
  if (!settings.readOnly && endsWithinSector(node)) uses.push('resize')
  return graph.attach(node, {
    description: 'the NBD export',
    uses,
    // The size is told to a client once, when it connects.
    shares: ['consistentRead', 'write', 'writeUnchanged'],
  })
}

async function openNode(graph: Graph, settings: NbdArguments, io: NamedIo): Promise<BlockNode> {
  const { readOnly, snapshot, offset, unmap } = settings
  const image = await openBase(graph, settings, io)
  if (offset > image.size) {
    throw new BlockError(
      'INVALID_ARGUMENT',
      `Offset (${offset}) cannot be greater than size of the containing file (${image.size})`,
    )
  }
  if (settings.loadSnapshot !== undefined) {
    await loadSnapshot(image, settings.loadSnapshot, settings)
  }
  const node = snapshot ? await addOverlay(graph, image, readOnly) : image
  if (offset === 0) return node
  const window = { driver: 'raw', file: node.name, offset }
  const discard = unmap || snapshot ? ('unmap' as const) : ('ignore' as const)
  return await graph.open(window, { readOnly, discard })
}

/** The image itself, which nobody writes to when there is an overlay. */
async function openBase(graph: Graph, settings: NbdArguments, io: NamedIo): Promise<BlockNode> {
  const { filename, imageOpts, format, cache, unmap, detectZeroes, snapshot, aio } = settings
  const options = detectZeroes === undefined ? undefined : { 'detect-zeroes': detectZeroes }
  const readOnly = settings.readOnly || snapshot
  const opening = `Failed to blk_new_open '${filename}'`
  const request = { filename, imageOpts, format, readOnly, cache, unmap, options, opening }
  if (aio === 'native') await checkNative(graph, request, io)
  return await openImage(graph, request, io)
}

async function loadSnapshot(
  image: BlockNode,
  param: SnapshotParam,
  { snapshot, offset }: NbdArguments,
): Promise<void> {
  try {
    // The temporary overlay of -s is what qemu-nbd would look into.
    if (snapshot) throw new NbdFailure("Failed to load snapshot: Can't find snapshot")
    // Or the window of -o, which could not be looked through afterwards either: snapshots differ in size.
    if (offset > 0) {
      throw new NbdFailure(
        "Failed to load snapshot: Block format 'raw' used by device '' does not support " +
          'temporarily loading internal snapshots',
      )
    }
    await showSnapshot(image, param)
  } catch (error) {
    if (!(error instanceof CommandFailure)) throw error
    throw new NbdFailure(error.message)
  }
}
