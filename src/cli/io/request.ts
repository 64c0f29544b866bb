/** Options and buffers that the commands moving data have in common. */
import { report } from './figures.ts'
import { CommandError } from './outcome.ts'
import type { Session } from './session.ts'
import { patternByte } from './words.ts'

/** What a buffer holds unless the user says otherwise. */
export const defaultPattern = 0xcd

export interface Finished {
  readonly verb: 'read' | 'wrote' | 'discard'
  readonly offset: number
  readonly length: number
  readonly seconds: number
}

/** Prints the statistics of a request, unless `-q` was given. */
export function announce(
  finished: Finished,
  options: ReadonlyMap<string, string>,
  session: Session,
): void {
  if (options.has('q')) return
  session.print(report({ ...finished, machine: options.has('C') }))
}

/** The byte of `-P`, or undefined. */
export function givenPattern(options: ReadonlyMap<string, string>): number | undefined {
  const text = options.get('P')
  return text === undefined ? undefined : patternByte(text)
}

export const sectorSize = 512

/** What goes past the disk's ordinary addressing counts in sectors. */
export function checkSectors(offset: number, count: number): void {
  for (const [name, value] of [
    ['offset', offset],
    ['count', count],
  ] as const) {
    if (value % sectorSize !== 0) {
      throw new CommandError(`${value} is not a sector-aligned value for '${name}'`)
    }
  }
}

/** Whether all of `bytes` equal `pattern`. */
export function matches(bytes: Uint8Array, pattern: number): boolean {
  const expected = Buffer.alloc(Math.min(bytes.length, comparedAtOnce), pattern)
  for (let at = 0; at < bytes.length; at += comparedAtOnce) {
    const part = bytes.subarray(at, at + comparedAtOnce)
    if (expected.compare(part, 0, part.length, 0, part.length) !== 0) return false
  }
  return true
}

const comparedAtOnce = 64 * 1024
