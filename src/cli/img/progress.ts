/** `-p`: the share of the work that is done, rewritten on one line, as QEMU's tools print it. */
import type { TextOutput } from '../command.ts'
import { twoDecimals } from './percent.ts'

/** Percent that have to pass before the line is printed again. */
const step = 1

export class Progress {
  readonly #output: TextOutput | undefined
  readonly #total: number
  #done = 0
  #shown = 0

  /** Prints nothing without `output`. The work is `total` in any unit. */
  constructor(output: TextOutput | undefined, total: number) {
    this.#output = output
    this.#total = total
    this.#print(0)
  }

  add(amount: number): void {
    this.#done += amount
    const percent = this.#total === 0 ? 100 : (100 * this.#done) / this.#total
    if (percent - this.#shown > step) this.#print(Math.min(percent, 100))
  }

  /** As `add`, to where the work has come. */
  reach(done: number): void {
    this.add(done - this.#done)
  }

  /** The work is done. */
  finish(): void {
    this.#print(100)
    this.#output?.write('\n')
  }

  /** The work ends here, wherever it was. */
  stop(): void {
    this.#output?.write('\n')
  }

  #print(percent: number): void {
    this.#shown = percent
    this.#output?.write(`    (${twoDecimals(percent)}/100%)\r`)
  }
}
