/** The command line of `varve snap`: qemu-snap's options with its rules, and those of our own. */
import { parseSize } from '../../block/options.ts'
import { isPowerOfTwo, KiB } from '../../bytes/range.ts'
import { type LongOption, OptionParser } from '../getopt.ts'
import { type CacheMode, cacheMode } from '../open-image.ts'
import { SnapFailure } from './failure.ts'

/** Commands, with the fewest and the most files that each takes. */
const commands = {
  save: { files: [1, 1] },
  load: { files: [1, 1] },
  take: { files: [1, 1] },
  resume: { files: [1, 1] },
  inspect: { files: [1, 1] },
  verify: { files: [1, Number.POSITIVE_INFINITY] },
  diff: { files: [2, 2] },
  convert: { files: [2, 2] },
} as const

export type CommandName = keyof typeof commands

const conversions = ['image', 'stream', 'mapped-ram', 'internal', 'raw', 'elf'] as const
export type Conversion = (typeof conversions)[number]

export interface SnapArguments {
  readonly command: CommandName
  readonly files: readonly string[]
  /** Bytes. */
  readonly imageSize?: number
  /** Of a target page; bytes. */
  readonly pageSize: number
  /** 0 to 100. */
  readonly postcopy?: number
  readonly cache?: CacheMode
  /** Where the other end of the stream is; standard input and output unless given. */
  readonly uri?: string
  /** Bytes a second, of pages that nobody waits for. */
  readonly speed?: number
  readonly recover: boolean
  /** Tell on standard error what happens. */
  readonly trace: boolean
  readonly noDescription: boolean
  readonly json: boolean
  /** Whose pages a new image shares. */
  readonly base?: string
  readonly compress: boolean
  /** What to convert to. */
  readonly format: Conversion
  /** Name of an internal snapshot. */
  readonly snapshot?: string
  /** The monitor of the QEMU that is driven. */
  readonly qmp?: string
  /** Where QEMU and this process meet, instead of a socket in a folder of its own. */
  readonly socket?: string
  readonly mode?: 'background' | 'live'
  /** NODE=FILE: overlays that disks get at the moment of the snapshot. */
  readonly disks: readonly { readonly disk: string; readonly file: string }[]
  readonly keepPaused: boolean
  /** Do not ask whether there is space for all RAM. */
  readonly force: boolean
  /** Bytes of RAM below 4 GiB of a guest's addresses, unless the machine tells. */
  readonly below4G?: number
}

export type Parsed = SnapArguments | 'help' | 'version'

interface OptionRule {
  readonly name: string
  readonly short?: string
  readonly argument?: 'required'
  readonly commands: readonly CommandName[]
}

const rules: readonly OptionRule[] = [
  { name: 'image-size', short: 's', argument: 'required', commands: ['save', 'convert'] },
  {
    name: 'page-size',
    short: 'S',
    argument: 'required',
    commands: ['save', 'load', 'take', 'convert'],
  },
  { name: 'postcopy', short: 'p', argument: 'required', commands: ['load', 'resume'] },
  {
    name: 'nocache',
    short: 'n',
    commands: ['save', 'load', 'take', 'resume', 'verify', 'convert'],
  },
  {
    name: 'cache',
    argument: 'required',
    commands: ['save', 'load', 'take', 'resume', 'verify', 'convert'],
  },
  {
    name: 'aio',
    argument: 'required',
    commands: ['save', 'load', 'take', 'resume', 'verify', 'convert'],
  },
  { name: 'trace', short: 't', commands: ['save', 'load', 'take', 'resume'] },
  { name: 'uri', argument: 'required', commands: ['save', 'load'] },
  { name: 'speed', argument: 'required', commands: ['load', 'resume'] },
  { name: 'recover', commands: ['load'] },
  { name: 'no-description', commands: ['save', 'take', 'convert'] },
  { name: 'json', commands: Object.keys(commands) as CommandName[] },
  { name: 'base', argument: 'required', commands: ['save', 'take', 'convert'] },
  { name: 'compress', short: 'c', commands: ['save', 'take', 'convert'] },
  { name: 'format', short: 'O', argument: 'required', commands: ['convert'] },
  { name: 'snapshot', argument: 'required', commands: ['inspect', 'convert'] },
  { name: 'qmp', argument: 'required', commands: ['take', 'resume'] },
  { name: 'socket', argument: 'required', commands: ['take', 'resume'] },
  { name: 'mode', argument: 'required', commands: ['take'] },
  { name: 'disk', argument: 'required', commands: ['take'] },
  { name: 'paused', commands: ['resume'] },
  { name: 'force', commands: ['take'] },
  { name: 'below-4g', argument: 'required', commands: ['convert'] },
]

const short = `hV${rules.map((rule) => (rule.short ? rule.short + (rule.argument ? ':' : '') : '')).join('')}`

const long: readonly LongOption[] = [
  { name: 'help', as: 'h' },
  { name: 'version', as: 'V' },
  ...rules.map(({ name, argument }) => ({ name, argument })),
]

const defaultPageSize = 4096
const maxPageSize = 16 * KiB
const minPageSize = 1 * KiB

type Given = ReadonlyMap<string, string>

/** Throws `SnapFailure`. */
export function parseArguments(words: readonly string[]): Parsed {
  const given = new Map<string, string>()
  const disks: SnapArguments['disks'][number][] = []
  const parser = new OptionParser(words, short, long)
  for (let option = parser.next(); option; option = parser.next()) {
    if (option.kind === 'error') throw new SnapFailure(option.message, true)
    if (option.name === 'h') return 'help'
    if (option.name === 'V') return 'version'
    const name = rules.find((rule) => rule.short === option.name)?.name ?? option.name
    if (name === 'disk') disks.push(diskOverlay(option.argument ?? ''))
    else checkOnce(given, name)
    given.set(name, option.argument ?? '')
  }
  const [command, ...files] = parser.rest
  return { ...settled(commandOf(command), files, given), disks }
}

