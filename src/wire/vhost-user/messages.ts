/**
 * Messages between a virtual machine monitor, the front end, and a process that is a device of its guest,
 * the back end: "Vhost-user Protocol" of QEMU's documentation. In the machine's byte order, which is
 * little-endian on all that we run on.
 */
import { anyU64, struct, u32 } from '../../bytes/struct.ts'

export const request = {
  getFeatures: 1,
  setFeatures: 2,
  setOwner: 3,
  resetOwner: 4,
  setMemTable: 5,
  setLogBase: 6,
  setLogFd: 7,
  setVringNum: 8,
  setVringAddr: 9,
  setVringBase: 10,
  getVringBase: 11,
  setVringKick: 12,
  setVringCall: 13,
  setVringErr: 14,
  getProtocolFeatures: 15,
  setProtocolFeatures: 16,
  getQueueNum: 17,
  setVringEnable: 18,
  setBackendReqFd: 21,
  getConfig: 24,
  setConfig: 25,
  getMaxMemSlots: 36,
  addMemReg: 37,
  remMemReg: 38,
} as const

/** What the back end asks for, on a socket of its own. */
export const backendRequest = { configChange: 2 } as const

/** Flags of a message; the lowest two bits are the version. */
export const messageFlag = { version: 1, versionMask: 3, reply: 4, needReply: 8 } as const

/** Bits of features that are the protocol's. */
export const vhostFeature = { logAll: 26, protocolFeatures: 30 } as const

export const protocolFeature = {
  multiQueue: 0,
  logShmfd: 1,
  replyAck: 3,
  backendReq: 5,
  config: 9,
  configureMemSlots: 15,
} as const

export const messageHeader = struct('little', { request: u32, flags: u32, size: u32 })

export const number = struct('little', { value: anyU64 })

/** Of `setVringKick` and its like: the queue, and whether there is no descriptor. */
export const vringFile = { indexMask: 0xff, noDescriptor: 0x100 } as const

export const vringState = struct('little', { index: u32, value: u32 })

export const vringAddress = struct('little', {
  index: u32,
  flags: u32,
  descriptors: anyU64,
  used: anyU64,
  available: anyU64,
  log: anyU64,
})

/** Flag of a ring's addresses: changes of its used ring are logged, too. */
export const vringLogged = 1

/** In front of a table of regions. */
export const memoryTable = struct('little', { count: u32, padding: u32 })

export const memoryRegion = struct('little', {
  guest: anyU64,
  length: anyU64,
  user: anyU64,
  /** In the file. */
  offset: anyU64,
})

/** In front of a single region. */
export const singleRegionPadding = 8

/** Regions of one table; each comes with a descriptor. */
export const maxTableRegions = 8

export const logArea = struct('little', { length: anyU64, offset: anyU64 })

/** Bytes of guest memory that a bit of the log stands for. */
export const logPage = 4096

/** In front of the part of the configuration that is read or written. */
export const configHeader = struct('little', { offset: u32, length: u32, flags: u32 })
