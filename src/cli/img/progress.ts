/**
 * `-p`: the share of the work that is done, rewritten on one line, as QEMU's tools print it. Without
 * it, SIGUSR1 has the share printed once, on standard error.
 */
import { MiB } from '../../bytes/range.ts'
import type { PlainIo, TextOutput } from '../command.ts'
import { twoDecimals } from './percent.ts'

/** Percent that have to pass before the line is printed again, unless given; the end always is. */
const usualStep = 1

/** QEMU copies in pieces of two MiB; longer ones of ours are shown as several. */
const pieceLength = 2 * MiB

/** `using`: the line ends with what it is about, however that ended. */
export class Progress implements Disposable {
  readonly #output: TextOutput | undefined
  readonly #errors: TextOutput
  readonly #step: number
  /** Somebody has sent a signal since. */
  #asked = false
  #total = 1
  #done = 0
  #shown = 0

  /** `shown`: that `-p` is given. */
  constructor({ stdout, stderr }: PlainIo, shown: boolean, step = usualStep) {
    this.#step = step
    this.#output = shown ? stdout : undefined
    this.#errors = stderr
    // With -p as well: left to itself, Node would start a debugger.
    process.on('SIGUSR1', this.#ask)
  }

  readonly #ask = () => {
    this.#asked = true
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
    const ends = percent >= 100 && this.#shown < 100
    if (percent - this.#shown > this.#step || ends) this.#print(Math.min(percent, 100))
  }

  /** As `add`, for so many bytes that were copied at a time. */
  copied(bytes: number): void {
    for (let left = bytes; left > 0; left -= pieceLength) this.add(Math.min(left, pieceLength))
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
    process.off('SIGUSR1', this.#ask)
    this.#output?.write('\n')
  }

  #print(percent: number): void {
    this.#shown = percent
    const text = `    (${twoDecimals(percent)}/100%)`
    if (!this.#output && this.#asked) this.#errors.write(`${text}\n`)
    this.#asked = false
    this.#output?.write(`${text}\r`)
    this.#output?.flush?.()
  }
}
