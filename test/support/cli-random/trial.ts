/** Two folders that are kept alike, and the same command line in both. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { bring, changed, difference, type Judge, listing } from './left-behind.ts'
import { type Answer, comparable, ours, type Tool, theirs } from './programs.ts'
import { accepted, acceptedFiles, judgesFor, unfit } from './rules.ts'

export interface Finding {
  readonly tool: Tool
  readonly args: readonly string[]
  readonly ours: Answer
  readonly theirs: Answer
  /** What of the files differs. */
  readonly files?: string
}

/** No image of a world grows beyond it; a world in which one did is made anew. */
const largestFile = 64 * 1024 * 1024

export class Trial {
  readonly ours: string
  readonly theirs: string
  readonly #pool: string

  /** `pool` is a world that stays as it is; `folder` is for copies of it. */
  constructor(folder: string, pool: string) {
    this.ours = join(folder, 'o')
    this.theirs = join(folder, 'q')
    this.#pool = pool
  }

  /** The world as it was at first. */
  renew(): void {
    for (const folder of [this.ours, this.theirs]) {
      rmSync(folder, { recursive: true, force: true })
      mkdirSync(folder, { recursive: true })
      execFileSync('cp', ['-a', `${this.#pool}/.`, folder])
    }
  }

  /** What differs, if anything. Afterwards both folders are alike: as `leader` left its own. */
  async run(tool: Tool, args: readonly string[], leader: 'o' | 'q'): Promise<Finding | undefined> {
    if (unfit(tool, args)) return undefined
    const folders = [this.ours, this.theirs] as const
    const before = folders.map(listing)
    const [mine, other] = (
      await Promise.all([ours(tool, this.ours, args), theirs(tool, this.theirs, args)])
    ).map(comparable)
    const touched = new Set(folders.flatMap((folder, at) => changed(before[at], listing(folder))))
    const reason = accepted(args, mine, other)
    const same = JSON.stringify(mine) === JSON.stringify(other)
    // Of what could not be made qemu-img leaves less; docs/cli/img.md.
    const found =
      same && mine.status === 0 ? await this.#filesOf([...touched], judgesFor(args[0])) : undefined
    const files = found && acceptedFiles(args, found) ? undefined : found
    const alike = (same && files === undefined) || reason !== undefined
    const [from, to] = leader === 'o' && alike ? folders : folders.toReversed()
    bring([...touched], from, to)
    // A copy may have holes where the original has none; now both are copies.
    bring([...touched], to, from)
    if (this.#outgrown([...touched])) this.renew()
    return alike ? undefined : { tool, args, ours: mine, theirs: other, files }
  }

  async #filesOf(names: readonly string[], judges: readonly Judge[]): Promise<string | undefined> {
    for (const name of names) {
      const found = await difference(name, this.ours, this.theirs, judges)
      if (found !== undefined) return `${name}: ${found}`
    }
    return undefined
  }

  #outgrown(names: readonly string[]): boolean {
    return names.some((name) => {
      const stat = statSync(join(this.theirs, name), { throwIfNoEntry: false })
      return (stat?.size ?? 0) > largestFile
    })
  }
}
