/** Header extensions, and the names of features that one of them carries. */
import { alignUp } from '../../bytes/range.ts'
import { bytes, struct, u8, u32 } from '../../bytes/struct.ts'
import type { BlockError } from '../../errors.ts'
import { type Faults, hex } from './faults.ts'

export const extensionType = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  encryption: 0x0537be77,
  dataFile: 0x44415441,
} as const

/** Kept in the order and with the bytes that the image has, whether its type is known or not. */
export interface HeaderExtension {
  readonly type: number
  readonly data: Uint8Array
}

const extensionStart = struct('big', { type: u32, length: u32 })

/** Longest names that QEMU takes for a format. */
const maxFormatBytes = 15

/** Where extensions cannot be followed any more, and why. */
export interface BrokenExtension {
  readonly offset: number
  readonly error: BlockError
}

/**
 * Extensions in `head` from `start` up to the end mark, or to `end` where there is none; or up to one
 * that is broken, if somebody wants to hear of it.
 */
export function decodeExtensions(
  head: Uint8Array,
  start: number,
  end: number,
  faults: Faults,
  hear?: (broken: BrokenExtension) => void,
): HeaderExtension[] {
  const extensions: HeaderExtension[] = []
  for (let at = start; at + extensionStart.size <= end; ) {
    const { type, length } = extensionStart.decode(head, at)
    if (type === extensionType.end) break
    const dataAt = at + extensionStart.size
    const twice = extensions.some((other) => other.type === type)
    const fault = extensionFault(type, length, end - dataAt, twice)
    if (fault !== undefined) {
      const error = faults.refuse('CORRUPT_IMAGE', fault, at)
      if (!hear) throw error
      hear({ offset: at, error })
      break
    }
    extensions.push({ type, data: head.slice(dataAt, dataAt + length) })
    at = alignUp(dataAt + length, 8)
  }
  return extensions
}

function extensionFault(
  type: number,
  length: number,
  room: number,
  twice: boolean,
): string | undefined {
  if (length > room) return 'Header extension too large'
  if (type === extensionType.backingFormat && length > maxFormatBytes) {
    return `The backing format's name is ${length} bytes long; at most ${maxFormatBytes} are allowed`
  }
  return twice ? `Header extension ${hex(type)} appears twice` : undefined
}

/** With the end mark. */
export function encodeExtensions(extensions: readonly HeaderExtension[]): Uint8Array {
  const parts: Uint8Array[] = []
  for (const { type, data } of extensions) {
    parts.push(extensionStart.encode({ type, length: data.length }), data)
    parts.push(new Uint8Array(alignUp(data.length, 8) - data.length))
  }
  parts.push(extensionStart.encode({ type: extensionType.end, length: 0 }))
  return Buffer.concat(parts)
}

const featureKinds = ['incompatible', 'compatible', 'autoclear'] as const
export type FeatureKind = (typeof featureKinds)[number]

const featureEntry = struct('big', { kind: u8, bit: u8, name: bytes(46) })

/** What the image's feature name table calls a bit. */
export function featureName(
  extensions: readonly HeaderExtension[],
  kind: FeatureKind,
  bit: number,
): string | undefined {
  const table = extensions.find(({ type }) => type === extensionType.featureNames)?.data
  if (!table) return undefined
  for (let at = 0; at + featureEntry.size <= table.length; at += featureEntry.size) {
    const entry = featureEntry.decode(table, at)
    if (featureKinds[entry.kind] === kind && entry.bit === bit) return printable(textOf(entry.name))
  }
  return undefined
}

/** The record of the file that has the guest's data. */
export function dataFileExtension(filename: string): HeaderExtension {
  return { type: extensionType.dataFile, data: Buffer.from(filename) }
}

/** Smaller clusters are left to the name of a backing file, as QEMU does. */
const minNamedClusterBits = 13

/** The table that new images get, if any. */
export function featureNamesIn(clusterBits: number): readonly HeaderExtension[] {
  return clusterBits < minNamedClusterBits ? [] : [featureNames()]
}

/** Of all that we know. */
export function featureNames(): HeaderExtension {
  const entries = knownFeatures.map(([kind, bit, name]) =>
    featureEntry.encode({ kind: featureKinds.indexOf(kind), bit, name: Buffer.from(name) }),
  )
  return { type: extensionType.featureNames, data: Buffer.concat(entries) }
}

/** The names explain, but do not matter. */
export function withoutFeatureNames(extensions: readonly HeaderExtension[]): HeaderExtension[] {
  return extensions.filter(({ type }) => type !== extensionType.featureNames)
}

const knownFeatures: readonly (readonly [FeatureKind, number, string])[] = [
  ['incompatible', 0, 'dirty bit'],
  ['incompatible', 1, 'corrupt bit'],
  ['incompatible', 2, 'external data file'],
  ['incompatible', 3, 'compression type'],
  ['incompatible', 4, 'extended L2 entries'],
  ['compatible', 0, 'lazy refcounts'],
  ['autoclear', 0, 'bitmaps'],
  ['autoclear', 1, 'raw external data'],
]

/** The text in a field that is padded with zeros. */
export function textOf(field: Uint8Array): string {
  const end = field.indexOf(0)
  return Buffer.from(end < 0 ? field : field.subarray(0, end)).toString('utf8')
}

/** Names come from strangers and go to terminals. */
function printable(name: string): string {
  return name.replace(/[^\x20-\x7e]/g, '?')
}
