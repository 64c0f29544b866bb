/**
 * `BlockdevOptions`: what each driver takes, as `blockdev-add` and `--blockdev` check it. The
 * drivers parse the values themselves; a driver that does not support an option refuses it.
 */
import { debugEvents } from '../../block/debug.ts'
import type { NodeOptions } from '../../block/driver.ts'
import { drivers } from '../../drivers.ts'
import { ioTypes } from '../../filter/blkdebug/rule-options.ts'
import { readPatterns } from '../../filter/quorum.ts'
import { bitmapRef } from './bitmap-types.ts'
import { socketAddress } from './socket-address.ts'
import {
  alternate,
  bool,
  enumeration,
  int,
  int32,
  list,
  nothing,
  type ObjectType,
  object,
  optional,
  required,
  str,
  uint32,
  uint64,
  union,
} from './types.ts'

export const blockdevDriver = enumeration(
  'BlockdevDriver',
  drivers.map(({ name }) => name),
)

const onOffAuto = enumeration('OnOffAuto', ['auto', 'on', 'off'])

/** A node by name, or the options of one to be opened. */
export const blockdevReference = alternate<string | NodeOptions>('BlockdevRef', () => [
  blockdevOptions,
  str,
])
const referenceOrNull = alternate<string | NodeOptions | null>('BlockdevRefOrNull', () => [
  blockdevOptions,
  str,
  nothing,
])

const fileMember = required(blockdevReference, 'The node below, by name or by its options.')

const fileOptions = object('BlockdevOptionsFile', {
  filename: required(str, 'Path of the file or device.'),
  'pr-manager': optional(str, 'Refused: no persistent reservations.'),
  locking: optional(onOffAuto, 'Whether to lock the image against other processes.'),
  aio: optional(
    enumeration('BlockdevAioOptions', ['threads', 'native', 'io_uring']),
    'Of no effect: all requests go through the page cache and the thread pool.',
  ),
  'aio-max-batch': optional(int, 'Refused.'),
  'drop-cache': optional(bool, 'Of no effect: there is no live migration.'),
  'x-check-cache-dropped': optional(bool, 'Of no effect.', ['unstable']),
})

const nullOptions = object('BlockdevOptionsNull', {
  size: optional(int, 'Bytes of the disk; 1 GiB unless given.'),
  'latency-ns': optional(uint64, 'Nanoseconds that each request takes.'),
  'read-zeroes': optional(bool, 'Whether reads give zeroes rather than what was in memory.'),
})

const overlapCheckMode = enumeration('Qcow2OverlapCheckMode', ['none', 'constant', 'cached', 'all'])
const overlapCheck = alternate('Qcow2OverlapChecks', () => [overlapCheckFlags, overlapCheckMode])
const overlapFlag = optional(bool, 'Whether this structure is guarded.')
const overlapCheckFlags = object('Qcow2OverlapCheckFlags', {
  template: optional(overlapCheckMode, 'What holds for members not given.'),
  'main-header': overlapFlag,
  'active-l1': overlapFlag,
  'active-l2': overlapFlag,
  'refcount-table': overlapFlag,
  'refcount-block': overlapFlag,
  'snapshot-table': overlapFlag,
  'inactive-l1': overlapFlag,
  'inactive-l2': overlapFlag,
  'bitmap-directory': overlapFlag,
})
const encryptionSecret = { 'key-secret': optional(str, 'Id of the `secret` with the key.') }
const qcow2Encryption = union(
  'BlockdevQcow2Encryption',
  { format: required(enumeration('BlockdevQcow2EncryptionFormat', ['aes', 'luks']), 'Kind.') },
  'format',
  () => ({
    aes: object('QCryptoBlockOptionsQCow', encryptionSecret),
    luks: object('QCryptoBlockOptionsLUKS', encryptionSecret),
  }),
)

