/** `img create`: makes an image, empty or on top of a backing file. */
import { alignUp } from '../../bytes/range.ts'
import { createImage, formatCreator, protocolOf } from '../../create-image.ts'
import { BlockError, inContext, invalid } from '../../errors.ts'
import { resolveRecorded } from '../../graph/filename.ts'
import type { Graph } from '../../graph/graph.ts'
import type { BlockNode } from '../../graph/node.ts'
import type { NamedIo } from '../command.ts'
import { imageGraph, openBacking } from '../open-image.ts'
import { Arguments, object } from './arguments.ts'
import {
  type CreateValue,
  checkOptionList,
  formattingLine,
  offeredOptions,
  optionHelp,
  parseCreateOptions,
  wantsHelp,
} from './create-options.ts'
import { usageFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { sizeArgument } from './size-text.ts'
import { objects } from './source-options.ts'

interface Wishes {
  readonly filename: string
  readonly format: string
  readonly optionList: string
  readonly backingFile?: string
  readonly backingFormat?: string
  /** `-u`: the backing file is not looked at. */
  readonly unchecked: boolean
  readonly size?: number
  readonly quiet: boolean
}

export const create: ImgCommand = async (words, io) => {
  const args = new Arguments('create', words, 'F:b:f:o:qu', [object], {
    ...objects(io),
    o: checkOptionList,
  })
  const format = args.value('f') ?? 'raw'
  const optionList = args.all('o').join(',')
  const [filename, sizeText, ...more] = args.rest
  if (wantsHelp(optionList)) {
    io.stdout.write(optionHelp(format, filename))
    return 0
  }
  if (filename === undefined) throw usageFailure('Expecting image file name')
  const size = sizeText === undefined ? undefined : sizeArgument('image size', sizeText, io)
  if (more.length > 0) throw usageFailure(`Unexpected argument: ${more[0]}`)
  const wishes: Wishes = {
    filename,
    format,
    optionList,
    backingFile: args.value('b'),
    backingFormat: args.value('F'),
    unchecked: args.has('u'),
    size,
    quiet: args.has('q'),
  }
  try {
    await make(wishes, io)
  } catch (error) {
    throw inContext(filename, error)
  }
  return 0
}

async function make(wishes: Wishes, io: NamedIo): Promise<void> {
  const { filename, format } = wishes
  const driver = formatCreator(format)
  protocolOf(filename)
  const offered = offeredOptions(driver, filename)
  const values = parseCreateOptions(offered, wishes.optionList, io)
  const canHaveBacking = offered.some(({ name }) => name === 'backing_file')
  addWishes(wishes, values, canHaveBacking)
  await using graph = imageGraph(io)
  await settleSize(graph, wishes, values)
  if (!wishes.quiet) io.stdout.write(formattingLine(filename, driver, values))
  io.stdout.flush?.()
  await createImage(graph, { filename, format, options: values })
}

/** What the options `-b`, `-F` and the size argument say, as if `-o` had said it. */
function addWishes(
  wishes: Wishes,
  values: Record<string, CreateValue>,
  canHaveBacking: boolean,
): void {
  const { format, size, backingFile, backingFormat } = wishes
  if (size !== undefined) {
    if (values.size !== undefined) throw invalid('The image size must be specified only once')
    values.size = size
  }
  if (backingFile !== undefined) {
    if (!canHaveBacking) throw invalid(`Backing file not supported for file format '${format}'`)
    values.backing_file = backingFile
  }
  if (backingFormat !== undefined) {
    if (!canHaveBacking) {
      throw invalid(`Backing file format not supported for file format '${format}'`)
    }
    values.backing_fmt = backingFormat
  }
  if (values.backing_file === '') throw invalid('Expected backing file name, got empty string')
  if (values.backing_file === wishes.filename) {
    throw invalid('Error: Trying to create an image with the same filename as the backing file')
  }
}

/** The backing file has to exist, and gives the image its size where none is asked for. */
async function settleSize(
  graph: Graph,
  { filename, unchecked }: Wishes,
  values: Record<string, CreateValue>,
): Promise<void> {
  const { backing_file: backingFile, backing_fmt: backingFormat } = values
  if (typeof backingFile === 'string') {
    if (!unchecked) {
      const backing = await openNamed(graph, resolveRecorded(backingFile, filename), backingFormat)
      values.size ??= alignUp(backing.size, 512)
      await graph.remove(backing.name)
      if (backingFormat === undefined) throw noFormat(`\nDetected format of ${backing.driver}.`)
    }
    if (backingFormat === undefined) throw noFormat('')
  }
  if (values.size === undefined) throw invalid('Image creation needs a size parameter')
}

async function openNamed(
  graph: Graph,
  filename: string,
  format: CreateValue | undefined,
): Promise<BlockNode> {
  try {
    return await openBacking(graph, filename, format === undefined ? undefined : String(format))
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    const { code, message, path, offset, errno } = error
    throw new BlockError(code, `${message}\nCould not open backing image.`, { path, offset, errno })
  }
}

function noFormat(hint: string): BlockError {
  return invalid(`Backing file specified without backing format${hint}`)
}
