/** The options by which several commands are told how to open an image. */
import { BlockError } from '../../errors.ts'
import type { NamedIo } from '../command.ts'
import { parseOptionString } from '../keyval.ts'
import { type CacheMode, cacheMode } from '../open-image.ts'
import type { Arguments } from './arguments.ts'
import { CommandFailure } from './failure.ts'

/** Refuses `-f` beside `--image-opts`. */
export function checkImageOpts(imageOpts: boolean, format: string | undefined, status = 1): void {
  if (imageOpts && format !== undefined) {
    throw new CommandFailure('--image-opts and --format are mutually exclusive', status)
  }
}

/** `-T`: the cache mode of images that are read. */
export function sourceCache(name: string | undefined, status = 1): CacheMode {
  const mode = cacheMode(name ?? 'writeback')
  if (mode) return mode
  throw new CommandFailure(`Invalid source cache option: ${name}`, status)
}

/** `-t`: the cache mode of an image that is written. */
export function targetCache(name: string): CacheMode {
  const mode = cacheMode(name)
  if (mode) return mode
  throw new CommandFailure(`Invalid cache option: ${name}`)
}

/**
 * `--object`: only secrets mean anything to images, and only to encrypted ones, which are refused
 * by name when they are opened.
 */
export function checkObjects(args: Arguments, io: NamedIo): void {
  for (const text of args.all('object')) {
    const { options } = parseOptionString(text, 'qom-type')
    const type = options['qom-type']
    if (type === undefined) throw invalid("Parameter 'qom-type' is missing")
    if (type !== 'secret') throw invalid(`Parameter 'qom-type' does not accept value '${type}'`)
    if (options.id === undefined) throw invalid("Parameter 'id' is missing")
    if (options.file === undefined && options.data === undefined) {
      throw invalid("Either 'file' or 'data' must be provided")
    }
    io.stderr.write(`${io.program}: warning: no image uses secrets yet; ignored: ${options.id}\n`)
  }
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