const debugEvent = enumeration('BlkdebugEvent', debugEvents)
const anyState = optional(int, 'The state in which it holds; any unless given.')
const injectError = object('BlkdebugInjectErrorOptions', {
  event: required(debugEvent, 'What arms the error.'),
  state: anyState,
  iotype: optional(enumeration('BlkdebugIOType', ioTypes), 'Which requests fail.'),
  errno: optional(int, "The system's number of the error; EIO unless given."),
  sector: optional(int, 'Only requests that contain this sector fail.'),
  once: optional(bool, 'Only the first such request fails.'),
  immediately: optional(bool, 'Fail before anything else happens.'),
})
const setState = object('BlkdebugSetStateOptions', {
  event: required(debugEvent, 'What causes the change.'),
  state: anyState,
  new_state: required(int, 'The state to enter.'),
})
const permission = enumeration('BlockPermission', [
  'consistent-read',
  'write',
  'write-unchanged',
  'resize',
])
const bytesOf = (what: string) => optional(int, `Bytes: ${what}.`)

/** For formats of one file that take nothing else. */
const onlyFile = object('BlockdevOptionsGenericFormat', { file: fileMember })

/** By driver; a driver without options of its own has only the node below it. */
const declared: Readonly<Record<string, ObjectType>> = {
  blkdebug: object('BlockdevOptionsBlkdebug', {
    image: fileMember,
    config: optional(str, 'A file of rules.'),
    align: bytesOf('alignment of requests'),
    'max-transfer': optional(int32, 'Bytes: longest read or write.'),
    'opt-write-zero': optional(int32, 'Bytes: alignment of zeroing.'),
    'max-write-zero': optional(int32, 'Bytes: longest zeroing.'),
    'opt-discard': optional(int32, 'Bytes: alignment of discards.'),
    'max-discard': optional(int32, 'Bytes: longest discard.'),
    'inject-error': optional(list(injectError), 'Errors and when they occur.'),
    'set-state': optional(list(setState), 'Changes of state.'),
    'take-child-perms': optional(list(permission), 'Permissions to take on the child besides.'),
    'unshare-child-perms': optional(list(permission), 'Permissions to share with nobody.'),
  }),
  file: fileOptions,
  host_cdrom: fileOptions,
  host_device: fileOptions,
  memory: object('BlockdevOptionsMemory', {
    size: required(uint64, 'Bytes of the disk.'),
  }),
  nbd: object('BlockdevOptionsNbd', {
    server: required(socketAddress, 'Where the server listens.'),
    export: optional(str, 'Name of the export; the default export unless given.'),
    'tls-creds': optional(str, 'Id of a `tls-creds-…` object: nothing is said without TLS.'),
    'tls-hostname': optional(
      str,
      "Whom the server's certificate must name; the host of `server` unless given.",
    ),
    'x-dirty-bitmap': optional(
      str,
      'A context, `qemu:dirty-bitmap:NAME`, to show instead of where data is: what is dirty shows as neither data nor zeroes.',
      ['unstable'],
    ),
    'reconnect-delay': optional(uint32, 'Seconds to try again after a lost connection.'),
    'open-timeout': optional(uint32, 'Seconds to try to connect.'),
  }),
  'null-aio': nullOptions,
  'null-co': nullOptions,
  raw: object('BlockdevOptionsRaw', {
    file: fileMember,
    offset: optional(int, 'Bytes of the file before the disk begins.'),
    size: optional(int, 'Bytes of the disk; to the end of the file unless given.'),
  }),
  luks: object('BlockdevOptionsLUKS', {
    file: fileMember,
    ...encryptionSecret,
  }),
  qcow2: object('BlockdevOptionsQcow2', {
    file: fileMember,
    backing: optional(referenceOrNull, 'The backing file; null for none.'),
    'lazy-refcounts': optional(bool, 'Whether to put off refcount updates.'),
    'pass-discard-request': optional(bool, "Whether a guest's discards reach the file."),
    'pass-discard-snapshot': optional(bool, 'The same when snapshots are deleted.'),
    'pass-discard-other': optional(bool, 'The same for all else that frees clusters.'),
    'overlap-check': optional(overlapCheck, 'Which metadata to guard against being overwritten.'),
    'cache-size': optional(int, 'Bytes of all metadata caches.'),
    'l2-cache-size': optional(int, 'Bytes of the L2 cache.'),
    'l2-cache-entry-size': optional(int, 'Bytes of one entry of it.'),
    'refcount-cache-size': optional(int, 'Bytes of the refcount cache.'),
    'cache-clean-interval': optional(int, 'Seconds after which unused cache entries go.'),
    encrypt: optional(qcow2Encryption, 'How the image is encrypted.'),
    'data-file': optional(blockdevReference, 'The external data file.'),
  }),
  'copy-before-write': object('BlockdevOptionsCbw', {
    file: fileMember,
    target: required(blockdevReference, 'Where old data is copied before it is overwritten.'),
    bitmap: optional(bitmapRef, 'Only what is dirty in it, when the filter is opened, is kept.'),
    'on-cbw-error': optional(
      enumeration('OnCbwError', ['break-guest-write', 'break-snapshot']),
      'Who suffers when copying fails.',
    ),
    'cbw-timeout': optional(uint32, 'Seconds that a copy may take; 0 is no limit.'),
  }),
  'copy-on-read': object('BlockdevOptionsCor', {
    file: fileMember,
    bottom: optional(str, 'The lowest image from which data is copied.'),
  }),
  blklogwrites: object('BlockdevOptionsBlklogwrites', {
    file: fileMember,
    log: required(blockdevReference, 'Where the log is written.'),
    'log-sector-size': optional(uint32, 'Bytes of its sector; 512 unless given.'),
    'log-append': optional(bool, 'Go on with the log that is there.'),
    'log-super-update-interval': optional(uint64, 'Entries between superblocks; 4096.'),
  }),
  quorum: object('BlockdevOptionsQuorum', {
    blkverify: optional(bool, 'Two children that must always agree.'),
    children: required(list(blockdevReference), 'The children.'),
    'vote-threshold': required(int, 'How many must agree.'),
    'rewrite-corrupted': optional(bool, 'Put children right that were outvoted.'),
    'read-pattern': optional(
      enumeration('QuorumReadPattern', readPatterns),
      'Whether reads are voted on, or answered by the first child that can.',
    ),
  }),
  blkverify: object('BlockdevOptionsBlkverify', {
    test: required(blockdevReference, 'The disk under test, which is shown.'),
    raw: required(blockdevReference, 'A plain copy to compare it with.'),
  }),
  compress: onlyFile,
  preallocate: object('BlockdevOptionsPreallocate', {
    file: fileMember,
    'prealloc-align': bytesOf('the file grows to multiples of this'),
    'prealloc-size': bytesOf('reserved behind what is written'),
  }),
  'snapshot-access': onlyFile,
  throttle: object('BlockdevOptionsThrottle', {
    'throttle-group': required(str, 'Id of the group.'),
    file: fileMember,
  }),
  vma: object('BlockdevOptionsVma', {
    file: fileMember,
    device: optional(str, 'Which disk of the archive; needed where it holds several.'),
  }),
}

