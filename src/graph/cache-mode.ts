/**
 * Changing how a node, and the storage that was opened along with it, use the page cache and
 * flushes. Storage that was opened by name is its owner's to change.
 */
import type { NodeOptions } from '../block/driver.ts'
import { plainIo } from '../block/layer.ts'
import type { BlockNode } from './node.ts'
import type { GraphShape } from './shape.ts'

export interface CacheMode {
  readonly direct: boolean
  readonly noFlush: boolean
}

/** While the node is drained. `options`: its own, which may say otherwise of children. */
export async function switchCache(
  shape: GraphShape,
  node: BlockNode,
  mode: CacheMode,
  options: NodeOptions,
): Promise<void> {
  const done: { readonly node: BlockNode; readonly before: CacheMode }[] = []
  try {
    for (const change of changes(shape, node, mode, options)) {
      const { flags } = change.node
      if (flags.direct === change.mode.direct && flags.noFlush === change.mode.noFlush) continue
      await switchOne(change.node, change.mode)
      done.push({ node: change.node, before: flags })
    }
  } catch (error) {
    for (const { node: changed, before } of done.reverse()) await switchOne(changed, before)
    throw error
  }
}

/** The node, and those below it that inherit from it. */
function* changes(
  shape: GraphShape,
  node: BlockNode,
  mode: CacheMode,
  options: NodeOptions,
): Generator<{ readonly node: BlockNode; readonly mode: CacheMode }> {
  yield { node, mode }
  for (const [name, { node: child }] of node.children) {
    if (shape.kept.has(child)) continue
    const given = options[name] ?? node.options[name]
    const own = typeof given === 'object' && given !== null ? (given as NodeOptions) : {}
    yield* changes(shape, child, inherited(mode, own), own)
  }
}

function inherited(mode: CacheMode, options: NodeOptions): CacheMode {
  const cache = (options.cache ?? {}) as Readonly<Record<string, unknown>>
  const chosen = (name: string, otherwise: boolean) => {
    const value = cache[name] ?? options[`cache.${name}`]
    return value === undefined ? otherwise : value === true || value === 'on'
  }
  return { direct: chosen('direct', mode.direct), noFlush: chosen('no-flush', mode.noFlush) }
}

async function switchOne(node: BlockNode, { direct, noFlush }: CacheMode): Promise<void> {
  await node.layer.setCache?.({ direct, noFlush }, plainIo)
  node.setFlags({ ...node.flags, direct, noFlush })
}
