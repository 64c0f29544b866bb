/** The options of the image that `img convert` makes. */
import { BlockError } from '../../errors.ts'
import type { NamedIo } from '../command.ts'
import { formatCreator, protocolOf } from '../create-image.ts'
import type { ConvertArguments } from './convert-arguments.ts'
import { type CreateValue, offeredOptions, parseCreateOptions } from './create-options.ts'
import { CommandFailure } from './failure.ts'

/** `size` is in bytes, and replaces one that `-o` asks for. */
export function newImageOptions(
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
}

function unable(what: string, { targetFormat }: ConvertArguments): BlockError {
  return new BlockError(
    'INVALID_ARGUMENT',
    `${what} not supported for file format '${targetFormat}'`,
    { errno: 'EINVAL' },
  )
}