const cacheOptions = object('BlockdevCacheOptions', {
  direct: optional(bool, 'Bypass the page cache.'),
  'no-flush': optional(bool, 'Ignore flushes; for data that may be lost.'),
})

export const blockdevOptions: ObjectType<NodeOptions> = union(
  'BlockdevOptions',
  {
    driver: required(blockdevDriver, 'What interprets the data.'),
    'node-name': optional(str, 'Name to refer to the node; required for `blockdev-add` itself.'),
    discard: optional(
      enumeration('BlockdevDiscardOptions', ['ignore', 'unmap']),
      'Whether discards reach the node; `ignore` unless given.',
    ),
    cache: optional(cacheOptions, 'Caching.'),
    'read-only': optional(bool, 'Refuse writes.'),
    'auto-read-only': optional(bool, 'Fall back to read-only where writing is not permitted.'),
    active: optional(bool, 'Whether the image is ours to use already; see `blockdev-set-active`.'),
    'force-share': optional(bool, 'Take no locks; only with `read-only`.'),
    'detect-zeroes': optional(
      enumeration('BlockdevDetectZeroesOptions', ['off', 'on', 'unmap']),
      'Write zeroes the cheap way when a guest writes them the dear way.',
    ),
  },
  'driver',
  () => Object.fromEntries(drivers.map(({ name }) => [name, declared[name] ?? onlyFile])),
) as ObjectType<NodeOptions>

/** Whether the options of a driver are declared here; for the test that none is forgotten. */
export function isDeclared(driver: string): boolean {
  return Object.hasOwn(declared, driver)
}
