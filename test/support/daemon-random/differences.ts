/** What is right to differ between two daemons that were given the same command line, with the reason. */

interface Difference {
  readonly reason: string
  readonly line?: RegExp
  readonly theirs?: RegExp
  readonly ours?: RegExp
}

const rightly: readonly Difference[] = [
  {
    reason: 'the help is of our own options, in our own words',
    line: /--help/,
    theirs: /^status 0\nUsage/,
  },
  {
    reason: 'no such driver, object or socket here',
    ours: /(?:accept value '(?:bochs|tls-cipher-suites|memory-backend-ram)'|'vsock')/,
  },
  {
    reason: 'of several that are unexpected each names one',
    theirs: /is unexpected/,
    ours: /is unexpected/,
  },
]

/** Whether that may differ. */
export function isRight(line: readonly string[], theirs: string, ours: string): boolean {
  const given = line.join(' ')
  return rightly.some(
    (each) =>
      (each.line?.test(given) ?? true) &&
      (each.theirs?.test(theirs) ?? true) &&
      (each.ours?.test(ours) ?? true),
  )
}
