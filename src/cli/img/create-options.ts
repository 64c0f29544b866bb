/** `-o name=value,…` of new images: what a format offers, checked, listed and shown. */
import type { CreateOptionInfo } from '../../block/driver.ts'
import { type Creating, formatCreator, protocolOf } from '../../create-image.ts'
import { BlockError } from '../../errors.ts'
import type { NamedIo } from '../command.ts'
import { escapeCommas, parseOptionString } from '../keyval.ts'
import { CommandFailure } from './failure.ts'
import { parseSizeText, warnOfHex } from './size-text.ts'

export type CreateValue = string | number | boolean

/** All `-o` of a command line as one text; throws for what is no list of options. */
export function joinOptionLists(lists: readonly string[]): string {
  for (const list of lists) {
    const commasAtEnd = /,*$/.exec(list)?.[0].length ?? 0
    if (list === '' || list.startsWith(',') || commasAtEnd % 2 === 1) {
      throw new CommandFailure(`Invalid option list: ${list}`)
    }
  }
  return lists.join(',')
}

export function wantsHelp(optionList: string): boolean {
  const { options, shortForms } = parseOptionString(optionList)
  return (
    Object.keys(options).length > 0 &&
    shortForms.some(({ written }) => written === 'help' || written === '?')
  )
}

/** Options of a format, and of the protocol behind a file name where that is given. */
export function offeredOptions(
  { creator }: Creating,
  filename: string | undefined,
): readonly CreateOptionInfo[] {
  const below = filename === undefined ? [] : (protocolOf(filename).driver.creator?.options ?? [])
  const own = new Set(creator.options.map(({ name }) => name))
  return [...creator.options, ...below.filter(({ name }) => !own.has(name))]
}

/** What `-o help` prints. */
export function optionHelp(format: string, filename: string | undefined): string {
  const lines = optionLines(offeredOptions(formatCreator(format), filename))
  if (filename !== undefined) return `Supported options:\n${lines}`
  return (
    `Supported ${format} options:\n${lines}\n` +
    'The protocol level may support further options.\n' +
    'Specify the target filename to include those options.\n'
  )
}

/** A line an option, in order of their names. */
export function optionLines(offered: readonly CreateOptionInfo[]): string {
  return offered
    .map((option) => optionLine(option))
    .sort()
    .join('')
}

const typeNames = { size: 'size', str: 'str', bool: 'bool (on/off)', num: 'num' }

/** Width of the column of names. */
const nameWidth = 22

function optionLine({ name, type, description }: CreateOptionInfo): string {
  return `  ${`${name}=<${typeNames[type]}>`.padEnd(nameWidth)} - ${description}\n`
}

/** Names and types checked; which values are allowed is for the format to say. */
export function parseCreateOptions(
  offered: readonly CreateOptionInfo[],
  optionList: string,
  io: NamedIo,
): Record<string, CreateValue> {
  const values: Record<string, CreateValue> = {}
  for (const [name, text] of Object.entries(parseOptionString(optionList).options)) {
    const option = offered.find((each) => each.name === name)
    if (!option) throw invalid(`Invalid parameter '${name}'`)
    values[name] = typedValue(option, text, io)
  }
  return values
}

function typedValue({ name, type }: CreateOptionInfo, text: string, io: NamedIo): CreateValue {
  switch (type) {
    case 'str':
      return text
    case 'bool':
      if (text === 'on' || text === 'off') return text === 'on'
      throw invalid(`Parameter '${name}' expects 'on' or 'off'`)
    case 'num':
      if (/^(\d+|0x[0-9a-f]+)$/i.test(text)) return Number(text)
      throw invalid(`Parameter '${name}' expects a number`)
    case 'size':
      return sizeValue(name, text, io)
  }
}

function sizeValue(name: string, text: string, io: NamedIo): number {
  const parsed = parseSizeText(text)
  if (parsed.kind === 'size') {
    if (parsed.deprecatedHex) warnOfHex(text, io)
    return parsed.bytes
  }
  throw invalid(
    `Parameter '${name}' expects a non-negative number below 2^64\n` +
      'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
      'and exabytes, respectively.',
  )
}

/** Order and defaults in which qemu-img shows the options of qcow2; those of others follow. */
const shownOrder: readonly (readonly [string, string?])[] = [
  ['encryption'],
  ['encrypt.format'],
  ['encrypt.key-secret'],
  ['encrypt.cipher-alg'],
  ['encrypt.cipher-mode'],
  ['encrypt.ivgen-alg'],
  ['encrypt.ivgen-hash-alg'],
  ['encrypt.hash-alg'],
  ['encrypt.iter-time'],
  ['cluster_size', '65536'],
  ['extended_l2', 'off'],
  ['preallocation'],
  ['compression_type', 'zlib'],
  ['size'],
  ['compat'],
  ['backing_file'],
  ['backing_fmt'],
  ['data_file'],
  ['data_file_raw'],
  ['lazy_refcounts', 'off'],
  ['refcount_bits', '16'],
  ['nocow'],
  ['extent_size_hint'],
]

/** All others list their options in this order. */
const protocolOrder: readonly (readonly [string, string?])[] = [
  ['size'],
  ['key-secret'],
  ['cipher-alg'],
  ['cipher-mode'],
  ['ivgen-alg'],
  ['ivgen-hash-alg'],
  ['hash-alg'],
  ['iter-time'],
  ['nocow'],
  ['preallocation'],
  ['extent_size_hint'],
]

/** The line that announces a new image: `Formatting 'x', fmt=raw size=512`. */
export function formattingLine(
  filename: string,
  { name, creator }: Creating,
  values: Readonly<Record<string, CreateValue>>,
): string {
  const known = new Set(creator.options.map((option) => option.name))
  const order = known.has('cluster_size') ? shownOrder : protocolOrder
  const shown = order.flatMap(([option, fallback]) => {
    const value = values[option] ?? (known.has(option) ? fallback : undefined)
    return value === undefined ? [] : [` ${option}=${shownValue(value)}`]
  })
  return `Formatting '${filename}', fmt=${name}${shown.join('')}\n`
}

/** Sizes of 2^53 and more keep all their digits. */
function shownValue(value: CreateValue): string {
  if (typeof value === 'boolean') return value ? 'on' : 'off'
  return typeof value === 'number' ? BigInt(value).toString() : escapeCommas(value)
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
