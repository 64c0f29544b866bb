/**
 * Clusters of which only a part was written, since the file read as zeroes there already. Space for the rest
 * of them is taken when there is time for it: as with QEMU a cluster that has data lies in the file as a whole,
 * so a later write to it needs no space, and cannot fail for want of it.
 */
import type { ByteRange } from '../../bytes/range.ts'

/** Further ones stay as they are: sparse, which harms nobody. */
const maxRuns = 4096

export class LeftOut {
  /** In the order of the file; none touches the next. */
  #runs: { start: number; end: number }[] = []

  get count(): number {
    return this.#runs.length
  }

  add(offset: number, length: number): void {
    const end = offset + length
    const last = this.#runs.at(-1)
    if (last && offset >= last.start && offset <= last.end) last.end = Math.max(last.end, end)
    else if (!last || offset > last.end) this.#push(offset, end)
    else this.#insert(offset, end)
  }

  /** What is free again needs no space. */
  drop(offset: number, length: number): void {
    if (this.#runs.length === 0) return
    const end = offset + length
    if (this.#runs[0].start >= end || (this.#runs.at(-1)?.end ?? 0) <= offset) return
    this.#runs = this.#runs.flatMap((run) => without(run, offset, end))
  }

  /** All of them, of which none is left here. */
  take(): ByteRange[] {
    const runs = this.#runs
    this.#runs = []
    return runs.map(({ start, end }) => ({ offset: start, length: end - start }))
  }

  #push(start: number, end: number): void {
    if (this.#runs.length < maxRuns) this.#runs.push({ start, end })
  }

  /** Clusters are given out upwards, mostly. */
  #insert(start: number, end: number): void {
    if (this.#runs.length >= maxRuns) return
    const apart = this.#runs.filter((run) => run.end < start || run.start > end)
    const touching = this.#runs.filter((run) => run.end >= start && run.start <= end)
    const joined = {
      start: Math.min(start, ...touching.map((run) => run.start)),
      end: Math.max(end, ...touching.map((run) => run.end)),
    }
    this.#runs = [...apart, joined].sort((a, b) => a.start - b.start)
  }
}

function without(run: { start: number; end: number }, start: number, end: number) {
  if (run.end <= start || run.start >= end) return [run]
  const rest = [
    { start: run.start, end: start },
    { start: end, end: run.end },
  ]
  return rest.filter((part) => part.end > part.start)
}
