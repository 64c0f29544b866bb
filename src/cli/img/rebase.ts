/**
 * `img rebase`: another backing file, or none. Unless `-u` says that the two show the same, what they
 * show differently is copied into the image first.
 */
import { neverAborted } from '../../block/layer.ts'
import { drivers } from '../../drivers.ts'
import { BlockError, inContext, strerror } from '../../errors.ts'
import type { Edge } from '../../graph/edge.ts'
import { resolveRecorded } from '../../graph/filename.ts'
import type { Graph } from '../../graph/graph.ts'
import type { BlockNode } from '../../graph/node.ts'
import { shownFilename } from '../../graph/shown-filename.ts'
import { imageGraph, openImage } from '../open-image.ts'
import { Arguments, forceShare, imageOpts, object } from './arguments.ts'
import { CommandFailure, usageFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { Progress } from './progress.ts'
import { copyDifferences } from './rebase-copy.ts'
import { checkImageOpts, objects, sourceCache, targetCache } from './source-options.ts'

export const rebase: ImgCommand = async (words, io) => {
  const args = new Arguments(
    'rebase',
    words,
    'f:F:b:upt:T:qU',
    [object, imageOpts, forceShare],
    objects(io),
  )
  if (args.rest.length !== 1) throw usageFailure('Expecting one image file name')
  const unsafe = args.has('u')
  if (!unsafe && !args.has('b')) {
    throw usageFailure('Must specify backing file (-b) or use unsafe mode (-u)')
  }
  using progress = new Progress(io, args.has('p') && !args.has('q'))
  progress.start()
  const cache = targetCache(args.value('t') ?? 'writeback')
  const backingCache = sourceCache(args.value('T'))
  checkImageOpts(args.has('image-opts'), args.value('f'))
  await using graph = imageGraph(io)
  const node = await openImage(
    graph,
    {
      filename: args.rest[0],
      imageOpts: args.has('image-opts'),
      format: args.value('f'),
      readOnly: false,
      backing: !unsafe,
      cache,
    },
    io,
  )
  const [filename, format] = [args.value('b'), args.value('F')]
  if (format !== undefined && !drivers.some(({ name }) => name === format)) {
    throw new CommandFailure(`Invalid format name: '${format}'`)
  }
  const fail = (reason: string) =>
    new CommandFailure(`Could not change the backing file to '${filename ?? '(null)'}': ${reason}`)
  const backing =
    unsafe || !filename
      ? undefined
      : await openNewBacking(graph, node, filename, format, backingCache, io)
  const { backingLink } = node.layer
  if (filename && format === undefined) throw fail('backing format must be specified')
  if (!backingLink) throw fail(strerror('ENOTSUP'))
  await using image = graph.attach(node, {
    description: 'img rebase',
    uses: ['consistentRead', 'write'],
  })
  if (!unsafe) await copy(graph, image, backing, progress)
  try {
    await backingLink.change(filename ? { filename, format } : undefined, { signal: neverAborted })
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    if (error.errno === 'ENOSPC') throw fail('No space left in the file header')
    throw fail(error.errno ? strerror(error.errno) : error.message)
  }
  progress.finish()
  return 0
}

/** Relative names are relative to the image, as they will be when it is opened the next time. */
async function openNewBacking(
  graph: Graph,
  image: BlockNode,
  recorded: string,
  format: string | undefined,
  cache: ReturnType<typeof sourceCache>,
  io: Parameters<typeof openImage>[2],
): Promise<BlockNode> {
  const opening = `Could not open new backing file '${recorded}'`
  const filename = resolved(recorded, shownFilename(image))
  try {
    return await openImage(graph, { filename, format, cache, opening }, io)
  } catch (error) {
    if (error instanceof BlockError && error.message.startsWith(opening)) throw error
    throw inContext(opening, error)
  }
}

function resolved(recorded: string, image: string): string {
  try {
    return resolveRecorded(recorded, image)
  } catch (error) {
    throw inContext('Could not resolve backing filename', error)
  }
}

/** Everything is on stable storage before the record of the backing file changes. */
async function copy(
  graph: Graph,
  image: Edge,
  backing: BlockNode | undefined,
  progress: Progress,
): Promise<void> {
  const edge =
    backing && graph.attach(backing, { description: 'img rebase', uses: ['consistentRead'] })
  try {
    await copyDifferences({ image, backing: edge, progress: (share) => progress.add(share) })
    await image.flush()
  } finally {
    await edge?.[Symbol.asyncDispose]()
  }
}
