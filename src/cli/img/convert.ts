/** `img convert`: copies one image or several into a new or an existing one, in any format. */
import { alignUp } from '../../bytes/range.ts'
import { inContext } from '../../errors.ts'
import type { Graph } from '../../graph/graph.ts'
import type { BlockNode } from '../../graph/node.ts'
import { backingOf } from '../../graph/status.ts'
import type { NamedIo } from '../command.ts'
import { createImage } from '../create-image.ts'
import { imageGraph, openImage } from '../open-image.ts'
import { type ConvertArguments, parseConvertArguments } from './convert-arguments.ts'
import { runPipeline } from './convert-pipeline.ts'
import { ConvertSource, type SourceImage } from './convert-source.ts'
import { newImageOptions } from './convert-target.ts'
import { CommandFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { Progress } from './progress.ts'

/** QEMU counts disks in sectors. */
const sectorSize = 512

export const convert: ImgCommand = async (words, io) => {
  const args = parseConvertArguments(words, io)
  if (args === undefined) return 0
  await using graph = imageGraph(io)
  const source = await openSources(graph, args, io)
  if (args.snapshot !== undefined) {
    throw new CommandFailure(
      `Failed to load snapshot: '${args.snapshot}': internal snapshots are not supported yet`,
    )
  }
  const target = await openTarget(graph, args, source.size, io)
  await copy(graph, args, source, target, io)
  return 0
}

async function openSources(
  graph: Graph,
  args: ConvertArguments,
  io: NamedIo,
): Promise<ConvertSource> {
  const images: SourceImage[] = []
  let start = 0
  for (const filename of args.sources) {
    const { imageOpts, format, sourceCache: cache, forceShare } = args
    const node = await openImage(graph, { filename, imageOpts, format, cache, forceShare }, io)
    const edge = graph.attach(node, { description: 'img convert', uses: ['consistentRead'] })
    const size = alignUp(node.size, sectorSize)
    images.push({ edge, start, size })
    start += size
  }
  return new ConvertSource(images)
}

/** Makes the target unless it exists already, and opens it. */
async function openTarget(
  graph: Graph,
  args: ConvertArguments,
  size: number,
  io: NamedIo,
): Promise<BlockNode> {
  if (!args.existing) {
    const options = newImageOptions(args, size, io)
    try {
      await createImage(graph, { filename: args.target, format: args.targetFormat, options })
    } catch (error) {
      throw inContext(`${args.target}: error while converting ${args.targetFormat}`, error)
    }
  }
  const node = await openImage(
    graph,
    {
      filename: args.target,
      imageOpts: args.targetImageOpts,
      format: args.targetImageOpts ? undefined : args.targetFormat,
      readOnly: false,
      cache: args.targetCache,
      unmap: args.sparseSize > 0,
    },
    io,
  )
  if (node.size < size) throw new CommandFailure('output file is smaller than input file')
  if (args.compressed && !node.layer.compressed) {
    throw new CommandFailure('Compression not supported for this file format')
  }
  return node
}

async function copy(
  graph: Graph,
  args: ConvertArguments,
  source: ConvertSource,
  node: BlockNode,
  io: NamedIo,
): Promise<void> {
  await using target = graph.attach(node, {
    description: 'img convert',
    uses: ['write'],
    shares: ['consistentRead'],
  })
  const backingSize = backingOf(node)?.size ?? 0
  const created = !args.existing && node.layer.capabilities.zeroInit
  const progress = new Progress(args.progress ? io.stdout : undefined, source.size)
  let finished = false
  try {
    await runPipeline({
      source,
      target,
      workers: args.workers,
      anyOrder: args.anyOrder,
      sparseSize: args.sparseSize,
      compressed: args.compressed,
      targetIsZero: args.targetIsZero || (created && backingSize === 0),
      backingSize,
      rate: args.rate,
      salvage: args.salvage ? reportSalvaged(args, io) : undefined,
      progress: (bytes) => progress.add(bytes),
    })
    await target.flush()
    finished = true
  } finally {
    if (args.progress && !finished) progress.stop()
  }
  if (args.progress) progress.finish()
}

function reportSalvaged(args: ConvertArguments, io: NamedIo) {
  return (offset: number, reason: string) => {
    if (args.quiet) return
    io.stderr.write(`${io.program}: warning: error while reading offset ${offset}: ${reason}\n`)
  }
}
