/**
 * Switching a node, and the storage below it, between read-only and writable. From below when it
 * becomes writable, from above when it ceases to be: a format changes its storage in the course.
 */
import { plainIo } from '../block/layer.ts'
import { BlockError } from '../errors.ts'
import type { BlockNode } from './node.ts'
import { combined } from './permissions.ts'
import { resumeBitmaps, suspendBitmaps } from './persistent-bitmaps.ts'
import type { GraphShape } from './shape.ts'

/** While the node is drained. */
export async function switchAccess(
  shape: GraphShape,
  node: BlockNode,
  readOnly: boolean,
): Promise<void> {
  const nodes = affected(shape, node, readOnly)
  if (readOnly) nodes.reverse()
  const done: BlockNode[] = []
  try {
    for (const each of nodes) {
      await switchOne(shape, each, readOnly)
      done.push(each)
    }
  } catch (error) {
    // What has been writable can be so again, and the other way round: nothing has changed.
    for (const each of done.reverse()) await switchOne(shape, each, !readOnly)
    throw error
  }
}

/** The node and its storage as far as that has to follow, the lowest first. */
function affected(shape: GraphShape, node: BlockNode, readOnly: boolean): BlockNode[] {
  const below = ['file', 'data-file']
    .map((name) => node.children.get(name)?.node)
    .filter((child) => child !== undefined)
    // Storage that was opened by name is its owner's to switch.
    .filter((child) => !shape.kept.has(child) && !child.accessGiven)
    // Others may go on writing to storage that a read-only node no longer writes to.
    .filter((child) => child.flags.readOnly !== readOnly && (!readOnly || !isWritten(child, node)))
  return [...below.flatMap((child) => affected(shape, child, readOnly)), node]
}

function isWritten(child: BlockNode, by: BlockNode): boolean {
  const others = [...child.parents].filter(({ owner }) => owner !== by)
  return others.some(({ uses }) => uses.has('write') || uses.has('writeUnchanged'))
}

async function switchOne(shape: GraphShape, node: BlockNode, readOnly: boolean): Promise<void> {
  if (readOnly) {
    checkNobodyWrites(node)
    await switchLayer(node, readOnly)
  }
  const before = node.flags
  node.setFlags({ ...before, readOnly })
  try {
    shape.refresh()
    if (!readOnly) await switchLayer(node, readOnly)
  } catch (error) {
    node.setFlags(before)
    shape.refresh()
    if (readOnly) await becomeWritableAgain(node)
    throw error
  }
}

/** Where not even that can be done, the node says what its layer is: whoever wants to write switches it then. */
async function becomeWritableAgain(node: BlockNode): Promise<void> {
  try {
    await switchLayer(node, false)
  } catch {
    node.setFlags({ ...node.flags, readOnly: true })
  }
}

function checkNobodyWrites(node: BlockNode): void {
  const { uses } = combined([...node.parents])
  if (!uses.has('write') && !uses.has('writeUnchanged')) return
  throw new BlockError(
    'READ_ONLY',
    `Read-only block node '${node.name}' cannot support read-write users`,
    { node: node.name, errno: 'EACCES' },
  )
}

/** Bitmaps are stored as long as the image can be written to, and marked as in use as soon as it can. */
async function switchLayer(node: BlockNode, readOnly: boolean): Promise<void> {
  if (!readOnly) {
    await switchOnly(node, readOnly)
    return await resumeBitmaps(node)
  }
  await suspendBitmaps(node)
  try {
    await switchOnly(node, readOnly)
  } catch (error) {
    await resumeBitmaps(node)
    throw error
  }
}

async function switchOnly(node: BlockNode, readOnly: boolean): Promise<void> {
  const { layer } = node
  if (layer.setReadOnly) return await layer.setReadOnly(readOnly, plainIo)
  // A layer without anything to switch forwards to its child, which is writable by now.
  if (!readOnly && !layer.capabilities.write) {
    throw new BlockError(
      'UNSUPPORTED',
      `Block format '${node.driver}' used by node '${node.name}' does not support reopening files`,
      { node: node.name, errno: 'ENOTSUP' },
    )
  }
  if (readOnly) await layer.flush(plainIo)
}
