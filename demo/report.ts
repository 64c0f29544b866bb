/** What the demo prints: one line a step while it works, then what was seen and what was proved. */
import { styleText } from 'node:util'

export interface Check {
  readonly passed: boolean
  readonly what: string
  /** Shown when it failed. */
  readonly why?: string
}

export function mebibytes(bytes: number): string {
  return `${(bytes / 1024 ** 2).toFixed(bytes < 10 * 1024 ** 2 ? 1 : 0)} MiB`
}

export function seconds(value: number): string {
  return `${value.toFixed(1)} s`
}

export function rate(bytes: number, time: number): string {
  return `${mebibytes(bytes / Math.max(time, 0.001))}/s`
}

export function milliseconds(value: number): string {
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`
}

/** Columns as wide as they need; all but the first are flush right. */
export function table(title: string, head: readonly string[], rows: readonly string[][]): string {
  const all = [head, ...rows]
  const widths = head.map((_, column) => Math.max(...all.map((row) => row[column].length)))
  const lineOf = (row: readonly string[]) =>
    row
      .map((cell, column) =>
        column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]),
      )
      .join('   ')
  const lines = [strong(title), faint(lineOf(head)), ...rows.map(lineOf)]
  return `\n${lines.join('\n  ')}\n`
}

export function verdict(checks: readonly Check[]): string {
  const lines = checks.map(({ passed, what, why }) =>
    passed
      ? `${styleText('green', 'PASS')}  ${what}`
      : `${styleText('red', 'FAIL')}  ${what}${why === undefined ? '' : `: ${why}`}`,
  )
  return `\n${lines.join('\n')}\n`
}

export function strong(text: string): string {
  return styleText('bold', text)
}

export function faint(text: string): string {
  return styleText('dim', text)
}
