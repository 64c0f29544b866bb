/**
 * Long writes to one file, few at a time. A file system lets one writer into a file; the others
 * would each burn a processor, and hold a thread of the pool, while they wait (three times the
 * system time, measured on ext4). One may wait there already when another ends: without it the file
 * would rest while the event loop hears of the end. Writes that somebody waits for pass those of jobs.
 */
const places = 2

/** As many of them in a row, when others wait, too. */
const maxInRow = 8

export class WriteQueue {
  #free = places
  #inRow = 0
  readonly #urgent: (() => void)[] = []
  readonly #background: (() => void)[] = []

  /** Runs `work` when it is its turn. */
  async pass<T>(background: boolean, work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) {
      this.#free--
    } else {
      const queue = background ? this.#background : this.#urgent
      await new Promise<void>((resolve) => queue.push(resolve))
    }
    try {
      return await work()
    } finally {
      const next = this.#next()
      if (next) next()
      else this.#free++
    }
  }

  #next(): (() => void) | undefined {
    const patient = this.#background.length === 0 || this.#inRow < maxInRow
    const urgent = patient ? this.#urgent.shift() : undefined
    this.#inRow = urgent ? this.#inRow + 1 : 0
    return urgent ?? this.#background.shift() ?? this.#urgent.shift()
  }
}
