/** `-s`: what is written goes to a temporary qcow2 overlay, and is gone with the session. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { neverAborted } from '../block/layer.ts'
import { drivers } from '../drivers.ts'
import { BlockError } from '../errors.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'

/** Opens an overlay on `base`, whose files are removed at once: the open descriptor keeps them. */
export async function addOverlay(
  graph: Graph,
  base: BlockNode,
  readOnly: boolean,
): Promise<BlockNode> {
  const folder = await mkdtemp(path.join(tmpdir(), 'varve-overlay-'))
  try {
    const file = await emptyFile(graph, path.join(folder, 'overlay'))
    await format(graph, file, base.size)
    return await graph.open(
      { driver: 'qcow2', file: file.name, backing: base.name },
      { readOnly, noFlush: true, discard: 'unmap' },
    )
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function emptyFile(graph: Graph, filename: string): Promise<BlockNode> {
  const file = drivers.find(({ name }) => name === 'file')?.creator
  if (!file) throw unsupported()
  const options = file.parse({ filename, size: 0 })
  await file.create(options, { signal: neverAborted })
  return await graph.open({ driver: 'file', filename }, { noFlush: true, discard: 'unmap' })
}

async function format(graph: Graph, file: BlockNode, size: number): Promise<void> {
  const qcow2 = drivers.find(({ name }) => name === 'qcow2')?.creator
  if (!qcow2) throw unsupported()
  await using edge = graph.attach(file, {
    description: 'a new overlay',
    uses: ['consistentRead', 'write', 'resize'],
  })
  await qcow2.create(qcow2.parse({ size }), { file: edge, signal: neverAborted })
}

function unsupported(): BlockError {
  return new BlockError('UNSUPPORTED', 'temporary overlays are not supported', { errno: 'ENOTSUP' })
}
