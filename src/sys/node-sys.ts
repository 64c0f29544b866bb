/** `Sys` without a C library: what Node cannot do is said to be unsupported. */

import { notOffered, type Sys } from './sys.ts'
import { notSupported } from './sys-error.ts'

/** The part that is used here; the types of Node do not have it. */
declare const WebAssembly: {
  readonly Memory: new (size: { initial: number; maximum: number }) => { buffer: ArrayBuffer }
}

const wasmPage = 65536

/** Memory that `alignedMemory` made. WebAssembly memory always starts at a page. */
const pageAligned = new WeakSet<ArrayBufferLike>()

export const nodeSys: Sys = {
  name: 'node',
  supported: {
    holes: false,
    fallocate: false,
    locks: false,
    cachedReads: false,
    ioctl: false,
    keyring: false,
    fuse: false,
  },
  seekData: () => {
    throw notSupported('lseek')
  },
  seekHole: () => {
    throw notSupported('lseek')
  },
  seekEnd: () => {
    throw notSupported('lseek')
  },
  fallocate: async () => {
    throw notSupported('fallocate')
  },
  startWriteback: async () => {},
  returnFreeMemory: async () => {},
  readCached: () => notOffered,
  shareLock: () => {
    throw notSupported('fcntl')
  },
  unlock: () => {
    throw notSupported('fcntl')
  },
  lockedElsewhere: () => {
    throw notSupported('fcntl')
  },
  ioctl: async () => {
    throw notSupported('ioctl')
  },
  readKey: () => {
    throw notSupported('keyctl')
  },
  isReadable: () => false,
  untilReadable: async () => {
    throw notSupported('poll')
  },
  eventDescriptor: () => {
    throw notSupported('eventfd')
  },
  socketPair: () => {
    throw notSupported('socketpair')
  },
  receiveDescriptor: async () => {
    throw notSupported('recvmsg')
  },
  mountFuse: () => {
    throw notSupported('mount')
  },
  unmount: async () => {
    throw notSupported('umount2')
  },
  growPipe: () => {},
  alignedMemory(length, _alignment) {
    const pages = Math.max(1, Math.ceil(length / wasmPage))
    const { buffer } = new WebAssembly.Memory({ initial: pages, maximum: pages })
    pageAligned.add(buffer)
    return new Uint8Array(buffer, 0, length)
  },
  isAlignedMemory(bytes, alignment) {
    return pageAligned.has(bytes.buffer) && bytes.byteOffset % alignment === 0
  },
}
