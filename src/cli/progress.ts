/** Progress of a long command: a bar for a person, a JSON object a line for a program, or nothing. */
import type { Writable } from 'node:stream'
import cliProgress from 'cli-progress'
import { sizeText } from './img/size-text.ts'

export const progressModes = ['auto', 'bar', 'json', 'none'] as const
export type ProgressMode = (typeof progressModes)[number]

export const progressHelp = 'how it is shown; auto is a bar on a terminal and nothing elsewhere'

export interface Progress {
  /** Bytes done so far and to be done in all; the latter may change. Never waits. */
  update(done: number, total: number): void
  /** Leaves the line; whoever shows progress calls it in the end, whatever happened. */
  stop(): void
}

export interface ProgressOptions {
  readonly mode: ProgressMode
  /** One word in front of the bar: `backup`. */
  readonly label: string
  /** Where the bar goes; `auto` shows one only on a terminal. */
  readonly terminal: Writable
  /** Where JSON goes. */
  readonly lines: Writable
}

export function openProgress(options: ProgressOptions): Progress {
  const { mode, terminal, lines } = options
  const shown = mode === 'auto' ? (isTerminal(terminal) ? 'bar' : 'none') : mode
  if (shown === 'bar') return new BarProgress(options.label, terminal)
  return shown === 'json' ? new JsonProgress(lines) : { update() {}, stop() {} }
}

export function isTerminal(stream: Writable): boolean {
  return 'isTTY' in stream && stream.isTTY === true
}

/** How long the past is that a rate is taken from. */
const windowMs = 5000

/** The rate of a work, and how long it may still take. */
export class Meter {
  readonly #samples: { readonly at: number; readonly done: number }[] = []

  /** `at` in milliseconds, never going back. */
  add(done: number, at: number): void {
    this.#samples.push({ at, done })
    while (this.#samples.length > 2 && at - this.#samples[1].at >= windowMs) this.#samples.shift()
  }

  /** Bytes a second over the last moments; 0 as long as nothing is known. */
  get rate(): number {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)]
    if (!first || !last || last.at === first.at) return 0
    return Math.max(0, ((last.done - first.done) * 1000) / (last.at - first.at))
  }

  /** Undefined when it cannot be told. */
  secondsLeft(done: number, total: number): number | undefined {
    if (done >= total) return 0
    return this.rate === 0 ? undefined : (total - done) / this.rate
  }
}

/** At most how often a line is written. */
const lineMs = 250

/** Drawn ten times a second on a terminal, every two seconds elsewhere. */
class BarProgress implements Progress {
  readonly #bar: cliProgress.SingleBar
  readonly #meter = new Meter()
  #started = false

  constructor(label: string, terminal: Writable) {
    const format: cliProgress.GenericFormatter = (options, { progress, value, total }) =>
      [
        `${label} [${barOf(options, progress)}] ${percentText(progress)}`,
        `${sizeText(value)} of ${sizeText(total)}`,
        `${sizeText(this.#meter.rate)}/s`,
        `${leftText(this.#meter.secondsLeft(value, total))} left`,
      ].join('  ')
    this.#bar = new cliProgress.SingleBar({
      format,
      stream: terminal as NodeJS.WritableStream,
      barsize: 24,
      emptyOnZero: true,
      hideCursor: true,
      noTTYOutput: true,
      clearOnComplete: true,
      synchronousUpdate: false,
      // Signals are the command's own business.
      gracefulExit: false,
    })
  }

  update(done: number, total: number): void {
    this.#meter.add(done, performance.now())
    if (this.#started) this.#bar.setTotal(total)
    else this.#bar.start(total, done)
    this.#started = true
    this.#bar.update(done)
  }

  stop(): void {
    this.#bar.stop()
  }
}

function barOf({ barsize = 24 }: cliProgress.Options, progress: number): string {
  const filled = Math.round(barsize * Math.min(1, progress))
  return '#'.repeat(filled) + '.'.repeat(barsize - filled)
}

function percentText(progress: number): string {
  return `${Math.floor(100 * Math.min(1, progress))}%`.padStart(4)
}

/** `8 s`, `3 min 20 s`, `2 h 5 min`. */
function durationText(seconds: number): string {
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}

/** Since a value of `performance.now()`, to the millisecond. */
export function secondsSince(started: number): number {
  return Math.round(performance.now() - started) / 1000
}

/** How long something took: `2.3 s`, `3 min 20 s`. */
export function takenText(seconds: number): string {
  return seconds < 10 ? `${seconds.toFixed(1)} s` : durationText(seconds)
}

function leftText(seconds: number | undefined): string {
  return seconds === undefined ? '?' : durationText(seconds)
}

class JsonProgress implements Progress {
  readonly #lines: Writable
  readonly #meter = new Meter()
  #writtenAt = -Infinity
  #last: { done: number; total: number } | undefined
  #news = false

  constructor(lines: Writable) {
    this.#lines = lines
  }

  update(done: number, total: number): void {
    this.#last = { done, total }
    this.#news = true
    const now = performance.now()
    if (now - this.#writtenAt >= lineMs) this.#write(now)
  }

  stop(): void {
    if (this.#news) this.#write(performance.now())
  }

  #write(now: number): void {
    if (!this.#last) return
    const { done, total } = this.#last
    this.#writtenAt = now
    this.#news = false
    this.#meter.add(done, now)
    const left = this.#meter.secondsLeft(done, total)
    const line = {
      event: 'progress',
      done,
      total,
      rate: Math.round(this.#meter.rate),
      secondsLeft: left === undefined ? null : Math.ceil(left),
    }
    this.#lines.write(`${JSON.stringify(line)}\n`)
  }
}
