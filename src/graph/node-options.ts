/** The options that every node has: taken out here before the driver parses its own. */
import type { NodeOptions, OpenFlags } from '../block/driver.ts'
import { OptionReader } from '../block/options.ts'
import type { ChildRole } from '../block/permission.ts'
import { BlockError, invalid } from '../errors.ts'
import type { DetectZeroes, DiscardMode } from './node.ts'

/** What a node gets where its options say nothing. */
export interface NodeDefaults extends OpenFlags {
  readonly discard: DiscardMode
  /** Fall back to read-only where writing is not permitted. */
  readonly autoReadOnly: boolean
  /** Whether the image is ours to use already; see `activity.ts`. */
  readonly active: boolean
}

export interface CommonOptions extends NodeDefaults {
  readonly nodeName?: string
  readonly driver?: string
  /** See `NodeSettings`. */
  readonly accessGiven?: boolean
  readonly detectZeroes: DetectZeroes
}

export const rootDefaults: NodeDefaults = {
  readOnly: false,
  autoReadOnly: false,
  active: true,
  direct: false,
  noFlush: false,
  forceShare: false,
  discard: 'ignore',
}

/** Longest node name, as in QEMU. */
const maxNodeName = 31

/** Separates the common options from the driver's, which are returned as `rest`. */
export function takeCommonOptions(
  options: NodeOptions,
  defaults: NodeDefaults,
): { common: CommonOptions; rest: NodeOptions } {
  const all = nested(options)
  const reader = new OptionReader(all)
  const cache = new OptionReader((reader.take('cache') as Record<string, unknown>) ?? {})
  const common: CommonOptions = {
    nodeName: reader.string('node-name'),
    driver: reader.string('driver'),
    accessGiven: all['read-only'] !== undefined,
    readOnly: reader.boolean('read-only') ?? defaults.readOnly,
    autoReadOnly: reader.boolean('auto-read-only') ?? defaults.autoReadOnly,
    active: reader.boolean('active') ?? defaults.active,
    forceShare: reader.boolean('force-share') ?? defaults.forceShare,
    discard: discardMode(reader) ?? defaults.discard,
    detectZeroes: detectZeroes(reader),
    direct: cache.boolean('direct') ?? defaults.direct,
    noFlush: cache.boolean('no-flush') ?? defaults.noFlush,
    check: defaults.check,
    noIo: defaults.noIo,
  }
  cache.boolean('writeback')
  cache.finish()
  const taken = [
    'cache',
    'node-name',
    'driver',
    'read-only',
    'auto-read-only',
    'force-share',
    'active',
  ]
  const rest = Object.fromEntries(
    Object.entries(all).filter(([key]) => ![...taken, 'discard', 'detect-zeroes'].includes(key)),
  )
  return { common, rest }
}

/** What does not go together. Of a node that is opened, its `file` is opened before. */
export function checkCommonOptions(common: CommonOptions): void {
  if (common.forceShare && !common.readOnly) {
    throw new BlockError(
      'INVALID_ARGUMENT',
      'force-share=on can only be used with read-only images',
      { node: common.nodeName, errno: 'EINVAL' },
    )
  }
  checkDetectZeroes(common)
  if (common.nodeName !== undefined) checkNodeName(common.nodeName)
}

export function checkDetectZeroes(common: CommonOptions): void {
  if (common.detectZeroes === 'unmap' && common.discard !== 'unmap') {
    throw new BlockError(
      'INVALID_ARGUMENT',
      'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
      { node: common.nodeName, errno: 'EINVAL' },
    )
  }
}

/** What a child inherits from its parent. */
export function childDefaults(role: ChildRole, parent: CommonOptions): NodeDefaults {
  const writable = role !== 'backing' && !parent.readOnly
  return {
    readOnly: !writable,
    autoReadOnly: false,
    active: parent.active,
    direct: parent.direct,
    noFlush: parent.noFlush,
    forceShare: parent.forceShare,
    // The parent decides what to discard; below it everything it asks for is done.
    discard: 'unmap',
  }
}

function detectZeroes(reader: OptionReader): DetectZeroes {
  const mode = reader.string('detect-zeroes') ?? 'off'
  if (mode === 'off' || mode === 'on' || mode === 'unmap') return mode
  throw invalid(`invalid parameter value: ${mode}`)
}

function discardMode(reader: OptionReader): DiscardMode | undefined {
  const mode = reader.oneOf('discard', ['ignore', 'off', 'unmap', 'on'])
  if (mode === undefined) return undefined
  return mode === 'unmap' || mode === 'on' ? 'unmap' : 'ignore'
}

function checkNodeName(name: string): void {
  if (!/^[A-Za-z][A-Za-z0-9._-]*$/.test(name)) {
    throw invalid(`Invalid node-name: '${name}'`)
  }
  if (name.length > maxNodeName) {
    throw invalid('Node name too long')
  }
}

/** Dotted keys as objects: `{ 'file.filename': 'x' }` becomes `{ file: { filename: 'x' } }`. */
export function nested(options: Readonly<Record<string, unknown>>): NodeOptions {
  const result: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(options)) {
    if (value !== undefined) place(result, key.split('.'), value, key)
  }
  return result
}

function place(into: Record<string, unknown>, path: string[], value: unknown, key: string): void {
  const [head, ...tail] = path
  if (['__proto__', 'constructor', 'prototype'].includes(head)) {
    throw new BlockError('INVALID_ARGUMENT', `Invalid parameter '${key}'`)
  }
  const before = Object.hasOwn(into, head) ? into[head] : undefined
  if (tail.length === 0) {
    into[head] =
      before === undefined ? value : { ...objectAt(before, key), ...objectAt(value, key) }
    return
  }
  const copy = before === undefined ? {} : { ...objectAt(before, key) }
  place(copy, tail, value, key)
  into[head] = copy
}

/** What has parts given by dotted keys must be an object where it is given whole. */
function objectAt(value: unknown, key: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>
  }
  const [head] = key.split('.')
  throw new BlockError(
    'INVALID_ARGUMENT',
    `Parameter '${head}' is given both as a value and in parts (${key})`,
  )
}
