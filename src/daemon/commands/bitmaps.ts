/** Dirty bitmaps. What each command does lies in `graph/bitmap-actions.ts`, ready for transactions. */
import { BlockError } from '../../errors.ts'
import {
  addBitmap,
  type BitmapChange,
  clearBitmap,
  enableBitmap,
  findBitmap,
  hashBitmap,
  mergeBitmaps,
  removeBitmap,
} from '../../graph/bitmap-actions.ts'
import type { BlockNode } from '../../graph/node.ts'
import { command } from '../command.ts'
import { bitmapOrName, bitmapRef } from '../schema/bitmap-types.ts'
import { bool, list, object, optional, required, str, uint32, type Value } from '../schema/types.ts'
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

/** The actions of a transaction that are bitmaps', by their names there. */
export const bitmapActions = {
  'block-dirty-bitmap-add': (
    { node, ...options }: Value<typeof bitmapAdd>,
    daemon: StorageDaemon,
  ) => addBitmap(findDevice(daemon, node), options),
  'block-dirty-bitmap-remove': ({ node, name }: BitmapName, daemon: StorageDaemon) =>
    removeBitmap(findNode(daemon, node), name),
  'block-dirty-bitmap-clear': ({ node, name }: BitmapName, daemon: StorageDaemon) =>
    clearBitmap(findNode(daemon, node), name),
  'block-dirty-bitmap-enable': ({ node, name }: BitmapName, daemon: StorageDaemon) =>
    enableBitmap(findNode(daemon, node), name, true),
  'block-dirty-bitmap-disable': ({ node, name }: BitmapName, daemon: StorageDaemon) =>
    enableBitmap(findNode(daemon, node), name, false),
  'block-dirty-bitmap-merge': (args: Value<typeof bitmapMerge>, daemon: StorageDaemon) => {
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
} satisfies Record<
  string,
  (args: never, daemon: StorageDaemon) => BitmapChange | Promise<BitmapChange>
>

type BitmapName = Value<typeof bitmapRef>

function simple<const Name extends keyof typeof bitmapActions>(name: Name, doc: string) {
  const act: (args: BitmapName, daemon: StorageDaemon) => BitmapChange | Promise<BitmapChange> =
    bitmapActions[name] as never
  return command({
    name,
    topic: 'Dirty bitmaps',
    doc,
    args: bitmapRef,
    run: async (args, { daemon }) => (await act(args, daemon)).commit(),
  })
}

export const bitmapCommands = [
  command({
    name: 'block-dirty-bitmap-add',
    topic: 'Dirty bitmaps',
    doc: 'Begins to record which parts of a node are written to.',
    args: bitmapAdd,
    run: (args, { daemon }) => bitmapActions['block-dirty-bitmap-add'](args, daemon).commit(),
  }),
  simple(
    'block-dirty-bitmap-remove',
    'Removes a bitmap; a persistent one from the image, too, at once. The only thing that can be ' +
      'done with an inconsistent one.',
  ),
  simple('block-dirty-bitmap-clear', 'Makes everything clean.'),
  simple('block-dirty-bitmap-enable', 'Goes on recording.'),
  simple('block-dirty-bitmap-disable', 'Stops recording.'),
  command({
    name: 'block-dirty-bitmap-merge',
    topic: 'Dirty bitmaps',
    doc: 'Makes dirty in one bitmap what is dirty in others. Those stay as they are.',
    args: bitmapMerge,
    run: (args, { daemon }) => bitmapActions['block-dirty-bitmap-merge'](args, daemon).commit(),
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
  throw new BlockError('INVALID_ARGUMENT', `Node '${name}' not found`, { errno: 'EINVAL' })
}

/** Where QEMU looks for a device of that name, too, and says so. */
function findDevice({ graph }: StorageDaemon, name: string): BlockNode {
  const node = graph.nodes.get(name)
  if (node) return node
  throw new BlockError('INVALID_ARGUMENT', `Cannot find device='${name}' nor node-name='${name}'`, {
    errno: 'EINVAL',
  })
}
