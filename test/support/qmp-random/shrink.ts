/** From a long conversation to the few commands that still make the daemons differ. */
import type { Message } from '../qmp-talk.ts'
import { type Outcome, replay, type Setting } from './conversation.ts'

/** In a folder of its own, beside the conversation that may go on. */
export async function shrunk(given: Setting, found: Outcome): Promise<Outcome> {
  const setting = { ...given, folder: `${given.folder}-shrunk` }
  const kind = kindOf(found)
  const closer = await replay(setting, related(found.said)).catch(() => undefined)
  let best = closer && kindOf(closer) === kind ? closer : found
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

/** Those that have to do with the last one: what they name leads to it. */
function related(said: readonly Message[]): Message[] {
  const names = new Set<string>()
  return said
    .toReversed()
    .filter((step, index) => {
      const named: string[] = JSON.stringify(step).match(/"[njmeoc]\d+"/g) ?? []
      const isServed = 'guest' in step || /nbd-server|export/.test(String(step.execute))
      const server = isServed ? ['server'] : []
      const own = [...named, ...server]
      if (index > 0 && !own.some((name) => names.has(name))) return false
      for (const name of own) names.add(name)
      return true
    })
    .reverse()
}

/** What was said last and what came of it, whatever the names. */
export function kindOf({ said, difference = '' }: Outcome): string {
  const text = difference.replaceAll(/\b[njmexoc]\d+\b/g, 'N').replaceAll(/\.\d+\b/g, '.I')
  return `${String(said.at(-1)?.execute)} ${text}`
}

export function told({ said, difference }: Outcome): string {
  return `${said.map((step) => JSON.stringify(step)).join('\n')}\n${difference}`
}
