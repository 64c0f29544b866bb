/** The lanes of page checksums as they are defined, in JavaScript. */
import { viewOf } from '../../bytes/view.ts'
import type { Lanes } from './page-sum.ts'

export const laneFactor = 0x9e3779b1
export const laneRotation = 5
/** What the lanes of a page begin with. */
export const laneStarts: readonly number[] = [1, 2, 3, 4]
/** Of a page: four words of 32 bits. */
export const laneBytes = 16

export class PlainLanes implements Lanes {
  readonly together = 1
  readonly #pageSize: number
  readonly #lanes = new DataView(new ArrayBuffer(laneBytes))

  constructor(pageSize: number) {
    this.#pageSize = pageSize
  }

  run(pages: Uint8Array): DataView {
    const view = viewOf(pages)
    let [a, b, c, d] = laneStarts
    for (let at = 0; at < this.#pageSize; at += laneBytes) {
      a = step(a, view.getInt32(at, true))
      b = step(b, view.getInt32(at + 4, true))
      c = step(c, view.getInt32(at + 8, true))
      d = step(d, view.getInt32(at + 12, true))
    }
    for (const [index, lane] of [a, b, c, d].entries()) this.#lanes.setInt32(index * 4, lane, true)
    return this.#lanes
  }
}

export function step(lane: number, word: number): number {
  return Math.imul(((lane << laneRotation) | (lane >>> (32 - laneRotation))) ^ word, laneFactor)
}
