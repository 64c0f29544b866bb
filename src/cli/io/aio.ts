/**
 * `aio_read`, `aio_write`, `aio_flush`: requests that run while the next commands are read. Each
 * reports when it is done; what goes wrong by then is printed and fails no command.
 */
import { CommandError, SynopsisRequest } from './outcome.ts'
import { readAndShow } from './read.ts'
import { defaultPattern, givenPattern } from './request.ts'
import type { IoCommand, Session } from './session.ts'
import { parseWords, size, totalLength } from './words.ts'
import { writeAndReport } from './write.ts'

export const aioRead: IoCommand = {
  name: 'aio_read',
  arguments: '[-Ciqv] [-P pattern] off len [len..]',
  summary: 'asynchronously reads a number of bytes',
  least: 2,
  most: Number.POSITIVE_INFINITY,
  manual: `
 asynchronously reads a range of bytes from the given offset

 Example:
 'aio_read -v 512 1k 1k ' - dumps 2 kilobytes read from 512 bytes into the file

 Reads a segment of the currently open file, optionally dumping it to the
 standard output stream (with -v option) for subsequent inspection.
 The read is performed asynchronously and the aio_flush command must be
 used to ensure all outstanding aio requests have been completed.
 Note that due to its asynchronous nature, this command will be
 considered successful once the request is submitted, independently
 of potential I/O errors or pattern mismatches.
 -C, -- report statistics in a machine parsable format
 -P, -- use a pattern to verify read data
 -i, -- treat request as invalid, for exercising stats
 -v, -- dump buffer to standard output
 -q, -- quiet mode, do not show I/O statistics

`,
  run(words, session) {
    const { options, rest } = parseWords(words, 'CP:iqv', session)
    const pattern = givenPattern(options)
    if (options.has('i')) return session.print('injecting invalid read request\n')
    if (rest.length < 2) throw new SynopsisRequest()
    const offset = size(rest[0], session)
    const length = totalLength(rest.slice(1), session)
    const verify = pattern === undefined ? undefined : { pattern, start: 0, checked: length }
    start(session, readAndShow({ what: 'readv', offset, length, options, verify }, session))
  },
}

export const aioWrite: IoCommand = {
  name: 'aio_write',
  arguments: '[-Cfiquz] [-P pattern] off len [len..]',
  summary: 'asynchronously writes a number of bytes',
  least: 2,
  most: Number.POSITIVE_INFINITY,
  writes: true,
  manual: `
 asynchronously writes a range of bytes from the given offset source
 from multiple buffers

 Example:
 'aio_write 512 1k 1k' - writes 2 kilobytes at 512 bytes into the open file

 Writes into a segment of the currently open file, using a buffer
 filled with a set pattern (0xcdcdcdcd).
 The write is performed asynchronously and the aio_flush command must be
 used to ensure all outstanding aio requests have been completed.
 Note that due to its asynchronous nature, this command will be
 considered successful once the request is submitted, independently
 of potential I/O errors or pattern mismatches.
 -P, -- use different pattern to fill file
 -C, -- report statistics in a machine parsable format
 -f, -- use Force Unit Access semantics
 -i, -- treat request as invalid, for exercising stats
 -q, -- quiet mode, do not show I/O statistics
 -u, -- with -z, allow unmapping
 -z, -- write zeroes using blk_aio_pwrite_zeroes

`,
  run(words, session) {
    const { options, rest } = parseWords(words, 'CfiP:quz', session)
    const pattern = givenPattern(options) ?? defaultPattern
    if (options.has('i')) return session.print('injecting invalid write request\n')
    if (rest.length < 2) throw new SynopsisRequest()
    const zeroes = options.has('z')
    if (zeroes && rest.length > 2) {
      throw new CommandError('-z supports only a single length parameter')
    }
    if (options.has('u') && !zeroes) throw new CommandError('-u requires -z to be specified')
    const offset = size(rest[0], session)
    const length = zeroes ? size(rest[1], session) : totalLength(rest.slice(1), session)
    const fill = () => session.buffer(length).fill(pattern)
    start(session, writeAndReport('aio_write', offset, length, options, session, fill))
  },
}

/** The command is done when the request is under way; its outcome is printed later. */
function start(session: Session, work: Promise<void>): void {
  session.start(
    work.catch((error) => {
      if (!(error instanceof CommandError)) throw error
      if (error.message !== '') session.print(`${error.message}\n`)
    }),
  )
}

export const aioFlush: IoCommand = {
  name: 'aio_flush',
  summary: 'completes all outstanding aio requests',
  least: 0,
  most: 0,
  run: (_, session) => session.settled(),
}
