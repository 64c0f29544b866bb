/** `write`, `writev`, `discard` and `truncate`. */

import { readFileSync } from 'node:fs'
import type { Preallocation } from '../../block/layer.ts'
import { BlockError, errnoOf, strerror } from '../../errors.ts'
import { CommandError, requestError, SynopsisRequest } from './outcome.ts'
import { announce, checkSectors, defaultPattern, givenPattern } from './request.ts'
import { type IoCommand, type Session, timed } from './session.ts'
import { maxRequest, type ParsedWords, parseWords, size, totalLength } from './words.ts'

export const write: IoCommand = {
  name: 'write',
  alias: 'w',
  arguments: '[-bcCfnquz] [-P pattern | -s source_file] off len',
  summary: 'writes a number of bytes at a specified offset',
  least: 2,
  most: Number.POSITIVE_INFINITY,
  writes: true,
  manual: `
 writes a range of bytes from the given offset

 Example:
 'write 512 1k' - writes 1 kilobyte at 512 bytes into the open file

 Writes into a segment of the currently open file, using a buffer
 filled with a set pattern (0xcdcdcdcd).
 -b, -- write to the VM state rather than the virtual disk
 -c, -- write compressed data with blk_write_compressed
 -f, -- use Force Unit Access semantics
 -n, -- with -z, don't allow slow fallback
 -p, -- ignored for backwards compatibility
 -P, -- use different pattern to fill file
 -s, -- use a pattern file to fill the write buffer
 -C, -- report statistics in a machine parsable format
 -q, -- quiet mode, do not show I/O statistics
 -u, -- with -z, allow unmapping
 -z, -- write zeroes using blk_co_pwrite_zeroes

`,
  async run(words, session) {
    const parsed = parseWords(words, 'bcCfnpP:qs:uz', session)
    const { options, rest } = parsed
    const pattern = givenPattern(options) ?? defaultPattern
    checkWriteOptions(parsed)
    const offset = size(rest[0], session)
    const length = size(rest[1], session)
    if (length > maxRequest && !options.has('n')) {
      throw new CommandError(`length cannot exceed ${maxRequest} without -n, given ${rest[1]}`)
    }
    const state = options.has('b')
    if (state || options.has('c')) checkSectors(offset, length)
    const source = options.get('s')
    // Looked at before the disk is.
    const given = source === undefined ? undefined : filledFrom(source, session.buffer(length))
    const fill = () => given ?? session.buffer(length).fill(pattern)
    await writeAndReport('write', offset, length, options, session, fill)
  },
}

function checkWriteOptions({ options, rest }: ParsedWords): void {
  const has = (name: string) => options.has(name)
  if (rest.length !== 2) throw new SynopsisRequest()
  if (has('b') && has('z')) throw new CommandError('-b and -z cannot be specified at the same time')
  if (has('f') && (has('b') || has('c'))) {
    throw new CommandError('-f and -b or -c cannot be specified at the same time')
  }
  if (has('n') && !has('z')) throw new CommandError('-n requires -z to be specified')
  if (has('u') && !has('z')) throw new CommandError('-u requires -z to be specified')
  if (['z', 'P', 's'].filter(has).length > 1) {
    throw new CommandError('Only one of -z, -P, and -s can be specified at the same time')
  }
}

/** Fills `target` with what a file holds, again and again. */
function filledFrom(path: string, target: Uint8Array): Uint8Array {
  let pattern: Uint8Array
  try {
    pattern = readFileSync(path)
  } catch (error) {
    throw new CommandError(`${path}: ${strerror(errnoOf(error) ?? 'EIO')}`, 'stderr')
  }
  // So it says of a request of no length, too.
  if (pattern.length === 0 || target.length === 0)
    throw new CommandError(`${path}: file is empty`, 'stderr')
  return Buffer.from(target.buffer, target.byteOffset, target.length).fill(pattern)
}

