/** `img measure`: how large a new image would be, for a size or for what another image holds. */
import type { MeasuredSource, Measurement } from '../../block/driver.ts'
import { plainIo } from '../../block/layer.ts'
import { findSecret } from '../../block/secrets.ts'
import type { ByteRange } from '../../bytes/range.ts'
import { drivers } from '../../drivers.ts'
import { BlockError } from '../../errors.ts'
import type { Graph } from '../../graph/graph.ts'
import type { BlockNode } from '../../graph/node.ts'
import { chainExtentAt } from '../../graph/status.ts'
import type { NamedIo } from '../command.ts'
import { imageGraph, openImage } from '../open-image.ts'
import { Arguments, forceShare, imageOpts, object, output } from './arguments.ts'
import {
  type CreateValue,
  checkOptionList,
  offeredOptions,
  parseCreateOptions,
} from './create-options.ts'
import { CommandFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { prettyJson } from './json.ts'
import { sizeArgument } from './size-text.ts'
import { parseSnapshotParam, type SnapshotParam, showSnapshot } from './snapshot-param.ts'
import { checkImageOpts, objects } from './source-options.ts'

export const measure: ImgCommand = async (words, io) => {
  let snapshot: SnapshotParam | undefined
  let size: number | undefined
  const args = new Arguments(
    'measure',
    words,
    'f:l:o:O:U',
    [imageOpts, object, output, { name: 'size', argument: 'required' }, forceShare],
    {
      ...objects(io),
      o: checkOptionList,
      l: (text) => {
        snapshot = parseSnapshotParam(text, io)
      },
      size: (text) => {
        size = sizeArgument('image size', text, io)
      },
    },
  )
  const { json } = args
  checkSource(args, size)
  checkImageOpts(args.has('image-opts'), args.value('f'))
  await using graph = imageGraph(io)
  const source = size === undefined ? await openSource(graph, args, snapshot, io) : { size }
  const target = targetDriver(args.value('O') ?? 'raw')
  const options = targetOptions(target, args.all('o').join(','), io)
  const result = await target.measure(options, source, plainIo)
  await checkSecret(target, options, graph)
  io.stdout.write(json ? prettyJson(asJson(result)) : describe(result))
  return 0
}

function checkSource(args: Arguments, size: number | undefined): void {
  const { rest } = args
  if (rest.length > 1) throw new CommandFailure('At most one filename argument is allowed.')
  const ofImage = args.has('image-opts') || args.has('f') || args.has('l')
  if (rest.length === 0 && ofImage) {
    throw new CommandFailure('--image-opts, -f, and -l require a filename argument.')
  }
  if (rest.length === 0 && size === undefined) {
    throw new CommandFailure('Either --size N or one filename must be specified.')
  }
  if (rest.length > 0 && size !== undefined) {
    throw new CommandFailure('--size N cannot be used together with a filename.')
  }
}

/** LUKS: the secret has to be there, as in QEMU, though its length does not matter. */
async function checkSecret(
  { format }: Target,
  options: Readonly<Record<string, CreateValue>>,
  { secrets }: Graph,
): Promise<void> {
  const id = format === 'luks' ? options['key-secret'] : options['encrypt.key-secret']
  const luks = format === 'luks' || options['encrypt.format'] === 'luks'
  if (luks && typeof id === 'string') await findSecret(secrets, id)
}

interface Target {
  readonly format: string
  readonly measure: (
    options: Readonly<Record<string, unknown>>,
    source: MeasuredSource,
    io: typeof plainIo,
  ) => Promise<Measurement>
}

function targetDriver(format: string): Target {
  const driver = drivers.find(({ name }) => name === format)
  if (!driver) throw new CommandFailure(`Unknown file format '${format}'`)
  const { creator } = driver
  if (!creator?.measure) {
    throw new CommandFailure(`Block driver '${format}' does not support size measurement`)
  }
  return { format, measure: creator.measure.bind(creator) }
}

function targetOptions({ format }: Target, optionList: string, io: NamedIo) {
  const driver = drivers.find(({ name }) => name === format)
  const creator = driver?.creator
  if (!creator) return {}
  // As for an image in a file.
  const offered = offeredOptions({ name: format, creator }, 'a')
  try {
    return parseCreateOptions(offered, optionList, io)
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    io.stderr.write(`${io.program}: ${error.message}\n`)
    throw new CommandFailure(`Invalid options for file format '${format}'`)
  }
}

async function openSource(
  graph: Graph,
  args: Arguments,
  snapshot: SnapshotParam | undefined,
  io: NamedIo,
): Promise<MeasuredSource> {
  const node = await openImage(
    graph,
    {
      filename: args.rest[0],
      imageOpts: args.has('image-opts'),
      format: args.value('f'),
      forceShare: args.has('U'),
    },
    io,
  )
  if (snapshot !== undefined) await showSnapshot(node, snapshot)
  const { bitmaps } = node.layer
  return {
    size: node.size,
    data: dataOf(node),
    bitmaps: bitmaps?.able ? bitmaps.list() : undefined,
  }
}

async function* dataOf(node: BlockNode): AsyncGenerator<ByteRange> {
  for (let at = 0; at < node.size; ) {
    const { length, data, zero } = await chainExtentAt(node, at, node.size - at)
    if (data && !zero) yield { offset: at, length }
    at += length
  }
}

function describe({ required, fullyAllocated, bitmaps }: Measurement): string {
  return (
    `required size: ${required}\nfully allocated size: ${fullyAllocated}\n` +
    (bitmaps === undefined ? '' : `bitmaps size: ${bitmaps}\n`)
  )
}

function asJson({ required, fullyAllocated, bitmaps }: Measurement) {
  return { bitmaps, required, 'fully-allocated': fullyAllocated }
}
