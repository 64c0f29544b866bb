/**
 * XBZRLE: a page as its difference to what it was. Pairs of runs: a run that stays as it is (its
 * length), and a run that is replaced (length and bytes). Lengths are LEB128 of at most two bytes.
 */
import { BlockError } from '../../errors.ts'

/** Changes `page` in place. Throws `CORRUPT_IMAGE` on a delta that is not one. */
export function applyDelta(delta: Uint8Array, page: Uint8Array): void {
  let at = 0
  let to = 0
  const length = () => {
    const first = delta[at++]
    if (first === undefined) throw faulty('ends early')
    if (first < 0x80) return first
    const second = delta[at++]
    if (second === undefined || second >= 0x80) throw faulty('has a length of over 14 bits')
    return (first & 0x7f) + second * 0x80
  }
  while (at < delta.length) {
    to += length()
    // A page that is the same to its end has no further run.
    if (at === delta.length && to === page.length) return
    const count = length()
    if (count === 0) throw faulty('has an empty run')
    if (at + count > delta.length) throw faulty('ends early')
    if (to + count > page.length) throw faulty('reaches behind the end of the page')
    page.set(delta.subarray(at, at + count), to)
    at += count
    to += count
  }
  if (to > page.length) throw faulty('reaches behind the end of the page')
}

function faulty(what: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', `a compressed page (XBZRLE) ${what}`)
}