export const writev: IoCommand = {
  name: 'writev',
  arguments: '[-Cfq] [-P pattern] off len [len..]',
  summary: 'writes a number of bytes at a specified offset',
  least: 2,
  most: Number.POSITIVE_INFINITY,
  writes: true,
  manual: `
 writes a range of bytes from the given offset source from multiple buffers

 Example:
 'writev 512 1k 1k' - writes 2 kilobytes at 512 bytes into the open file

 Writes into a segment of the currently open file, using a buffer
 filled with a set pattern (0xcdcdcdcd).
 -P, -- use different pattern to fill file
 -C, -- report statistics in a machine parsable format
 -f, -- use Force Unit Access semantics
 -q, -- quiet mode, do not show I/O statistics

`,
  async run(words, session) {
    const { options, rest } = parseWords(words, 'CfqP:', session)
    const pattern = givenPattern(options) ?? defaultPattern
    if (rest.length < 2) throw new SynopsisRequest()
    const offset = size(rest[0], session)
    const length = totalLength(rest.slice(1), session)
    await writeAndReport('writev', offset, length, options, session, () =>
      session.buffer(length).fill(pattern),
    )
  },
}

/**
 * Writes what `fill` makes, or zeroes with `-z`, and reports it. `fill` is called only for a range
 * that lies inside the disk. Throws `CommandError`.
 */
export async function writeAndReport(
  what: string,
  offset: number,
  length: number,
  options: ReadonlyMap<string, string>,
  session: Session,
  fill: () => Uint8Array,
): Promise<void> {
  const { image } = session
  const fua = options.has('f')
  const seconds = await timed(async () => {
    try {
      if (!options.has('b')) image.checkRange(offset, length)
      if (options.has('b')) {
        await image.writeState(offset, fill())
      } else if (options.has('z')) {
        const zeroIo = { fua, mayUnmap: options.has('u'), fastOnly: options.has('n') }
        await image.writeZeroes(offset, length, zeroIo)
      } else if (options.has('c')) {
        await image.writeCompressed(offset, fill())
      } else {
        await image.write(offset, fill(), { fua })
      }
    } catch (error) {
      if (error instanceof CommandError) throw error
      throw requestError(what, error)
    }
  })
  announce({ verb: 'wrote', offset, length, seconds }, options, session)
}

export const discard: IoCommand = {
  name: 'discard',
  alias: 'd',
  arguments: '[-Cq] off len',
  summary: 'discards a number of bytes at a specified offset',
  least: 2,
  most: Number.POSITIVE_INFINITY,
  writes: true,
  manual: `
 discards a range of bytes from the given offset

 Example:
 'discard 512 1k' - discards 1 kilobyte from 512 bytes into the file

 Discards a segment of the currently open file.
 -C, -- report statistics in a machine parsable format
 -q, -- quiet mode, do not show I/O statistics

`,
  async run(words, session) {
    const { options, rest } = parseWords(words, 'Cq', session)
    if (rest.length !== 2) throw new SynopsisRequest()
    const offset = size(rest[0], session)
    const length = size(rest[1], session)
    if (length > maxRequest) {
      throw new CommandError(`length cannot exceed ${maxRequest}, given ${rest[1]}`)
    }
    const seconds = await timed(async () => {
      try {
        session.image.checkRange(offset, length)
        await session.image.discard(offset, length)
      } catch (error) {
        throw requestError('discard', error)
      }
    })
    announce({ verb: 'discard', offset, length, seconds }, options, session)
  },
}

const preallocationModes: readonly Preallocation[] = ['off', 'metadata', 'falloc', 'full']

export const truncate: IoCommand = {
  name: 'truncate',
  alias: 't',
  arguments: '[-m prealloc_mode] off',
  summary: 'truncates the current file at the given offset',
  least: 1,
  most: 3,
  writes: true,
  resizes: true,
  async run(words, session) {
    const { options, rest } = parseWords(words, 'm:', session)
    const fail = (message: string) =>
      new CommandError(`${session.io.program}: ${message}`, 'stderr')
    const wantedMode = options.get('m') ?? 'off'
    const mode = preallocationModes.find((known) => known === wantedMode)
    if (!mode) throw fail(`Invalid preallocation mode '${wantedMode}'`)
    if (rest.length === 0) throw new SynopsisRequest()
    const wanted = size(rest[0], session, words[1])
    try {
      await session.image.truncate(wanted, mode)
    } catch (error) {
      if (error instanceof BlockError) throw fail(withoutPath(error))
      throw error
    }
  },
}

/** The sentence alone: there is only one image here. */
function withoutPath({ message, path }: BlockError): string {
  return path && message.startsWith(`${path}: `) ? message.slice(path.length + 2) : message
}
