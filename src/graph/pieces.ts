import type { Completion } from '../block/layer.ts'

/** Pieces of a split request that are in flight together. */
const splitDepth = 8

/**
 * Runs `work` on consecutive pieces of at most `step` bytes, a bounded number at a time. Starts no
 * more after a failure, waits for those under way, then rejects with the first failure.
 */
export async function inPieces(
  length: number,
  step: number,
  work: (at: number, length: number) => Completion,
): Promise<void> {
  let pending: Completion[] = []
  let failure: { error: unknown } | undefined
  const settle = async () => {
    const batch = pending
    pending = []
    for (const result of await Promise.allSettled(batch)) {
      if (result.status === 'rejected') failure ??= { error: result.reason }
    }
  }
  for (let at = 0; at < length && !failure; at += step) {
    try {
      pending.push(work(at, Math.min(step, length - at)))
    } catch (error) {
      failure ??= { error }
    }
    if (pending.length >= splitDepth) await settle()
  }
  await settle()
  if (failure) throw failure.error
}
