/** From a long conversation to the few commands that still make the daemons differ. */
import type { Message } from '../qmp-talk.ts'
import { type Outcome, replay, type Setting } from './conversation.ts'

export async function shrunk(setting: Setting, found: Outcome): Promise<Outcome> {
  let best = found
  const kind = kindOf(found)
  for (let size = Math.ceil(best.said.length / 2); size >= 1; size = Math.floor(size / 2)) {
    for (let end = best.said.length - 1; end > 0; end -= size) {
      const start = Math.max(0, end - size)
      const fewer: Message[] = best.said.toSpliced(start, end - start)
      const outcome = await replay(setting, fewer).catch((): Outcome => ({ said: fewer }))
      if (outcome.difference !== undefined && kindOf(outcome) === kind) best = outcome
    }
  }
  return best
}

/** Where they differ, in its first words. */
export function kindOf({ said, difference = '' }: Outcome): string {
  const places = difference.split('\n').filter((line) => !/^ {4}/.test(line))
  return `${String(said.at(-1)?.execute)} ${places.join(' ')}`
}

export function told({ said, difference }: Outcome): string {
  return `${said.map((step) => JSON.stringify(step)).join('\n')}\n${difference}`
}