function commandOf(word: string | undefined): CommandName {
  if (word === undefined) throw new SnapFailure('Missing command: save or load', true)
  if (!Object.hasOwn(commands, word)) throw new SnapFailure(`Invalid command: ${word}`, true)
  return word as CommandName
}

function checkOnce(given: Given, name: string): void {
  const caching = name === 'nocache' || name === 'cache'
  if (caching && (given.has('nocache') || given.has('cache'))) {
    throw new SnapFailure('-n and --cache can only be specified once')
  }
  if (given.has(name)) throw new SnapFailure(`--${name} can only be specified once`)
}

function settled(command: CommandName, files: readonly string[], given: Given): SnapArguments {
  for (const name of given.keys()) {
    if (!rules.find((rule) => rule.name === name)?.commands.includes(command)) {
      throw new SnapFailure(`--${name} cannot be used with ${command}`)
    }
  }
  const [fewest, most] = commands[command].files
  if (files.length < fewest) throw new SnapFailure('Missing image filename', true)
  if (files.length > most) throw new SnapFailure('Too many arguments', true)
  if (command === 'save' && !given.has('image-size')) {
    throw new SnapFailure('Missing image size: --image-size=SIZE is required for save', true)
  }
  if ((command === 'take' || command === 'resume') && !given.has('qmp')) {
    throw new SnapFailure(`--qmp=SOCKET is required for ${command}`, true)
  }
  checkAio(given.get('aio'), cache(given))
  return {
    command,
    files,
    imageSize: size('image-size', given.get('image-size')),
    pageSize: pageSize(given.get('page-size')),
    postcopy: postcopy(given.get('postcopy')),
    cache: cache(given),
    uri: given.get('uri'),
    speed: speed(given.get('speed')),
    recover: given.has('recover'),
    trace: given.has('trace'),
    noDescription: given.has('no-description'),
    json: given.has('json'),
    base: given.get('base'),
    compress: given.has('compress'),
    format: conversion(given.get('format')),
    snapshot: given.get('snapshot'),
    qmp: given.get('qmp'),
    socket: given.get('socket'),
    mode: mode(given.get('mode')),
    disks: [],
    keepPaused: given.has('paused'),
    force: given.has('force'),
    below4G: size('below-4g', given.get('below-4g')),
  }
}

function size(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const what = name.replaceAll('-', ' ')
  const bytes = parseSize(text)
  if (bytes === undefined) {
    throw new SnapFailure(
      `Invalid ${what} '${text}': a number, with k, M, G, T, P or E behind it for its unit`,
    )
  }
  if (bytes <= 0) throw new SnapFailure(`The ${what} has to be greater than 0`)
  return bytes
}

function conversion(text = 'image'): Conversion {
  const found = conversions.find((name) => name === text)
  if (found) return found
  throw new SnapFailure(`Invalid format '${text}': one of ${conversions.join(', ')} is needed`)
}

function pageSize(text: string | undefined): number {
  if (text === undefined) return defaultPageSize
  const size = parseSize(text)
  if (size === undefined || !isPowerOfTwo(size)) {
    throw new SnapFailure(`Invalid page size '${text}': it has to be a power of two`)
  }
  if (size < minPageSize || size > maxPageSize) {
    throw new SnapFailure(
      `Invalid page size '${text}': it has to be from ${minPageSize} to ${maxPageSize}`,
    )
  }
  return size
}

function postcopy(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const percent = /^\d+(\.\d+)?%?$/.test(text) ? Number.parseFloat(text) : Number.NaN
  if (percent >= 0 && percent <= 100) return percent
  throw new SnapFailure(`Invalid postcopy percentage '${text}': it has to be from 0 to 100`)
}

function mode(text: string | undefined): SnapArguments['mode'] {
  if (text === undefined || text === 'background' || text === 'live') return text
  throw new SnapFailure(`Invalid mode '${text}': background or live is needed`)
}

/** `NODE=FILE` */
function diskOverlay(text: string): SnapArguments['disks'][number] {
  const [, disk, file] = /^([^=]+)=(.+)$/.exec(text) ?? []
  if (disk === undefined) throw new SnapFailure(`Invalid disk '${text}': NODE=FILE is needed`)
  return { disk, file }
}

function speed(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const rate = parseSize(text)
  if (rate === undefined || rate === 0) throw new SnapFailure(`Invalid speed '${text}'`)
  return rate
}

function cache(given: Given): CacheMode | undefined {
  if (given.has('nocache')) return cacheMode('none')
  const name = given.get('cache')
  if (name === undefined) return undefined
  const mode = cacheMode(name)
  if (!mode) throw new SnapFailure(`Invalid cache mode '${name}'`)
  return mode
}

/** All of them are served by the thread pool; what QEMU demands of one is demanded here. */
function checkAio(mode: string | undefined, cache: CacheMode | undefined): void {
  if (mode === undefined) return
  if (!['native', 'io_uring', 'threads'].includes(mode)) {
    throw new SnapFailure(`Invalid aio mode '${mode}'`)
  }
  if (mode !== 'native' || cache?.direct) return
  throw new SnapFailure(
    'aio=native was specified, but it requires cache.direct=on, which was not specified.',
  )
}
