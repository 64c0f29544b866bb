/** The image that `img convert` writes to. */

import type { NodeOptions } from '../../block/driver.ts'
import { createImage, formatCreator, protocolOf } from '../../create-image.ts'
import { type BlockError, inContext, invalid } from '../../errors.ts'
import type { Graph } from '../../graph/graph.ts'
import type { BlockNode } from '../../graph/node.ts'
import type { NamedIo } from '../command.ts'
import { type CacheMode, openImage } from '../open-image.ts'
import type { ConvertArguments } from './convert-arguments.ts'
import { type CreateValue, isOn, offeredOptions, parseCreateOptions } from './create-options.ts'
import { CommandFailure } from './failure.ts'
import { checkImageOpts, targetCache } from './source-options.ts'

export interface TargetPlan {
  /** Bytes that it has to have room for. */
  readonly size: number
  readonly cache: CacheMode
  /** Undefined: it is there already. */
  readonly newImage?: Readonly<Record<string, CreateValue>>
}

/** What is asked of the target, checked before anything is touched. */
export function planTarget(args: ConvertArguments, size: number, io: NamedIo): TargetPlan {
  const newImage = args.existing ? undefined : newImageOptions(args, size, io)
  return { size, newImage, cache: targetCache(args.targetCache) }
}

/** Makes the target unless it exists already, and opens it. */
export async function openTarget(
  graph: Graph,
  args: ConvertArguments,
  { size, cache, newImage }: TargetPlan,
  io: NamedIo,
): Promise<BlockNode> {
  let keys: NodeOptions = {}
  if (newImage) {
    keys = keyOptions(newImage)
    try {
      await createImage(graph, {
        filename: args.target,
        format: args.targetFormat,
        options: newImage,
      })
    } catch (error) {
      throw inContext(`${args.target}: error while converting ${args.targetFormat}`, error)
    }
  }
  if (args.targetIsZero && args.backingFile !== undefined) {
    throw new CommandFailure(
      'Cannot use --target-is-zero when the destination image has a backing file',
    )
  }
  if (args.targetImageOpts) checkImageOpts(true, args.namedTargetFormat)
  const node = await openImage(
    graph,
    {
      filename: args.target,
      imageOpts: args.targetImageOpts,
      format: args.targetImageOpts ? undefined : args.targetFormat,
      readOnly: false,
      cache,
      unmap: args.sparseSize > 0,
      options: keys,
    },
    io,
  )
  if (node.size < size) throw new CommandFailure('output file is smaller than input file')
  if (args.compressed && !node.layer.compressed) {
    throw new CommandFailure('Compression not supported for this file format')
  }
  return node
}

/** What was made with a key is opened with it. */
function keyOptions(options: Readonly<Record<string, CreateValue>>): NodeOptions {
  const names = ['key-secret', 'encrypt.key-secret']
  return Object.fromEntries(Object.entries(options).filter(([name]) => names.includes(name)))
}

/** `size` is in bytes, and replaces one that `-o` asks for. */
function newImageOptions(
  args: ConvertArguments,
  size: number,
  io: NamedIo,
): Record<string, CreateValue> {
  const format = formatCreator(args.targetFormat)
  protocolOf(args.target)
  const offered = offeredOptions(format, args.target)
  const can = (option: string) => offered.some(({ name }) => name === option)
  const values = { ...parseCreateOptions(offered, args.optionList, io), size }
  const named: Record<string, CreateValue> = values
  if (args.backingFile !== undefined) {
    if (!can('backing_file')) throw unable('Backing file', args)
    named.backing_file = args.backingFile
  }
  if (args.backingFormat !== undefined) {
    if (!can('backing_fmt')) throw unable('Backing file format', args)
    named.backing_fmt = args.backingFormat
  }
  if (named.backing_file !== undefined && args.sources.length > 1) {
    throw new CommandFailure(
      'Having a backing file for the target makes no sense when concatenating multiple input images',
    )
  }
  if (named.backing_file !== undefined && named.backing_fmt === undefined) {
    throw new CommandFailure('Use of backing file requires explicit backing format')
  }
  if (args.compressed) checkCompression(can('compression_type'), named)
  return named
}

function checkCompression(able: boolean, values: Readonly<Record<string, CreateValue>>): void {
  if (!able) throw new CommandFailure('Compression not supported for this file format')
  if ((values.preallocation ?? 'off') !== 'off') {
    throw new CommandFailure('Compression and preallocation not supported at the same time')
  }
  if (isOn(values.encryption) || values['encrypt.format'] !== undefined) {
    throw new CommandFailure('Compression and encryption not supported at the same time')
  }
}

function unable(what: string, { targetFormat }: ConvertArguments): BlockError {
  return invalid(`${what} not supported for file format '${targetFormat}'`)
}
