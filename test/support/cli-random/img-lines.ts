/** Random command lines for qemu-img, spelled in all the ways that getopt knows. */
import type { Random } from '../random.ts'
import { type Command, commands, type Option, type Subject } from './img-commands.ts'
import { secretWords } from './secrets.ts'
import * as value from './values.ts'

const longNames = [
  ...new Set(
    Object.values(commands).flatMap(({ options }) => options.flatMap((o) => o.long ?? [])),
  ),
]

/** One command line: the words behind the program's name. */
export function imgLine(random: Random): string[] {
  const [name, command] = drawCommand(random)
  const subject = { file: value.file(random), other: value.file(random) }
  const words: string[] = []
  let operands = command.operands(random, subject)
  for (const option of command.options) {
    for (let chance = option.chance ?? 0.15; random.chance(chance); chance = 0.05) {
      words.push(...spell(random, option, subject))
    }
  }
  if (command.imageOpts && random.chance(subject.file.secret ? 0.8 : 0.12)) {
    words.push(random.chance(0.9) ? '--image-opts' : '--image-o')
    // The file's name gives way; dd has it behind `if=`.
    operands = operands.map((word) =>
      word === subject.file.name || word === `if=${subject.file.name}`
        ? word.replace(subject.file.name, value.optionString(random, subject.file))
        : word,
    )
    const at = words.findIndex((word) => word.startsWith('-f'))
    if (at >= 0 && random.chance(0.8)) words.splice(at, words[at] === '-f' ? 2 : 1)
  }
  const needsKey = subject.file.secret || words.join().includes('secret=k')
  if (needsKey && random.chance(0.9)) words.unshift(...secretWords(random))
  if (random.chance(0.01)) words.push(`--${random.pick(longNames)}`)
  const all = random.chance(0.85) ? [...words, ...operands] : [...operands, ...words]
  const line = [name, ...value.mangled(random, all)]
  return random.chance(0.004) ? value.mangled(random, line) : line
}

function drawCommand(random: Random): [string, Command] {
  const all = Object.entries(commands)
  let at = random.next() * all.reduce((sum, [, { weight = 1 }]) => sum + weight, 0)
  const drawn = all.find(([, { weight = 1 }]) => {
    at -= weight
    return at < 0
  })
  return drawn ?? all[0]
}

function spell(random: Random, option: Option, subject: Subject): string[] {
  const { short, long, value: draw } = option
  const given = draw?.(random, subject)
  if (short && (!long || random.chance(0.6))) {
    if (given === undefined) return [`-${short}`]
    return random.chance(0.8) ? [`-${short}`, given] : [`-${short}${given}`]
  }
  const name = long ?? ''
  const shown = random.chance(0.92) ? name : name.slice(0, 2 + random.below(name.length))
  if (given === undefined) return random.chance(0.98) ? [`--${shown}`] : [`--${shown}=x`]
  return random.chance(0.6) ? [`--${shown}=${given}`] : [`--${shown}`, given]
}
