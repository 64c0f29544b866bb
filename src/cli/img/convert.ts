/** `img convert`: copies one image or several into a new or an existing one, in any format. */
import { allPermissions } from '../../block/permission.ts'
import { alignUp } from '../../bytes/range.ts'
import type { Graph } from '../../graph/graph.ts'
import type { BlockNode } from '../../graph/node.ts'
import { backingOf } from '../../graph/status.ts'
import type { NamedIo } from '../command.ts'
import { attachImage, imageGraph, openImage } from '../open-image.ts'
import { type ConvertArguments, parseConvertArguments } from './convert-arguments.ts'
import { bitmapsToCopy, checkDriver, copyBitmaps } from './convert-bitmaps.ts'
import { runPipeline } from './convert-pipeline.ts'
import { ConvertSource, type SourceImage } from './convert-source.ts'
import { fromStream, toStream } from './convert-stream.ts'
import { openTarget, planTarget } from './convert-target.ts'
import { CommandFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { Progress } from './progress.ts'
import { showSnapshot } from './snapshot-param.ts'
import { checkImageOpts } from './source-options.ts'

/** QEMU counts disks in sectors. */
const sectorSize = 512

export const convert: ImgCommand = async (words, io) => {
  const args = parseConvertArguments(words, io)
  if (args === undefined) return 0
  if (args.bitmaps && (args.target === '-' || args.sources.includes('-'))) {
    throw new CommandFailure('bitmaps cannot be copied through a stream')
  }
  if (args.sources.includes('-')) return await fromStream(args, io)
  using progress = new Progress(io, args.progress && args.target !== '-')
  progress.start()
  checkImageOpts(args.imageOpts, args.format)
  await using graph = imageGraph(io)
  const source = await openSources(graph, args, io)
  if (args.target === '-') return await toStream(args, source, io)
  const node = source.single
  const plan = planTarget(args, source.size, io)
  if (args.bitmaps && !node) {
    throw new CommandFailure('Copying bitmaps only possible with single source')
  }
  const bitmaps = args.bitmaps && node ? bitmapsToCopy(node, args.skipBrokenBitmaps, io) : undefined
  const target = await openTarget(graph, args, plan, io)
  if (bitmaps) checkDriver(target)
  await copy(graph, args, source, target, { io, progress })
  if (bitmaps && node) await copyBitmaps(node, target, bitmaps)
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
    // Nobody writes to it meanwhile, this command itself as the least: a raw file could be its own target.
    const edge = attachImage(graph, node, filename, {
      description: 'img convert',
      uses: ['consistentRead'],
      shares: forceShare ? allPermissions : ['consistentRead', 'writeUnchanged'],
    })
    const size = alignUp(await sizeOfShown(node, args), sectorSize)
    images.push({ edge, start, size })
    start += size
  }
  return new ConvertSource(images)
}

/**
 * Bytes of what is read. A snapshot of a disk that has grown since is filled up with zeroes, as
 * qemu-img has it; one of a disk that has shrunk is copied whole all the same.
 */
async function sizeOfShown(node: BlockNode, { sources, snapshot }: ConvertArguments) {
  const { size } = node
  if (snapshot === undefined) return size
  if (sources.length > 1 && 'either' in snapshot) {
    throw new CommandFailure('No support for concatenating multiple snapshot')
  }
  await showSnapshot(node, snapshot)
  return Math.max(size, node.size)
}

async function copy(
  graph: Graph,
  args: ConvertArguments,
  source: ConvertSource,
  node: BlockNode,
  { io, progress }: { readonly io: NamedIo; readonly progress: Progress },
): Promise<void> {
  await using target = attachImage(graph, node, args.target, {
    description: 'img convert',
    uses: ['write'],
  })
  const backingSize = backingOf(node)?.size ?? 0
  const created = !args.existing && node.layer.capabilities.zeroInit
  const writeAll = args.sparseSize === 0
  // Nobody knows who may send a signal; but a map of it all is made for -p alone.
  progress.measure(args.progress ? await source.dataLength({ backingSize, writeAll }) : source.size)
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
    progress: (bytes) => progress.copied(bytes),
  })
  await target.flush()
  progress.finish()
}

function reportSalvaged(args: ConvertArguments, io: NamedIo) {
  return (offset: number, reason: string) => {
    if (args.quiet) return
    io.stderr.write(`${io.program}: warning: error while reading offset ${offset}: ${reason}\n`)
  }
}
