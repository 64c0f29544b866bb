/** Differences of served images that are as they should be; each with its reason. */
import type { Serving } from './nbd-serving.ts'
import type { Served } from './nbd-trial.ts'

interface Rule {
  readonly why: string
  applies(line: Serving, ours: Served, theirs: Served): boolean
}

const rules: readonly Rule[] = [
  {
    why: 'it listens before it opens the image; mistakes are for cli-random.test.ts',
    applies: (_, ours, theirs) => theirs.server.status === 1 && ours.server.status === 1,
  },
  {
    why: 'behind a window of raw it loses sight of backing files: what they have is a hole to it',
    applies: (line) => line.words.includes('-o'),
  },
]

/** Why this difference stays. */
export function acceptedServing(line: Serving, ours: Served, theirs: Served): string | undefined {
  return rules.find((rule) => rule.applies(line, ours, theirs))?.why
}
