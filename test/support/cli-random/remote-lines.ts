/** Random command lines of which one image is behind an NBD server. */
import type { Random } from '../random.ts'
import { imgLine } from './img-lines.ts'
import { ioLine } from './io-lines.ts'
import { files, type WorldFile } from './world.ts'

export interface RemoteLine {
  readonly tool: 'img' | 'io'
  /** The words behind the program's name; the server's socket is `sock`. */
  readonly words: readonly string[]
  /** The file that is served, as it is. */
  readonly served: string
  readonly readOnly: boolean
  readonly exportName: string
}

const names = ['r', 'big.raw', 'odd', 'a', 'b', 'snaps', 'maps', 'comp', 'ext', 'old', 'outside']
const servable = files.filter(({ name }) => names.includes(name))

export function remoteLine(random: Random): RemoteLine {
  const file = random.pick(servable)
  const tool = random.chance(0.7) ? 'img' : 'io'
  const exportName = random.chance(0.8) ? '' : 'x'
  const url = spelled(random, file, exportName)
  const words = lineWith(random, tool, file.name).map((word) =>
    ownWord(word, file.name) ? word.replace(file.name, url) : word,
  )
  return { tool, words, served: file.name, readOnly: random.chance(0.2), exportName }
}

/** One in which the name is a word of its own, once. */
function lineWith(random: Random, tool: 'img' | 'io', name: string): string[] {
  for (;;) {
    const words = tool === 'img' ? imgLine(random) : ioLine(random)
    if (words.filter((word) => ownWord(word, name)).length === 1) return words
  }
}

const ownWord = (word: string, name: string) => word === name || word === `if=${name}`

function spelled(random: Random, { format }: WorldFile, exportName: string): string {
  const wanted = random.chance(0.93) ? exportName : random.pick(['', 'x', 'other'])
  const query = wanted === '' ? '' : `:exportname=${wanted}`
  const member = wanted === '' ? '' : `,"export":"${wanted}"`
  return random.pick([
    `nbd+unix:///${wanted}?socket=sock`,
    `nbd+unix:///${wanted}?socket=sock`,
    `nbd:unix:sock${query}`,
    `json:{"driver":"${format}","file":{"driver":"nbd","server":{"type":"unix","path":"sock"}${member}}}`,
    `json:{"driver":"nbd","path":"sock"${member}}`,
    'nbd+unix:///?socket=nosock',
    'nbd:unix:',
    'nbd+unix:///x',
    'nbd+unix://',
    'nbd:nonsense',
    'nbd:',
  ])
}
