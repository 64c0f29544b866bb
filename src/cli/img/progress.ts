/** `-p`: the share of the work that is done, rewritten on one line, as QEMU's tools print it. */
import type { TextOutput } from '../command.ts'
import { twoDecimals } from './percent.ts'

/** Percent that have to pass before the line is printed again. */
const step = 1

/** `using`: the line ends with what it is about, however that ended. */
export class Progress implements Disposable {
  readonly #output: TextOutput | undefined
  #total = 1
  #done = 0
  #shown = 0

  /** Prints nothing without `output`. */
  constructor(output: TextOutput | undefined) {
    this.#output = output
  }

  /** Shows that nothing is done yet. */
  start(): void {
    this.#print(0)
  }

  /** The work is `total` in any unit; 1 unless this is called. */
  measure(total: number): void {
    this.#total = total
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
  }

  [Symbol.dispose](): void {
    this.#output?.write('\n')
  }

  #print(percent: number): void {
    this.#shown = percent
    this.#output?.write(`    (${twoDecimals(percent)}/100%)\r`)
  }
}
