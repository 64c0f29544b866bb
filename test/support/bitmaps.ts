/** qcow2 images with persistent bitmaps, in memory, opened as the graph opens them. */

import type { DirtyBitmap } from '../../src/bitmap/dirty-bitmap.ts'
import { Filter } from '../../src/block/filter.ts'
import type { BlockLayer } from '../../src/block/layer.ts'
import type { Permission } from '../../src/block/permission.ts'
import { drivers } from '../../src/drivers.ts'
import type { Edge } from '../../src/graph/edge.ts'
import { Graph } from '../../src/graph/graph.ts'
import type { BlockNode } from '../../src/graph/node.ts'
import { testSecrets } from './qcow2.ts'

const uses: Permission[] = ['consistentRead', 'write', 'resize']

export interface Session {
  readonly node: BlockNode
  readonly guest: Edge
  close(): Promise<void>
}

/** Opens the image in `file`, with a guest. The storage is not closed. */
export async function openSession(
  file: BlockLayer,
  options: Readonly<Record<string, unknown>> = {},
): Promise<Session> {
  const graph = new Graph({ drivers, secrets: testSecrets })
  try {
    const readOnly = options['read-only'] === true
    await graph.add('test', { 'node-name': 'file' }, async () => new Filter(file))
    const node = await graph.open({
      driver: 'qcow2',
      'node-name': 'disk',
      file: 'file',
      ...options,
    })
    const guest = graph.attach(node, {
      description: 'a guest',
      uses: readOnly ? ['consistentRead'] : uses,
    })
    return { node, guest, close: () => graph[Symbol.asyncDispose]() }
  } catch (error) {
    await graph[Symbol.asyncDispose]()
    throw error
  }
}

/** What is dirty, as text that can be compared. */
export function dirtyText(bitmap: DirtyBitmap): string {
  return [...bitmap.runs()].map(({ offset, length }) => `${offset}+${length}`).join(' ')
}
