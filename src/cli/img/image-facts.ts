/** What `info` says of one image, in the order and words of qemu-img. */
import type { BlockLayer } from '../../block/layer.ts'
import { type SnapshotInfo, snapshotInfo } from '../../block/snapshot-info.ts'
import { alignUp } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import { resolveRecorded } from '../../graph/filename.ts'
import type { BlockNode } from '../../graph/node.ts'
import { shownFilename } from '../../graph/shown-filename.ts'
import { sizeText } from './size-text.ts'
import { describeSnapshots } from './snapshot-facts.ts'

/** QEMU counts disks in sectors. */
const sectorSize = 512

/** `ImageInfo` of QMP, in the order in which qemu-img prints its members. */
export interface ImageInfo {
  snapshots?: readonly SnapshotInfo[]
  'backing-filename-format'?: string
  'virtual-size': number
  filename: string
  'cluster-size'?: number
  format: string
  'actual-size'?: number
  'format-specific'?: { type: string; data: Readonly<Record<string, unknown>> }
  'full-backing-filename'?: string
  encrypted?: true
  'backing-filename'?: string
  'dirty-flag': boolean
}

/** Gathers the facts of an open image. */
export async function imageInfo(node: BlockNode): Promise<ImageInfo> {
  const { image, backingLink }: BlockLayer = node.layer
  const backing = backingLink?.recorded
  const specific = image?.specific?.()
  const filename = image?.filename ?? ''
  const snapshots = (await image?.snapshots?.()) ?? []
  return {
    'backing-filename-format': backing?.format,
    snapshots: snapshots.length > 0 ? snapshots.map(snapshotInfo) : undefined,
    'virtual-size': alignUp(node.size, sectorSize),
    filename: shownFilename(node),
    'cluster-size': image?.clusterSize,
    format: node.driver,
    'actual-size': await image?.allocatedSize?.(),
    'format-specific': specific && { type: specific.type, data: specific.data },
    'full-backing-filename': backing && actualPath(backing.filename, filename),
    encrypted: image?.encrypted ? true : undefined,
    'backing-filename': backing?.filename,
    'dirty-flag': image?.dirty ?? false,
  }
}

/** Undefined: nobody knows where the image's folder is. */
function actualPath(recorded: string, image: string): string | undefined {
  try {
    return resolveRecorded(recorded, image)
  } catch (error) {
    if (error instanceof BlockError) return undefined
    throw error
  }
}

/** The lines that people read, each with its newline. */
export function describeImage(info: ImageInfo): string {
  const virtualSize = info['virtual-size']
  const actualSize = info['actual-size']
  const lines = [
    `image: ${info.filename}`,
    `file format: ${info.format}`,
    `virtual size: ${sizeText(virtualSize)} (${virtualSize} bytes)`,
    `disk size: ${actualSize === undefined ? 'unavailable' : sizeText(actualSize)}`,
  ]
  if (info.encrypted) lines.push('encrypted: yes')
  if (info['cluster-size'] !== undefined) lines.push(`cluster_size: ${info['cluster-size']}`)
  if (info['dirty-flag']) lines.push('cleanly shut down: no')
  lines.push(...describeBacking(info))
  if (info.snapshots) lines.push(...describeSnapshots(info.snapshots))
  return `${lines.join('\n')}\n${describeSpecific(info['format-specific']?.data ?? {})}`
}

/** A format's own facts under a heading; nothing when there are none. */
export function describeSpecific(data: Readonly<Record<string, unknown>>): string {
  const facts = Object.entries(data)
  if (facts.length === 0) return ''
  const lines = ['Format specific information:', ...facts.flatMap((fact) => factLines(fact, 1))]
  return `${lines.join('\n')}\n`
}

function describeBacking(info: ImageInfo): string[] {
  const recorded = info['backing-filename']
  if (recorded === undefined) return []
  const actual = info['full-backing-filename']
  const place = actual === undefined ? 'cannot determine actual path' : `actual path: ${actual}`
  const lines = [`backing file: ${recorded}${actual === recorded ? '' : ` (${place})`}`]
  const format = info['backing-filename-format']
  if (format !== undefined) lines.push(`backing file format: ${format}`)
  return lines
}

/** A fact, and what it consists of, indented by four columns a level. Lists are numbered. */
function factLines([name, value]: readonly [string, unknown], depth: number): string[] {
  const key = `${' '.repeat(depth * 4)}${name.replaceAll('-', ' ')}:`
  if (typeof value !== 'object' || value === null) return [`${key} ${value}`]
  const parts: [string, unknown][] = Array.isArray(value)
    ? value.map((part, index) => [`[${index}]`, part])
    : Object.entries(value)
  return [key, ...parts.flatMap((part) => factLines(part, depth + 1))]
}
