/** `img resize`: grows an image, or with `--shrink` cuts it off. */
import type { GivenSize } from '../../block/abilities.ts'
import type { Preallocation } from '../../block/layer.ts'
import type { Edge } from '../../graph/edge.ts'
import type { NamedIo } from '../command.ts'
import { attachImage, imageGraph, openImage } from '../open-image.ts'
import { Arguments, imageOpts, object } from './arguments.ts'
import { diskSize } from './block-status.ts'
import { CommandFailure, usageFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { parseSizeText, sizeFault, warnOfHex } from './size-text.ts'
import { checkImageOpts, objects } from './source-options.ts'

export const resize: ImgCommand = async (words, io) => {
  // The size may begin with a minus, so it is taken off before options are looked for.
  const sizeWord = words.at(-1)
  if (words.length < 2 || sizeWord === undefined) {
    if (words.some((word) => word === '-h' || word === '--help'))
      new Arguments('resize', words, '', [])
    throw usageFailure('Not enough arguments')
  }
  let preallocation: Preallocation = 'off'
  const args = new Arguments(
    'resize',
    words.slice(0, -1),
    'f:q',
    [object, imageOpts, { name: 'preallocation', argument: 'required' }, { name: 'shrink' }],
    {
      ...objects(io),
      preallocation: (mode) => {
        preallocation = parsePreallocation(mode)
      },
    },
  )
  if (args.rest.length !== 1) throw usageFailure('Expecting image file name and size')
  const change = parseChange(sizeWord, io)
  checkImageOpts(args.has('image-opts'), args.value('f'))
  await using graph = imageGraph(io)
  const node = await openImage(
    graph,
    {
      filename: args.rest[0],
      imageOpts: args.has('image-opts'),
      format: args.value('f'),
      readOnly: false,
    },
    io,
  )
  await using edge = attachImage(graph, node, args.rest[0], {
    description: 'img resize',
    uses: ['consistentRead', 'resize'],
  })
  const before = diskSize(node)
  const size = change.relative ? before + change.sign * change.bytes : change.bytes
  checkSize(size, before, args.has('shrink'), preallocation, io)
  // As in QEMU, which tries the first sector of what was an empty file.
  const least = before === 0 && node.driver === 'raw' ? smallestFile : 0
  const { sizeIsGiven } = node.layer
  if (sizeIsGiven) await checkGiven(edge, size, sizeIsGiven)
  else await edge.truncate(Math.max(size, least), { preallocation })
  await edge.flush()
  if (!args.has('q')) io.stdout.write('Image resized.\n')
  return 0
}

const smallestFile = 512

/** A device may have got the size already, by other means. */
async function checkGiven(device: Edge, size: number, what: GivenSize): Promise<void> {
  await device.truncate(0)
  if (device.size !== size) throw new CommandFailure(`Cannot resize ${what}`)
}

interface Change {
  readonly relative: boolean
  readonly sign: 1 | -1
  readonly bytes: number
}

function parseChange(text: string, io: NamedIo): Change {
  const relative = text.startsWith('+') || text.startsWith('-')
  const size = relative ? text.slice(1) : text
  const parsed = parseSizeText(size)
  if (parsed.kind === 'size') {
    if (parsed.deprecatedHex) warnOfHex(size, io)
    return { relative, sign: text.startsWith('-') ? -1 : 1, bytes: parsed.bytes }
  }
  // Which does not fit a signed number, as which it is used.
  if (parsed.kind === 'range' && parsed.bytes < 2 ** 64) {
    return { relative, sign: 1, bytes: parsed.bytes - 2 ** 64 }
  }
  throw new CommandFailure(sizeFault('size', size))
}

const preallocations: readonly Preallocation[] = ['off', 'metadata', 'falloc', 'full']

function parsePreallocation(mode: string): Preallocation {
  const known = preallocations.find((each) => each === mode)
  if (known) return known
  throw new CommandFailure(`Invalid preallocation mode '${mode}'`)
}

function checkSize(
  size: number,
  before: number,
  mayShrink: boolean,
  preallocation: Preallocation,
  io: NamedIo,
): void {
  if (size <= 0) throw new CommandFailure('New image size must be positive')
  if (size <= before && preallocation !== 'off') {
    throw new CommandFailure('Preallocation can only be used for growing images')
  }
  if (size < before && !mayShrink) {
    throw new CommandFailure(
      'Use the --shrink option to perform a shrink operation.\n' +
        `${io.program}: warning: Shrinking an image will delete all data beyond the shrunken ` +
        "image's end. Before performing such an operation, make sure there is no important data " +
        'there.',
    )
  }
}
