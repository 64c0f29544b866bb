/** From what people type and what images record to the options of a node. */
import path from 'node:path'
import type { BlockDriver, NodeOptions } from '../block/driver.ts'
import { BlockError } from '../errors.ts'
import { parseJson } from '../wire/qmp/parser.ts'

/** `name:` at the start, unless a slash comes first: the mark of a protocol. */
const protocolPrefix = /^([A-Za-z0-9+.-]+):/

/** Whether a name is a URL or `json:` rather than a path. */
export function hasProtocol(filename: string): boolean {
  return protocolPrefix.test(filename)
}

/**
 * Options of the protocol node behind a file name: a path, `file:PATH`, a URL of a known protocol,
 * or (then of the whole image) `json:{…}`.
 */
export function optionsOfFilename(filename: string, drivers: readonly BlockDriver[]): NodeOptions {
  if (filename.startsWith('json:')) return parseJsonName(filename)
  const device = deviceDriver(filename, drivers)
  if (device) return { driver: device.name, filename }
  for (const driver of drivers) {
    const options = driver.parseFilename?.(filename)
    if (options) return { driver: driver.name, ...options }
  }
  const prefix = protocolPrefix.exec(filename)?.[1]
  if (prefix === 'file') return { driver: 'file', filename: filename.slice('file:'.length) }
  if (prefix !== undefined) {
    throw new BlockError('INVALID_ARGUMENT', `Unknown protocol '${prefix}'`, {
      path: filename,
      errno: 'EINVAL',
    })
  }
  return { driver: 'file', filename }
}

/**
 * What a recorded name means: relative ones are relative to the folder of the image that holds
 * them, whatever the current directory is.
 */
export function resolveRecorded(recorded: string, image: string | undefined): string {
  if (hasProtocol(recorded) || path.isAbsolute(recorded)) return recorded
  if (image === undefined || hasProtocol(image)) {
    const message = image?.startsWith('nbd')
      ? 'Cannot generate a base directory for NBD nodes'
      : `Cannot use relative backing file names for '${image ?? ''}'`
    throw new BlockError('INVALID_ARGUMENT', message, { path: recorded, errno: 'EINVAL' })
  }
  const folder = path.dirname(image)
  return folder === '.' && !image.startsWith('.') ? recorded : `${folder}/${recorded}`
}

/** The driver that is the surest that this is a device for it. Names of devices may hold a colon. */
function deviceDriver(filename: string, drivers: readonly BlockDriver[]): BlockDriver | undefined {
  let best: { readonly driver: BlockDriver; readonly score: number } | undefined
  for (const driver of drivers) {
    const score = driver.probeDevice?.(filename) ?? 0
    if (score > (best?.score ?? 0)) best = { driver, score }
  }
  return best?.driver
}

function parseJsonName(filename: string): NodeOptions {
  const parsed = parseJson(filename.slice('json:'.length))
  if ('error' in parsed) {
    throw invalidName(filename, `Could not parse the JSON options: ${parsed.error}`)
  }
  const options = parsed.value
  if (typeof options === 'object' && options !== null && !Array.isArray(options)) {
    return options as NodeOptions
  }
  throw invalidName(filename, 'Invalid JSON object given')
}

function invalidName(filename: string, message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { path: filename, errno: 'EINVAL' })
}
