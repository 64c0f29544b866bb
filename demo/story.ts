/** What the demo does, as it is told at the end. */
import type { Span } from './guest.ts'
import { type Check, mebibytes, milliseconds, rate, seconds, table, verdict } from './report.ts'

/** Writes of the guest in flight. */
export const guestWorkers = 8

export interface Step {
  readonly what: string
  readonly bytes: number
  readonly seconds: number
  readonly result: string
}

export interface Story {
  readonly folder: string
  readonly signal: AbortSignal
  readonly steps: Step[]
  readonly spans: { readonly when: string; readonly span: Span }[]
  readonly checks: Check[]
}

export function print({ steps, spans, checks }: Story): void {
  const stepRows = steps.map(({ what, bytes, seconds: time, result }) => [
    what,
    mebibytes(bytes),
    seconds(time),
    rate(bytes, time),
    result,
  ])
  console.log(table('What was done', ['', 'size', 'time', 'rate', 'result'], stepRows))
  const spanRows = spans.map(({ when, span }) => [
    when,
    String(span.writes),
    rate(span.bytes, span.seconds),
    milliseconds(span.mostMs),
    milliseconds(span.longestMs),
  ])
  const head = ['', 'writes', 'rate', '99 of 100 within', 'longest wait']
  console.log(table(`How long guest writes waited, ${guestWorkers} at a time`, head, spanRows))
  console.log(verdict(checks))
}
