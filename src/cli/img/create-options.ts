/** `-o name=value,…` of new images: what a format offers, checked, listed and shown. */
import type { BlockDriver, CreateOptionInfo } from '../../block/driver.ts'
import { type Creating, formatCreator, protocolOf } from '../../create-image.ts'
import { placeOptions } from '../../create-in-place.ts'
import { invalid } from '../../errors.ts'
import type { NamedIo } from '../command.ts'
import { escapeCommas, parseOptionString } from '../keyval.ts'
import { CommandFailure } from './failure.ts'
import { parseSizeText, sizeFault, warnOfHex, wholeNumber } from './size-text.ts'

export type CreateValue = string | number | boolean

/** Throws for what is no list of options, and could not be joined with another one by a comma. */
export function checkOptionList(list: string): void {
  const commasAtEnd = /,*$/.exec(list)?.[0].length ?? 0
  if (list === '' || list.startsWith(',') || commasAtEnd % 2 === 1) {
    throw new CommandFailure(`Invalid option list: ${list}`)
  }
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
  const below = filename === undefined ? [] : storageOptions(protocolOf(filename).driver)
  const own = new Set(creator.options.map(({ name }) => name))
  return [...creator.options, ...below.filter(({ name }) => !own.has(name))]
}

function storageOptions({ creator, createsInPlace }: BlockDriver): readonly CreateOptionInfo[] {
  return createsInPlace ? placeOptions : (creator?.options ?? [])
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

const wordsForOn = ['on', 'yes', 'true', 'y']
const wordsForOff = ['off', 'no', 'false', 'n']

/** Whether an option of type `bool` was given and is on. */
export function isOn(value: CreateValue | undefined): boolean {
  return value === true || wordsForOn.includes(String(value))
}

function typedValue({ name, type }: CreateOptionInfo, text: string, io: NamedIo): CreateValue {
  switch (type) {
    case 'str':
      return text
    case 'bool':
      // As it was said, for that is how it is shown.
      if (wordsForOn.includes(text) || wordsForOff.includes(text)) return text
      throw invalid(`Parameter '${name}' expects 'on' or 'off'`)
    case 'num':
      if (!Number.isNaN(wholeNumber(text))) return numberValue(name, text)
      throw invalid(`Parameter '${name}' expects a number`)
    case 'size':
      return sizeValue(name, text, io)
  }
}

function numberValue(name: string, text: string): number {
  const number = wholeNumber(text)
  if (Math.abs(number) < 2 ** 64) return number
  throw invalid(`Value '${text}' is too large for parameter '${name}'`)
}

function sizeValue(name: string, text: string, io: NamedIo): number {
  const parsed = parseSizeText(text)
  if (parsed.kind === 'size') {
    if (parsed.deprecatedHex) warnOfHex(text, io)
    return parsed.bytes
  }
  throw invalid(sizeFault(name, text))
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
