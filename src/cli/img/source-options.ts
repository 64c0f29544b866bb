/** The options by which several commands are told how to open an image. */
import type { NamedIo } from '../command.ts'
import { addImageObject } from '../object-option.ts'
import { type CacheMode, cacheMode } from '../open-image.ts'
import type { OptionChecks } from './arguments.ts'
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

/** `--object`: what it makes can be used by any image opened later. */
export function objects(io: NamedIo): OptionChecks {
  return { object: (text) => addImageObject(text, io) }
}
