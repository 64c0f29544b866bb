/** `img dd`: copies a part of an image into a new one, block by block, as `dd` words it. */
import { MiB } from '../../bytes/range.ts'
import { createImage, protocolOf } from '../../create-image.ts'
import { drivers } from '../../drivers.ts'
import { inContext } from '../../errors.ts'
import type { Edge } from '../../graph/edge.ts'
import type { NamedIo } from '../command.ts'
import { imageGraph, openImage } from '../open-image.ts'
import { Arguments, forceShare, imageOpts, object } from './arguments.ts'
import { diskSize } from './block-status.ts'
import { CommandFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { parseSizeText, sizeArgument } from './size-text.ts'
import { checkImageOpts, objects } from './source-options.ts'

const defaultBlockSize = 512
const maxBlockSize = 2_147_483_647

/** Bytes moved at once, whatever the size of a block. */
const bufferLength = 2 * MiB

interface Operands {
  readonly input: string
  readonly output: string
  readonly blockSize: number
  /** Blocks; undefined: to the end. */
  readonly count?: number
  /** Blocks. */
  readonly skip: number
}

export const dd: ImgCommand = async (words, io) => {
  const args = new Arguments('dd', words, 'f:O:U', [object, imageOpts, forceShare], objects(io))
  const operands = parseOperands(args.rest, io)
  const targetFormat = args.value('O') ?? 'raw'
  checkImageOpts(args.has('image-opts'), args.value('f'))
  await using graph = imageGraph(io)
  const { input, output, blockSize, count, skip } = operands
  const source = await openImage(
    graph,
    {
      filename: input,
      imageOpts: args.has('image-opts'),
      format: args.value('f'),
      forceShare: args.has('U'),
    },
    io,
  )
  if (!drivers.some(({ name }) => name === targetFormat)) {
    throw new CommandFailure('Unknown file format')
  }
  protocolOf(output)
  await using from = graph.attach(source, { description: 'img dd', uses: ['consistentRead'] })
  const whole = diskSize(source)
  // As qemu-img has it: `count` bounds where the input ends, not how much is copied.
  const end = count === undefined ? whole : Math.min(whole, count * blockSize)
  const start = Math.min(end, skip * blockSize)
  const size = end - start
  try {
    await createImage(graph, { filename: output, format: targetFormat, options: { size } })
  } catch (error) {
    throw inContext(`${output}: error while creating output image`, error)
  }
  if (skip * blockSize > end) {
    io.stderr.write(`${io.program}: ${input}: cannot skip to specified offset\n`)
  }
  const target = await openImage(
    graph,
    { filename: output, format: targetFormat, readOnly: false },
    io,
  )
  await using to = graph.attach(target, {
    description: 'img dd',
    uses: ['write', 'resize'],
    shares: ['consistentRead'],
  })
  await copy(from, start, to, size)
  await to.flush()
  return 0
}

/** The input's last sector may be cut off; it reads as zeroes there. */
async function copy(from: Edge, start: number, to: Edge, size: number): Promise<void> {
  const buffer = new Uint8Array(Math.min(size, bufferLength))
  for (let at = 0; at < size; at += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, size - at))
    const inside = Math.min(part.length, Math.max(0, from.size - start - at))
    part.fill(0, inside)
    if (inside > 0) await from.read(start + at, part.subarray(0, inside))
    await to.write(at, part)
  }
}

function parseOperands(rest: readonly string[], io: NamedIo): Operands {
  const operands: { -readonly [K in keyof Operands]?: Operands[K] } = {}
  for (const word of rest) {
    const at = word.indexOf('=')
    const name = at < 0 ? word : word.slice(0, at)
    const value = word.slice(at + 1)
    if (at < 0) throw unknownOperand(name)
    switch (name) {
      case 'if':
        operands.input = value
        break
      case 'of':
        operands.output = value
        break
      case 'bs':
        operands.blockSize = parseBlockSize(value, io)
        break
      case 'count':
        operands.count = sizeArgument('count', value, io)
        break
      case 'skip':
        operands.skip = sizeArgument('skip', value, io)
        break
      default:
        throw unknownOperand(name)
    }
  }
  const { input, output, blockSize = defaultBlockSize, count, skip = 0 } = operands
  if (input === undefined || output === undefined) {
    throw new CommandFailure('Must specify both input and output files')
  }
  return { input, output, blockSize, count, skip }
}

function parseBlockSize(text: string, io: NamedIo): number {
  const parsed = parseSizeText(text)
  const size = parsed.kind === 'syntax' ? sizeArgument('bs', text, io) : 0
  const bytes = parsed.kind === 'size' ? parsed.bytes : size
  if (bytes >= 1 && bytes <= maxBlockSize) return bytes
  throw new CommandFailure(`Invalid bs specified. Must be between 1 and ${maxBlockSize}.`)
}

function unknownOperand(name: string): CommandFailure {
  return new CommandFailure(`unrecognized operand ${name}`)
}
