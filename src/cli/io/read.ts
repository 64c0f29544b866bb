/** `read` and `readv`. */
import { hexDump } from './figures.ts'
import { alreadyPrinted, CommandError, requestError, SynopsisRequest } from './outcome.ts'
import { announce, checkSectors, givenPattern, matches } from './request.ts'
import { type IoCommand, type Session, timed } from './session.ts'
import { maxRequest, parseWords, size, totalLength } from './words.ts'

export const read: IoCommand = {
  name: 'read',
  alias: 'r',
  arguments: '[-abCqv] [-P pattern [-s off] [-l len]] off len',
  summary: 'reads a number of bytes at a specified offset',
  least: 2,
  most: Number.POSITIVE_INFINITY,
  manual: `
 reads a range of bytes from the given offset

 Example:
 'read -v 512 1k' - dumps 1 kilobyte read from 512 bytes into the file

 Reads a segment of the currently open file, optionally dumping it to the
 standard output stream (with -v option) for subsequent inspection.
 -b, -- read from the VM state rather than the virtual disk
 -C, -- report statistics in a machine parsable format
 -l, -- length for pattern verification (only with -P)
 -p, -- ignored for backwards compatibility
 -P, -- use a pattern to verify read data
 -q, -- quiet mode, do not show I/O statistics
 -s, -- start offset for pattern verification (only with -P)
 -v, -- dump buffer to standard output

`,
  async run(words, session) {
    const { options, rest } = parseWords(words, 'bCl:pP:qs:v', session)
    let pattern: number | undefined
    let patternLength: number | undefined
    let patternStart = 0
    // In the order in which they were given.
    for (const [name, text] of options) {
      if (name === 'P') pattern = givenPattern(options)
      if (name === 'l') patternLength = size(text, session)
      if (name === 's') patternStart = size(text, session)
    }
    if (rest.length !== 2) throw new SynopsisRequest()
    const offset = size(rest[0], session)
    const length = size(rest[1], session)
    if (length > maxRequest) {
      throw new CommandError(`length cannot exceed ${maxRequest}, given ${rest[1]}`)
    }
    if (pattern === undefined && (options.has('l') || options.has('s'))) throw new SynopsisRequest()
    const checked = patternLength ?? Math.max(0, length - patternStart)
    if (patternStart + checked > length) {
      throw new CommandError('pattern verification range exceeds end of read data')
    }
    if (options.has('b')) checkSectors(offset, length)
    const verify = pattern === undefined ? undefined : { pattern, start: patternStart, checked }
    await readAndShow({ what: 'read', offset, length, options, verify }, session)
  },
}

export const readv: IoCommand = {
  name: 'readv',
  arguments: '[-Cqv] [-P pattern] off len [len..]',
  summary: 'reads a number of bytes at a specified offset',
  least: 2,
  most: Number.POSITIVE_INFINITY,
  manual: `
 reads a range of bytes from the given offset into multiple buffers

 Example:
 'readv -v 512 1k 1k ' - dumps 2 kilobytes read from 512 bytes into the file

 Reads a segment of the currently open file, optionally dumping it to the
 standard output stream (with -v option) for subsequent inspection.
 Uses multiple iovec buffers if more than one byte range is specified.
 -C, -- report statistics in a machine parsable format
 -P, -- use a pattern to verify read data
 -v, -- dump buffer to standard output
 -q, -- quiet mode, do not show I/O statistics

`,
  async run(words, session) {
    const { options, rest } = parseWords(words, 'CP:qv', session)
    const pattern = givenPattern(options)
    if (rest.length < 2) throw new SynopsisRequest()
    const offset = size(rest[0], session)
    const length = totalLength(rest.slice(1), session)
    const verify = pattern === undefined ? undefined : { pattern, start: 0, checked: length }
    await readAndShow({ what: 'readv', offset, length, options, verify }, session)
  },
}

export interface ReadRequest {
  /** As its failure is reported. */
  readonly what: string
  readonly offset: number
  readonly length: number
  readonly options: ReadonlyMap<string, string>
  readonly verify?: { readonly pattern: number; readonly start: number; readonly checked: number }
}

/** Throws `CommandError` when the read fails, and after the report when the pattern is another. */
export async function readAndShow(request: ReadRequest, session: Session): Promise<void> {
  const { what, offset, length, options, verify } = request
  let bytes: Uint8Array = new Uint8Array()
  const seconds = await timed(async () => {
    try {
      const { image } = session
      if (options.has('b')) {
        bytes = session.buffer(length)
        await image.readState(offset, bytes)
      } else {
        image.checkRange(offset, length)
        bytes = session.buffer(length)
        await image.read(offset, bytes)
      }
    } catch (error) {
      throw requestError(what, error)
    }
  })
  const intact = !verify || matches(part(bytes, verify.start, verify.checked), verify.pattern)
  if (!intact) {
    const at = offset + verify.start
    session.print(`Pattern verification failed at offset ${at}, ${verify.checked} bytes\n`)
  }
  if (options.has('v') && !options.has('q')) {
    for (const line of hexDump(bytes, offset)) session.print(line)
  }
  announce({ verb: 'read', offset, length, seconds }, options, session)
  if (!intact) throw alreadyPrinted()
}

function part(bytes: Uint8Array, start: number, length: number): Uint8Array {
  return bytes.subarray(start, start + length)
}
