/** The configuration file: groups in brackets, in each lines of `name = "value"`. */
import { readFile } from 'node:fs/promises'
import { BlockError, errnoOf, strerror } from '../../errors.ts'
import type { RuleKind, Section } from './rule-options.ts'

export interface ConfigSection {
  readonly kind: RuleKind
  readonly section: Section
}

/** The options of each group; anything else is refused as a misspelling. */
const known: Readonly<Record<RuleKind, readonly string[]>> = {
  'inject-error': ['event', 'state', 'iotype', 'errno', 'sector', 'once', 'immediately'],
  'set-state': ['event', 'state', 'new_state'],
}

/** Bytes of the largest file that is read. */
const maxConfigLength = 1024 * 1024

export async function readConfig(path: string): Promise<ConfigSection[]> {
  return parseConfig(await readText(path), path)
}

async function readText(path: string): Promise<string> {
  try {
    const bytes = await readFile(path)
    if (bytes.length <= maxConfigLength) return bytes.toString('latin1')
  } catch (cause) {
    const errno = errnoOf(cause) ?? 'EIO'
    throw new BlockError(
      'INVALID_ARGUMENT',
      `Could not read blkdebug config file: ${strerror(errno)}`,
      { path, errno, cause },
    )
  }
  throw invalid(`the blkdebug config file has more than ${maxConfigLength} bytes`, path)
}

export function parseConfig(text: string, path: string): ConfigSection[] {
  const sections: { kind: RuleKind; section: Record<string, unknown> }[] = []
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue
    const group = /^\[([^\]\s"]+)(?:\s+"[^"]*")?\]/.exec(line)
    if (group) {
      if (!isRuleKind(group[1])) throw invalid(`There is no option group '${group[1]}'`, path)
      sections.push({ kind: group[1], section: {} })
      continue
    }
    const pair = /^\s*(\S+)(?:\s+=\s*"([^"]*)")?/.exec(line)
    if (!pair || (line.startsWith('[') && sections.length === 0)) continue
    const last = sections.at(-1)
    if (!last) throw invalid('no group defined', path)
    const [, name, value = ''] = pair
    if (!known[last.kind].includes(name)) throw invalid(`Invalid parameter '${name}'`, path)
    last.section[name] = value
  }
  return sections
}

function isRuleKind(name: string): name is RuleKind {
  return Object.hasOwn(known, name)
}

function invalid(message: string, path: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { path, errno: 'EINVAL' })
}
