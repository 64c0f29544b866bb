/** `img compare`: whether two images show the same content. Exit status 2 and up: an error. */
import { BlockError } from '../../errors.ts'
import type { Graph } from '../../graph/graph.ts'
import type { NamedIo } from '../command.ts'
import { addImageObject } from '../object-option.ts'
import { type ImageRequest, imageGraph, openImage } from '../open-image.ts'
import { Arguments, forceShare, imageOpts, object } from './arguments.ts'
import { diskSize } from './block-status.ts'
import { type ComparedImage, Comparison } from './comparison.ts'
import { CommandFailure, messageOf, usageFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { Progress } from './progress.ts'
import { checkImageOpts, sourceCache } from './source-options.ts'

/** Exit status where an image cannot be opened. */
const cannotOpen = 2

/** Percent between two lines of `-p`; as in qemu-img, more than elsewhere. */
const progressStep = 2

export const compare: ImgCommand = async (words, io) => {
  const args = new Arguments('compare', words, 'f:F:T:pqsU', [object, imageOpts, forceShare], {
    object: (text) => {
      try {
        addImageObject(text, io)
      } catch (error) {
        throw withStatus(error)
      }
    },
  })
  if (args.rest.length !== 2) throw usageFailure('Expecting two image file names')
  const formats = [args.value('f'), args.value('F')]
  const quiet = args.has('q')
  using progress = new Progress(io, args.has('p') && !quiet, progressStep)
  const cache = sourceCache(args.value('T'), cannotOpen)
  await using graph = imageGraph(io)
  const images: ComparedImage[] = []
  for (const [index, filename] of args.rest.entries()) {
    checkImageOpts(args.has('image-opts'), formats[index], cannotOpen)
    const request: ImageRequest = {
      filename,
      imageOpts: args.has('image-opts'),
      format: formats[index],
      cache,
      forceShare: args.has('U'),
    }
    images.push(await open(graph, request, io))
  }
  progress.start()
  progress.measure(Math.max(...images.map(({ edge }) => diskSize(edge.node))))
  const say = (line: string) => {
    if (!quiet) io.stdout.write(`${line}\n`)
  }
  const comparison = new Comparison(images[0], images[1], {
    strict: args.has('s'),
    progress,
    say,
  })
  return (await comparison.run()) ? 0 : 1
}

async function open(graph: Graph, request: ImageRequest, io: NamedIo): Promise<ComparedImage> {
  try {
    const node = await openImage(graph, request, io)
    const edge = graph.attach(node, { description: 'img compare', uses: ['consistentRead'] })
    return { edge, filename: request.filename }
  } catch (error) {
    throw withStatus(error)
  }
}

function withStatus(error: unknown): unknown {
  return error instanceof BlockError ? new CommandFailure(messageOf(error), cannotOpen) : error
}
