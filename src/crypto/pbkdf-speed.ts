/** How many iterations of PBKDF2 take how long here. */
import { BlockError } from '../errors.ts'
import type { HashName } from './cipher-spec.ts'
import { maxIterations, pbkdf2 } from './hash.ts'

/** Fewer are not used, however little time is asked for; as QEMU and cryptsetup have it. */
export const minIterations = 1000

/** A measurement that took as long is believed. */
const believableMs = 60

const firstCount = 8192

/** Iterations for a key of `length` bytes that keep this machine busy for `timeMs`. */
export async function iterationsFor(
  hash: HashName,
  length: number,
  timeMs: number,
): Promise<number> {
  const count = Math.floor((await iterationsPerMs(hash, length)) * timeMs)
  if (count <= maxIterations) return Math.max(count, minIterations)
  throw new BlockError(
    'INVALID_ARGUMENT',
    `${timeMs} ms make ${count} iterations; no more than ${maxIterations} are done`,
    { errno: 'ERANGE' },
  )
}

/** Measured once for each kind of key. */
const known = new Map<string, Promise<number>>()

function iterationsPerMs(hash: HashName, length: number): Promise<number> {
  const kind = `${hash} ${length}`
  const found = known.get(kind)
  if (found) return found
  const measured = measure(hash, length)
  known.set(kind, measured)
  measured.catch(() => known.delete(kind))
  return measured
}

async function measure(hash: HashName, length: number): Promise<number> {
  const salt = new Uint8Array(32)
  for (let count = firstCount; ; count *= 4) {
    const begin = performance.now()
    await pbkdf2(hash, salt, salt, count, length)
    const tookMs = performance.now() - begin
    if (tookMs >= believableMs) return count / tookMs
  }
}
