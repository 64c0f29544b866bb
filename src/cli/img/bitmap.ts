/** `img bitmap`: changes the persistent bitmaps of an image, in the order of the command line. */
import { BlockError } from '../../errors.ts'
import {
  addBitmap,
  clearBitmap,
  enableBitmap,
  mergeBitmaps,
  removeBitmap,
} from '../../graph/bitmap-actions.ts'
import type { Graph } from '../../graph/graph.ts'
import type { BlockNode } from '../../graph/node.ts'
import type { NamedIo } from '../command.ts'
import { imageGraph, openImage } from '../open-image.ts'
import { Arguments, imageOpts, object } from './arguments.ts'
import { CommandFailure, messageOf } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { sizeArgument } from './size-text.ts'
import { checkImageOpts, objects } from './source-options.ts'

const actions = ['add', 'remove', 'clear', 'enable', 'disable', 'merge'] as const
type Action = (typeof actions)[number]

export const bitmap: ImgCommand = async (words, io) => {
  let granularity: number | undefined
  const args = new Arguments(
    'bitmap',
    words,
    'b:f:F:g:',
    [
      object,
      imageOpts,
      { name: 'source-file', argument: 'required', as: 'b' },
      { name: 'source-format', argument: 'required', as: 'F' },
      { name: 'granularity', argument: 'required', as: 'g' },
      ...actions.map((name) => ({
        name,
        argument: name === 'merge' ? ('required' as const) : ('none' as const),
      })),
    ],
    {
      ...objects(io),
      g: (text) => {
        granularity = sizeArgument('granularity', text, io)
      },
    },
  )
  checkTogether(args)
  const [filename, name] = args.rest
  await using graph = imageGraph(io)
  const node = await openImage(
    graph,
    {
      filename,
      imageOpts: args.has('image-opts'),
      format: args.value('f'),
      readOnly: false,
      backing: false,
    },
    io,
  )
  const source = await openSource(graph, args, io)
  for (const option of args.order.filter(({ name }) => actions.includes(name as Action))) {
    const action = option.name as Action
    try {
      if (action === 'merge') {
        const merged = { node: source ?? node, name: option.argument ?? '' }
        mergeBitmaps({ node, name }, [merged]).commit()
      } else {
        await act(node, action, name, granularity)
      }
    } catch (error) {
      if (!(error instanceof BlockError)) throw error
      throw new CommandFailure(`Operation ${action} on bitmap ${name} failed: ${messageOf(error)}`)
    }
  }
  return 0
}

async function act(
  node: BlockNode,
  action: Exclude<Action, 'merge'>,
  name: string,
  granularity: number | undefined,
): Promise<void> {
  switch (action) {
    case 'add':
      // The option is 32 bits wide.
      return addBitmap(node, {
        name,
        granularity: granularity && granularity % 2 ** 32,
        persistent: true,
      }).commit()
    case 'remove':
      return (await removeBitmap(node, name)).commit()
    case 'clear':
      return clearBitmap(node, name).commit()
    default:
      return enableBitmap(node, name, action === 'enable').commit()
  }
}

function checkTogether(args: Arguments): void {
  if (!actions.some((name) => args.has(name))) {
    throw new CommandFailure(
      'Need at least one of --add, --remove, --clear, --enable, --disable, or --merge',
    )
  }
  if (args.has('g') && !args.has('add')) {
    throw new CommandFailure('granularity only supported with --add')
  }
  if (args.has('F') && !args.has('b')) throw new CommandFailure('-F only supported with -b')
  if (args.has('b') && !args.has('merge')) {
    throw new CommandFailure('Merge bitmap source file only supported with --merge')
  }
  if (args.rest.length !== 2) throw new CommandFailure('Expecting filename and bitmap name')
  checkImageOpts(args.has('image-opts'), args.value('f'))
}

/** Where the bitmaps to merge are, if that is another image. */
async function openSource(
  graph: Graph,
  args: Arguments,
  io: NamedIo,
): Promise<BlockNode | undefined> {
  const filename = args.value('b')
  if (filename === undefined) return undefined
  return await openImage(graph, { filename, format: args.value('F'), backing: false }, io)
}
