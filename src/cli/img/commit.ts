/** `img commit`: writes what an image holds into its backing file, or one below, and empties it. */
import { plainIo } from '../../block/layer.ts'
import { BlockError, strerror } from '../../errors.ts'
import { filenameOf, imagesOf } from '../../graph/chain.ts'
import type { Graph } from '../../graph/graph.ts'
import type { BlockNode } from '../../graph/node.ts'
import { startCommit } from '../../job/commit.ts'
import type { Job } from '../../job/job.ts'
import { JobTable } from '../../job/job-table.ts'
import { imageGraph, openImage } from '../open-image.ts'
import { Arguments, imageOpts, object } from './arguments.ts'
import { CommandFailure, usageFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { Progress } from './progress.ts'
import { sizeArgument } from './size-text.ts'
import { checkImageOpts, objects, targetCache } from './source-options.ts'

export const commit: ImgCommand = async (words, io) => {
  let rate = 0
  const args = new Arguments('commit', words, 'f:t:b:dpqr:', [object, imageOpts], {
    ...objects(io),
    r: (text) => {
      rate = sizeArgument('rate limit', text, io)
    },
  })
  if (args.rest.length !== 1) throw usageFailure('Expecting one image file name')
  const cache = targetCache(args.value('t') ?? 'writeback')
  checkImageOpts(args.has('image-opts'), args.value('f'))
  await using graph = imageGraph(io)
  const [filename] = args.rest
  const node = await openImage(
    graph,
    {
      filename,
      imageOpts: args.has('image-opts'),
      format: args.value('f'),
      readOnly: false,
      unmap: true,
      cache,
    },
    io,
  )
  // What lies between does not fit the base any more, so an image that shows it keeps its data.
  const keeps = args.has('d') || args.has('b')
  {
    using progress = new Progress(io, args.has('p') && !args.has('q'))
    progress.start()
    const base = findBase(node, filename, args.value('b'))
    await commitInto(graph, node, base, rate, progress)
    if (!keeps) await empty(graph, node, filename)
  }
  if (!args.has('q')) io.stdout.write('Image committed.\n')
  return 0
}

function findBase(node: BlockNode, filename: string, name: string | undefined): BlockNode {
  const [, ...below] = imagesOf(node)
  if (name === undefined) {
    if (below.length > 0) return below[0]
    throw new CommandFailure('Image does not have a backing file')
  }
  const recorded = imagesOf(node).find(
    (each) => each.layer.backingLink?.recorded?.filename === name,
  )
  const base =
    below.find((each) => filenameOf(each) === name) ??
    (recorded && below[imagesOf(node).indexOf(recorded)])
  if (base) return base
  throw new CommandFailure(`Did not find '${name}' in the backing chain of '${filename}'`)
}

/** A job as the daemon runs it, watched to its end. */
async function commitInto(
  graph: Graph,
  node: BlockNode,
  base: BlockNode,
  speed: number,
  progress: Progress,
): Promise<void> {
  const jobs = new JobTable()
  const job = await startCommit(graph, jobs, { id: 'commit', node, base, speed })
  progress.measure(100)
  const show = () => {
    const { current, total } = job.progress
    progress.reach(total === 0 ? 100 : (100 * current) / total)
  }
  const watch = setInterval(show, 100)
  try {
    await untilReady(job)
    show()
    await job.complete()
    progress.finish()
  } finally {
    clearInterval(watch)
  }
}

async function untilReady(job: Job): Promise<void> {
  const ready = new Promise<void>((resolve) => job.once('ready', resolve))
  await Promise.race([ready, job.done])
}

async function empty(graph: Graph, node: BlockNode, filename: string): Promise<void> {
  await using _edge = graph.attach(node, {
    description: 'img commit',
    uses: ['consistentRead', 'write'],
  })
  try {
    if (!node.layer.makeEmpty) throw new BlockError('UNSUPPORTED', strerror('ENOTSUP'))
    await graph.drained([node], () => node.layer.makeEmpty!(plainIo))
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    const reason = error.errno ? strerror(error.errno) : error.message
    throw new CommandFailure(`Could not empty ${filename}: ${reason}`)
  }
}
