/** `img map`: which ranges are allocated, and where they lie in which file. */
import type { BlockNode } from '../../graph/node.ts'
import type { NamedIo } from '../command.ts'
import { imageGraph, openImage } from '../open-image.ts'
import { Arguments, forceShare, imageOpts, object, output } from './arguments.ts'
import { type BlockStatus, blockStatus, diskSize } from './block-status.ts'
import { CommandFailure, usageFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { sizeArgument } from './size-text.ts'
import { checkImageOpts, objects } from './source-options.ts'

export const map: ImgCommand = async (words, io) => {
  let start = 0
  let maxLength = Number.POSITIVE_INFINITY
  const args = new Arguments(
    'map',
    words,
    'f:s:l:U',
    [
      { name: 'format', argument: 'required', as: 'f' },
      output,
      object,
      imageOpts,
      forceShare,
      { name: 'start-offset', argument: 'required', as: 's' },
      { name: 'max-length', argument: 'required', as: 'l' },
    ],
    {
      ...objects(io),
      s: (text) => {
        start = sizeArgument('start offset', text, io)
      },
      l: (text) => {
        maxLength = sizeArgument('max length', text, io)
      },
    },
  )
  if (args.rest.length !== 1) throw usageFailure('Expecting one image file name')
  const { json } = args
  checkImageOpts(args.has('image-opts'), args.value('f'))
  await using graph = imageGraph(io)
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
  const end = Math.min(diskSize(node), start + maxLength)
  await (json ? printJson(node, start, end, io) : printTable(node, start, end, io))
  return 0
}

async function printTable(node: BlockNode, start: number, end: number, io: NamedIo): Promise<void> {
  io.stdout.write(row('Offset', 'Length', 'Mapped to', 'File'))
  for await (const run of joinedRuns(node, start, end)) {
    if (!run.data || run.zero) continue
    if (run.offset === undefined) {
      throw new CommandFailure('File contains external, encrypted or compressed clusters.')
    }
    io.stdout.write(row(hex(run.start), hex(run.length), hex(run.offset), run.filename ?? ''))
  }
}

const columnWidth = 16

function row(offset: string, length: string, mappedTo: string, file: string): string {
  return `${[offset, length, mappedTo].map((cell) => cell.padEnd(columnWidth)).join('')}${file}\n`
}

/** As C prints with `%#x`: zero goes without the prefix. */
function hex(value: number): string {
  return value === 0 ? '0' : `0x${value.toString(16)}`
}

async function printJson(node: BlockNode, start: number, end: number, io: NamedIo): Promise<void> {
  let separator = '['
  for await (const run of joinedRuns(node, start, end)) {
    io.stdout.write(separator + jsonLine(run))
    separator = ',\n'
  }
  if (separator === '[') io.stdout.write(`[${jsonLine({ ...nothing, start })}`)
  io.stdout.write(']\n')
}

/** What stands for a disk, or a range of one, that has no bytes. */
const nothing: BlockStatus = {
  start: 0,
  length: 0,
  depth: 0,
  present: false,
  zero: false,
  data: false,
  encoded: false,
}

function jsonLine({ start, length, depth, present, zero, data, offset }: BlockStatus): string {
  const place = offset === undefined ? '' : `, "offset": ${offset}`
  return (
    `{ "start": ${BigInt(start)}, "length": ${length}, "depth": ${depth}, "present": ${present}, ` +
    `"zero": ${zero}, "data": ${data}${place}}`
  )
}

async function* joinedRuns(
  node: BlockNode,
  start: number,
  end: number,
): AsyncGenerator<BlockStatus> {
  let run: BlockStatus | undefined
  for (let at = start; at < end; ) {
    const next = await blockStatus(node, at, end - at)
    at += next.length
    if (run && continues(run, next)) {
      run = { ...run, length: run.length + next.length }
    } else {
      if (run) yield run
      run = next
    }
  }
  if (run) yield run
}

function continues(run: BlockStatus, next: BlockStatus): boolean {
  if (run.zero !== next.zero || run.data !== next.data || run.present !== next.present) return false
  if (run.depth !== next.depth || run.filename !== next.filename) return false
  if (run.offset === undefined || next.offset === undefined) return run.offset === next.offset
  return run.offset + run.length === next.offset
}
