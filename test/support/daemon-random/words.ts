/** Words of options: which of them are there, how they are joined, and how one goes wrong. */
import type { Random } from '../random.ts'

/** Each with its own chance to be there. */
export function some(random: Random, chance: number, words: readonly string[]): string[] {
  return words.filter(() => random.chance(chance))
}

/** With commas, those inside doubled; at times in another order. */
export function joined(random: Random, words: readonly string[]): string {
  const [first, ...rest] = words.map((word) => word.replaceAll(',', ',,'))
  return [first, ...(random.chance(0.2) ? random.shuffled(rest) : rest)].join(',')
}

/** A character is lost, doubled, or another one. */
export function spoilt(random: Random, text: string): string {
  if (text.length === 0) return ','
  const at = random.below(text.length)
  const other = random.pick(['', text[at] + text[at], ',', '=', '.', '"', 'é', ' '])
  return text.slice(0, at) + other + text.slice(at + 1)
}
