import type { Comparison } from '../pairs.ts'

export interface BenchOptions {
  /** A folder for files, removed afterwards. */
  readonly folder: string
  /** Pairs of runs. */
  readonly runs: number
  /** Seconds of rest before each run, for machines whose host takes back what is free. */
  readonly rest: number
  /** Smaller files and shorter runs: shows that the rows work, not how fast we are. */
  readonly quick: boolean
}

/** One or more lines of the table. `name` is what `--only` selects by. */
export interface Row {
  readonly name: string
  measure(options: BenchOptions): AsyncIterable<Comparison>
}
