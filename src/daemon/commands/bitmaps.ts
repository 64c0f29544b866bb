/** Dirty bitmaps. What each command does lies in `graph/bitmap-actions.ts`, ready for transactions. */
import { invalid } from '../../errors.ts'
import {
  addBitmap,
  type BitmapChange,
  checkBitmapName,
  clearBitmap,
  enableBitmap,
  findBitmap,
  hashBitmap,
  mergeBitmaps,
  removeBitmap,
} from '../../graph/bitmap-actions.ts'
import type { BlockNode } from '../../graph/node.ts'
import { type Action, action, actionCommand } from '../action.ts'
import { command } from '../command.ts'
import { bitmapOrName, bitmapRef } from '../schema/bitmap-types.ts'
import {
  bool,
  list,
  type ObjectType,
  object,
  optional,
  required,
  str,
  uint32,
  type Value,
} from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'

export const bitmapAdd = object('BlockDirtyBitmapAdd', {
  node: required(str, 'The node whose changes are recorded.'),
  name: required(str, "Its name, up to 1023 bytes; unique among the node's bitmaps."),
  granularity: optional(
    uint32,
    'Bytes that a bit stands for: a power of two from 512 on. Unless given, the cluster size of ' +
      'the image, but 4 KiB to 64 KiB.',
  ),
  persistent: optional(bool, 'Whether it is kept in the image, which has to be qcow2.'),
  disabled: optional(bool, 'Whether it begins without recording.'),
})

export const bitmapMerge = object('BlockDirtyBitmapMerge', {
  node: required(str, 'The node of the bitmap that is changed.'),
  target: required(str, 'Its name.'),
  bitmaps: required(
    list(bitmapOrName),
    'Bitmaps, of any granularity, whose dirty parts become dirty in it: of the same node by name.',
  ),
})

type BitmapName = Value<typeof bitmapRef>
type Change = BitmapChange | Promise<BitmapChange>

function bitmapAction<A extends { readonly node: string }>(
  type: string,
  args: ObjectType<A>,
  change: (args: A, daemon: StorageDaemon) => Change,
): Action {
  return action<A>({
    type,
    args,
    nodes: ({ node }) => [node],
    prepare: async (given, { daemon }) => await change(given, daemon),
  })
}

/** Those that take nothing but the name of a bitmap. */
function simpleAction(verb: string, change: (node: BlockNode, name: string) => Change): Action {
  return bitmapAction<BitmapName>(`block-dirty-bitmap-${verb}`, bitmapRef, (args, daemon) =>
    change(findNode(daemon, args.node), args.name),
  )
}

const add = bitmapAction<Value<typeof bitmapAdd>>(
  'block-dirty-bitmap-add',
  bitmapAdd,
  ({ node, ...options }, daemon) => {
    checkBitmapName(options.name)
    return addBitmap(findDevice(daemon, node), options)
  },
)
const remove = simpleAction('remove', removeBitmap)
const clear = simpleAction('clear', clearBitmap)
const enable = simpleAction('enable', (node, name) => enableBitmap(node, name, true))
const disable = simpleAction('disable', (node, name) => enableBitmap(node, name, false))
const merge = bitmapAction<Value<typeof bitmapMerge>>(
  'block-dirty-bitmap-merge',
  bitmapMerge,
  (args, daemon) => {
    const target = { node: findNode(daemon, args.node), name: args.target }
    findBitmap(target.node, target.name)
    return mergeBitmaps(
      target,
      args.bitmaps.map((each) =>
        typeof each === 'string'
          ? { node: target.node, name: each }
          : { node: findNode(daemon, each.node), name: each.name },
      ),
    )
  },
)

/** For `transaction`. */
export const bitmapActions = [add, remove, clear, enable, disable, merge]

const topic = 'Dirty bitmaps'

export const bitmapCommands = [
  actionCommand(add, { topic, doc: 'Begins to record which parts of a node are written to.' }),
  actionCommand(remove, {
    topic,
    doc:
      'Removes a bitmap; a persistent one from the image, too, at once. The only thing that can ' +
      'be done with an inconsistent one.',
  }),
  actionCommand(clear, { topic, doc: 'Makes everything clean.' }),
  actionCommand(enable, { topic, doc: 'Goes on recording.' }),
  actionCommand(disable, { topic, doc: 'Stops recording.' }),
  actionCommand(merge, {
    topic,
    doc: 'Makes dirty in one bitmap what is dirty in others. Those stay as they are.',
  }),
  command({
    name: 'x-debug-block-dirty-bitmap-sha256',
    topic: 'Dirty bitmaps',
    doc: 'Tells whether two bitmaps are the same.',
    args: bitmapRef,
    features: ['unstable'],
    returns: object('BlockDirtyBitmapSha256', {
      sha256: required(str, 'Of the bits, the lowest of a byte first, in words of 64 bits.'),
    }),
    run: ({ node: name, name: bitmap }, { daemon }) => {
      const node = findNode(daemon, name)
      return { sha256: hashBitmap(node, findBitmap(node, bitmap)) }
    },
  }),
]

export function findNode({ graph }: StorageDaemon, name: string): BlockNode {
  const node = graph.nodes.get(name)
  if (node) return node
  throw invalid(`Node '${name}' not found`)
}

/** Where QEMU looks for a device of that name, too, and says so. */
function findDevice({ graph }: StorageDaemon, name: string): BlockNode {
  const node = graph.nodes.get(name)
  if (node) return node
  throw invalid(`Cannot find device='${name}' nor node-name='${name}'`)
}
