/** Options of an open image's node, as `blockdev-add` has them. */
import type { NodeReference } from '../../block/driver.ts'
import { missing, OptionReader } from '../../block/options.ts'
import { KiB } from '../../bytes/range.ts'
import { invalid } from '../../errors.ts'
import type { EncryptOptions } from './encryption/encryption.ts'
import type { FreeReason } from './frees.ts'
import {
  type GuardedKind,
  type GuardTemplate,
  guardedKinds,
  guardTemplates,
} from './metadata-guard.ts'
import type { ImageSettings } from './settings.ts'

export interface Qcow2Options {
  readonly file: NodeReference
  /** Undefined: the image's own; null: none, whatever the image says. */
  readonly backing: NodeReference | null | undefined
  readonly encrypt: EncryptOptions
  /** Undefined: what the image names. */
  readonly dataFile: NodeReference | undefined
  readonly settings: Omit<ImageSettings, 'name' | 'readOnly'>
}

/** All but where the image and its data lie, and how they are encrypted. */
export const changeable = [
  'lazy-refcounts',
  'pass-discard-request',
  'pass-discard-snapshot',
  'pass-discard-other',
  'discard-no-unref',
  'overlap-check',
  'cache-size',
  'l2-cache-size',
  'l2-cache-entry-size',
  'refcount-cache-size',
  'cache-clean-interval',
]

/** Seconds after which tables that are not used are dropped from memory. */
const defaultCacheCleanSeconds = 600
/** A timer takes no more than 2^31 milliseconds. */
const maxCacheCleanSeconds = 2_000_000

/** Refcounts are needed only while clusters are allocated or freed: the L2 cache gets the rest. */
const refcountShare = 256 * KiB

export function parseOptions(options: Readonly<Record<string, unknown>>): Qcow2Options {
  const reader = new OptionReader(options)
  const file = reader.take('file') as NodeReference | undefined
  if (file === undefined) throw missing('file')
  const parsed: Qcow2Options = {
    file,
    backing: reader.take('backing') as NodeReference | null | undefined,
    encrypt: parseEncrypt(reader.take('encrypt')),
    dataFile: reader.take('data-file') as NodeReference | undefined,
    settings: {
      lazyRefcounts: reader.boolean('lazy-refcounts'),
      ...cacheSizes(reader),
      cacheCleanSeconds: cleanInterval(reader),
      guarded: guardedBy(reader),
      keepDiscarded: reader.boolean('discard-no-unref') ?? false,
      discards: discardReasons(reader),
    },
  }
  reader.finish()
  return parsed
}

function parseEncrypt(value: unknown): EncryptOptions {
  const given = typeof value === 'object' && value !== null ? value : { format: value }
  const other = Object.keys(given).find((name) => name !== 'format' && name !== 'key-secret')
  if (other !== undefined) throw invalid(`Parameter '${other}' is unexpected`)
  const reader = new OptionReader(given as Record<string, unknown>)
  return { format: reader.string('format'), keySecret: reader.string('key-secret') }
}

function cleanInterval(reader: OptionReader): number {
  const seconds = reader.integer('cache-clean-interval') ?? defaultCacheCleanSeconds
  if (seconds >= 0 && seconds <= maxCacheCleanSeconds) return seconds
  throw invalid("Parameter 'cache-clean-interval' expects a number of seconds, 0 or more")
}

type CacheSizes = Pick<ImageSettings, 'l2CacheBytes' | 'refcountCacheBytes' | 'l2CacheEntryBytes'>

function cacheSizes(reader: OptionReader): CacheSizes {
  const total = reader.bytes('cache-size')
  const l2 = reader.bytes('l2-cache-size')
  const refcounts = reader.bytes('refcount-cache-size')
  const l2CacheEntryBytes = reader.bytes('l2-cache-entry-size')
  if (total === undefined) {
    return { l2CacheBytes: l2, refcountCacheBytes: refcounts, l2CacheEntryBytes }
  }
  if (l2 !== undefined && refcounts !== undefined) {
    throw invalid(
      'cache-size, l2-cache-size and refcount-cache-size may not be set at the same time',
    )
  }
  if (l2 !== undefined && l2 > total) throw invalid('l2-cache-size may not exceed cache-size')
  if (refcounts !== undefined && refcounts > total) {
    throw invalid('refcount-cache-size may not exceed cache-size')
  }
  const refcountCacheBytes =
    refcounts ?? (l2 === undefined ? Math.min(refcountShare, total) : total - l2)
  return { l2CacheBytes: total - refcountCacheBytes, refcountCacheBytes, l2CacheEntryBytes }
}

/** Discards of a guest reach the image only where its node permits them, so they may go further. */
function discardReasons(reader: OptionReader): ReadonlySet<FreeReason> {
  const reasons = new Set<FreeReason>()
  if (reader.boolean('pass-discard-request') ?? true) reasons.add('request')
  if (reader.boolean('pass-discard-snapshot') ?? true) reasons.add('snapshot')
  if (reader.boolean('pass-discard-other') ?? false) reasons.add('other')
  return reasons
}

/** A template, or an object with a template and single kinds added to it or taken off. */
function guardedBy(reader: OptionReader): readonly GuardedKind[] {
  const value = reader.take('overlap-check')
  const isObject = typeof value === 'object' && value !== null
  const inner = new OptionReader(isObject ? (value as Record<string, unknown>) : {})
  const names = Object.keys(guardTemplates) as GuardTemplate[]
  const plain = isObject ? undefined : names.find((name) => name === value)
  if (!isObject && value !== undefined && !plain) {
    throw invalid(
      `Unsupported value '${value}' for qcow2 option 'overlap-check'. ` +
        `Allowed are any of the following: ${names.join(', ')}`,
    )
  }
  const template = plain ?? inner.oneOf('template', names) ?? 'cached'
  const guarded = new Set<GuardedKind>(guardTemplates[template])
  for (const kind of guardedKinds) {
    const wanted = inner.boolean(kind)
    if (wanted === true) guarded.add(kind)
    if (wanted === false) guarded.delete(kind)
  }
  inner.finish()
  return [...guarded]
}
