import type { Completion } from '../../block/layer.ts'

/**
 * Does `total` bytes in pieces of at most `step`, one after the other. It stays synchronous as
 * long as the pieces do.
 */
export function inPieces(
  total: number,
  step: number,
  piece: (at: number, length: number) => Completion,
): Completion {
  for (let at = 0; at < total; at += step) {
    const done = piece(at, Math.min(step, total - at))
    if (done !== undefined) return rest(done, at + step, total, step, piece)
  }
}

async function rest(
  first: Promise<void>,
  start: number,
  total: number,
  step: number,
  piece: (at: number, length: number) => Completion,
): Promise<void> {
  await first
  for (let at = start; at < total; at += step) {
    await piece(at, Math.min(step, total - at))
  }
}
