/**
 * Messages between the kernel and a file system in a process, as Linux has them on `/dev/fuse` (7.31,
 * `fuse(4)`): in the machine's own byte order, which is little-endian on all that we run on.
 */
import { anyU64, array, i32, struct, u16, u32, u64 } from '../../bytes/struct.ts'

/** The version that is spoken; the kernel talks like it when its own is newer. */
export const protocolVersion = { major: 7, minor: 31 }

export const opcode = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  setattr: 4,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  fsync: 20,
  flush: 25,
  init: 26,
  interrupt: 36,
  destroy: 38,
  batchForget: 42,
  fallocate: 43,
  lseek: 46,
} as const

/** Of `init`: what both sides can do. */
export const initFlag = {
  asyncRead: 1 << 0,
  atomicTruncate: 1 << 3,
  bigWrites: 1 << 5,
  autoInvalidate: 1 << 12,
  asyncDirect: 1 << 15,
  maxPages: 1 << 22,
} as const

/** Of `setattr`: which members are meant. */
export const setFlag = {
  mode: 1 << 0,
  uid: 1 << 1,
  gid: 1 << 2,
  size: 1 << 3,
  /** Which open file it is about, and who locks: of no effect on a disk. */
  handle: 1 << 6,
  lockOwner: 1 << 9,
  changeTime: 1 << 10,
  killPrivileges: 1 << 11,
} as const

/** Of `fallocate`, as in fallocate(2). */
export const fallocateMode = { keepSize: 1, punchHole: 2, zeroRange: 16 } as const

/** Of `lseek`, as in lseek(2). */
export const seekWhence = { data: 3, hole: 4 } as const

export const inHeader = struct('little', {
  length: u32,
  opcode: u32,
  /** Not a number that is reckoned with: it comes back as it is. */
  unique: array(u32, 2),
  nodeId: anyU64,
  uid: u32,
  gid: u32,
  pid: u32,
  padding: u32,
})

export const outHeader = struct('little', { length: u32, error: i32, unique: array(u32, 2) })

export const initIn = struct('little', { major: u32, minor: u32, maxReadahead: u32, flags: u32 })

export const initOut = struct('little', {
  major: u32,
  minor: u32,
  maxReadahead: u32,
  flags: u32,
  maxBackground: u16,
  congestionThreshold: u16,
  maxWrite: u32,
  /** Nanoseconds. */
  timeGranularity: u32,
  maxPages: u16,
  mapAlignment: u16,
  unused: array(u32, 8),
})

export const attributesOut = struct('little', {
  validSeconds: u64,
  validNanoseconds: u32,
  dummy: u32,
  inode: u64,
  size: u64,
  /** Of 512 bytes. */
  blocks: u64,
  accessed: u64,
  modified: u64,
  changed: u64,
  accessedNanoseconds: u32,
  modifiedNanoseconds: u32,
  changedNanoseconds: u32,
  mode: u32,
  links: u32,
  uid: u32,
  gid: u32,
  device: u32,
  blockSize: u32,
  flags: u32,
})

export const setattrIn = struct('little', {
  valid: u32,
  padding: u32,
  handle: anyU64,
  size: anyU64,
  lockOwner: anyU64,
  times: array(u32, 9),
  mode: u32,
  unused4: u32,
  uid: u32,
  gid: u32,
  unused5: u32,
})

export const openOut = struct('little', { handle: u64, flags: u32, padding: u32 })

/** Of `read` and `write`; the data of a write follows. */
export const transferIn = struct('little', {
  handle: anyU64,
  offset: anyU64,
  length: u32,
  transferFlags: u32,
  lockOwner: anyU64,
  flags: u32,
  padding: u32,
})

export const writeOut = struct('little', { length: u32, padding: u32 })

export const fallocateIn = struct('little', {
  handle: anyU64,
  offset: anyU64,
  length: anyU64,
  mode: u32,
  padding: u32,
})

export const lseekIn = struct('little', {
  handle: anyU64,
  offset: anyU64,
  whence: u32,
  padding: u32,
})

export const lseekOut = struct('little', { offset: u64 })

export const statfsOut = struct('little', {
  blocks: u64,
  free: u64,
  available: u64,
  files: u64,
  freeFiles: u64,
  blockSize: u32,
  nameLength: u32,
  fragmentSize: u32,
  unused: array(u32, 7),
})
