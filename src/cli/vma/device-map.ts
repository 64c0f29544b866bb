/**
 * The lines that `vma extract -r` reads: where each device goes. One line for a device,
 * `[format=F:][throttling.bps=N:][throttling.group=G:][cache=C:]{0|1}:DEVNAME=PATH`, where `0` says
 * that the target reads as zeroes already, or `skip=DEVNAME`. An empty line, `done` or the end of
 * the input ends the map.
 */
import type { Readable } from 'node:stream'
import { BlockError } from '../../errors.ts'
import { type CacheMode, cacheMode } from '../open-image.ts'

export interface MappedDevice {
  readonly device: string
  readonly path: string
  readonly format: string | undefined
  readonly cache: CacheMode
  /** Whether zeroes have to be written. */
  readonly writeZeroes: boolean
  readonly throttle?: { readonly bytesPerSecond: number; readonly group?: string }
}

export interface DeviceMap {
  readonly mapped: ReadonlyMap<string, MappedDevice>
  readonly skipped: ReadonlySet<string>
}

/** Longest map: 254 lines with the longest paths. */
const maxMapSize = 2 ** 21

/** Reads a map up to its end and closes the input. */
export async function readDeviceMap(input: Readable): Promise<DeviceMap> {
  const mapped = new Map<string, MappedDevice>()
  const skipped = new Set<string>()
  for await (const line of linesOf(input)) {
    if (line === '' || line === 'done') break
    const entry = parseLine(line)
    const name = typeof entry === 'string' ? entry : entry.device
    if (mapped.has(name) || skipped.has(name)) throw invalid(line, `'${name}' is mapped twice`)
    if (typeof entry === 'string') skipped.add(name)
    else mapped.set(name, entry)
  }
  return { mapped, skipped }
}

async function* linesOf(input: Readable): AsyncGenerator<string> {
  let text = ''
  let size = 0
  const decoder = new TextDecoder()
  for await (const chunk of input) {
    size += chunk.length
    if (size > maxMapSize) throw new BlockError('INVALID_ARGUMENT', 'the device map is too long')
    text += decoder.decode(chunk, { stream: true })
    const lines = text.split('\n')
    text = lines.pop()!
    yield* lines
  }
  if (text !== '') yield text
}

/** The device of a line, or the name of one to be skipped. */
export function parseLine(line: string): MappedDevice | string {
  if (line.startsWith('skip=')) {
    if (line.length === 'skip='.length) throw invalid(line, 'the device is missing')
    return line.slice('skip='.length)
  }
  const found = /^((?:[a-z.]+=[^:]*:)*)([01]):([^=]+)=(.+)$/s.exec(line)
  if (!found) throw invalid(line, 'expected [OPTION=VALUE:]...{0|1}:DEVICE=PATH')
  const options = optionsOf(line, found[1])
  const group = options.get('throttling.group')
  const bps = options.get('throttling.bps')
  if (bps !== undefined && !/^[1-9]\d{0,14}$/.test(bps)) {
    throw invalid(line, `throttling.bps=${bps} is not a number of bytes`)
  }
  if (bps === undefined && group !== undefined) {
    throw invalid(line, 'throttling.group needs throttling.bps')
  }
  return {
    device: found[3],
    path: found[4],
    format: options.get('format'),
    cache: cacheOf(line, options.get('cache')),
    writeZeroes: found[2] === '1',
    throttle: bps === undefined ? undefined : { bytesPerSecond: Number(bps), group },
  }
}

const knownOptions = ['format', 'throttling.bps', 'throttling.group', 'cache']

function optionsOf(line: string, text: string): Map<string, string> {
  const options = new Map<string, string>()
  for (const option of text.split(':').filter((each) => each !== '')) {
    const [name, value] = option.split(/=(.*)/s)
    if (!knownOptions.includes(name) || value === '') throw invalid(line, `unknown '${option}'`)
    if (options.has(name)) throw invalid(line, `'${name}' is given twice`)
    options.set(name, value)
  }
  return options
}

function cacheOf(line: string, name: string = 'writeback'): CacheMode {
  const mode = cacheMode(name)
  if (mode) return mode
  throw invalid(line, `unknown cache mode '${name}'`)
}

function invalid(line: string, what: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', `device map: '${line}': ${what}`)
}
