/** `SharedMemorySys` through the C library. Numbers and layouts are those of 64-bit Linux. */
import { closeSync } from 'node:fs'
import { constants } from 'node:os'
import type { Call, Libc } from './koffi-load.ts'
import { Signals } from './koffi-signals.ts'
import { type CopyList, type EventSet, nothingYet, type SharedMemorySys } from './shared-memory.ts'
import { sysError } from './sys-error.ts'

const { EAGAIN, EINTR } = constants.errno

/** mmap(2) */
const PROT_READ = 1
const PROT_WRITE = 2
const MAP_SHARED = 1

/** fcntl(2) */
const F_GET_SEALS = 1034
const F_SEAL_SHRINK = 2

/** Pieces of one call: IOV_MAX. */
const maxPieces = 1024

/** epoll(7) */
const EPOLL_CLOEXEC = 0o2000000
const EPOLL_CTL_ADD = 1
const EPOLL_CTL_DEL = 2
const EPOLLIN = 1
const EPOLLET = 0x80000000
/** Bytes of a `struct epoll_event`, which is packed on x86-64 alone; where its data lies. */
const eventLayout = process.arch === 'x64' ? { size: 12, data: 4 } : { size: 16, data: 8 }
/** Events told in one call; there may be more in the next one. */
const eventsAtOnce = 64

/** recv(2), send(2), cmsg(3) */
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000
const MSG_CMSG_CLOEXEC = 0x40000000
const SOL_SOCKET = 1
const SCM_RIGHTS = 1
const maxDescriptors = 8
/** A `struct cmsghdr`: length, level, type. */
const controlHeader = 16

interface Calls {
  readonly mmap: Call
  readonly munmap: Call
  readonly fcntl: Call
  readonly readv: Call
  readonly writev: Call
  readonly create: Call
  readonly control: Call
  readonly wait: Call
  readonly recvmsg: Call
  readonly send: Call
  readonly errno: () => number
}

/** Undefined where a function is absent. */
export function openSharedMemory(libc: Libc): SharedMemorySys | undefined {
  const vectors = ['int', 'uintptr_t', 'ulong', 'uintptr_t', 'ulong', 'ulong']
  try {
    return new KoffiSharedMemory(libc, {
      mmap: libc.bind('mmap', 'int64', ['uintptr_t', 'size_t', 'int', 'int', 'int', 'int64']),
      munmap: libc.bind('munmap', 'int', ['uintptr_t', 'size_t']),
      fcntl: libc.fcntlNumber,
      readv: libc.bind('process_vm_readv', 'int64', vectors),
      writev: libc.bind('process_vm_writev', 'int64', vectors),
      create: libc.bind('epoll_create1', 'int', ['int']),
      control: libc.bind('epoll_ctl', 'int', ['int', 'int', 'int', 'void *']),
      wait: libc.bind('epoll_wait', 'int', ['int', 'void *', 'int', 'int']),
      recvmsg: libc.bind('recvmsg', 'int64', ['int', 'void *', 'int']),
      send: libc.bind('send', 'int64', ['int', 'void *', 'size_t', 'int']),
      errno: libc.errno,
    })
  } catch {
    return undefined
  }
}

class KoffiSharedMemory implements SharedMemorySys {
  readonly #libc: Libc
  readonly #calls: Calls
  readonly #signals: Signals
  /** A `struct msghdr`, one vector, and room for descriptors. */
  readonly #message = new BigUint64Array(7)
  readonly #messageBytes = new Uint8Array(this.#message.buffer)
  readonly #vector = new BigUint64Array(2)
  readonly #control = new Int32Array(controlHeader / 4 + maxDescriptors)

  constructor(libc: Libc, calls: Calls) {
    this.#libc = libc
    this.#calls = calls
    this.#signals = new Signals(libc)
  }

  map(fd: number, offset: number, length: number): number {
    const protection = PROT_READ + PROT_WRITE
    const address = this.#calls.mmap(0, length, protection, MAP_SHARED, fd, offset)
    if (address === -1) throw sysError('mmap', this.#calls.errno())
    return address
  }

  unmap(address: number, length: number): void {
    if (this.#calls.munmap(address, length) < 0) throw sysError('munmap', this.#calls.errno())
  }

  view(address: number, length: number): Uint8Array {
    return new Uint8Array(this.#libc.view(BigInt(address), length))
  }

  cannotShrink(fd: number): boolean | undefined {
    const seals = this.#calls.fcntl(fd, F_GET_SEALS, 0)
    return seals < 0 ? undefined : (seals & F_SEAL_SHRINK) !== 0
  }

  copyList(): CopyList {
    return new Pieces(this.#libc, this.#calls)
  }

  addressOf(bytes: Uint8Array): number {
    return Number(this.#libc.address(bytes))
  }

  eventSet(): EventSet {
    return new Epoll(this.#calls)
  }

  signal(fd: number): void {
    this.#signals.signal(fd)
  }

  receive(socket: number, target: Uint8Array, fds: number[]): number {
    const control = this.#control
    this.#vector[0] = this.#libc.address(target)
    this.#vector[1] = BigInt(target.length)
    this.#message.fill(0n)
    this.#message[2] = this.#libc.address(this.#vector)
    this.#message[3] = 1n
    this.#message[4] = this.#libc.address(control)
    this.#message[5] = BigInt(control.byteLength)
    control.fill(0)
    const flags = MSG_DONTWAIT + MSG_CMSG_CLOEXEC
    const length = this.#calls.recvmsg(socket, this.#messageBytes, flags)
    if (length < 0) {
      const errno = this.#calls.errno()
      if (errno === EAGAIN || errno === EINTR) return nothingYet
      throw sysError('recvmsg', errno)
    }
    const [bytes, , level, type] = control
    if (level === SOL_SOCKET && type === SCM_RIGHTS) {
      const count = Math.floor((bytes - controlHeader) / 4)
      fds.push(...control.subarray(controlHeader / 4, controlHeader / 4 + count))
    }
    return length
  }

  send(socket: number, bytes: Uint8Array): boolean {
    const flags = MSG_DONTWAIT + MSG_NOSIGNAL
    return this.#calls.send(socket, bytes, bytes.length, flags) === bytes.length
  }
}

/**
 * process_vm_readv(2) on this very process. The kernel pins each piece's pages and lets go of them again,
 * which orders what is done to one piece before the next. What is contiguous on both sides is one piece.
 */
class Pieces implements CopyList {
  readonly #calls: Calls
  /** Arrays of `struct iovec`: address and length, each as two halves. */
  readonly #local = new Uint32Array(4 * maxPieces)
  readonly #mapped = new Uint32Array(4 * maxPieces)
  readonly #localAddress: number
  readonly #mappedAddress: number
  #count = 0
  #length = 0
  /** The last piece, which another may go on from. */
  readonly #last = { local: Number.NaN, mapped: 0, length: 0 }
  /** Pieces that did not fit into one list, in the order in which they were added. */
  #more: (readonly [number, number, number])[] = []

  constructor(libc: Libc, calls: Calls) {
    this.#calls = calls
    this.#localAddress = Number(libc.address(this.#local))
    this.#mappedAddress = Number(libc.address(this.#mapped))
  }

  add(local: number, mapped: number, length: number): void {
    if (this.#more.length > 0) this.#more.push([local, mapped, length])
    else this.#put(local, mapped, length)
  }

  read(): boolean {
    return this.#run(this.#calls.readv)
  }

  write(): boolean {
    return this.#run(this.#calls.writev)
  }

  #put(local: number, mapped: number, length: number): void {
    const last = this.#last
    if (local === last.local + last.length && mapped === last.mapped + last.length) {
      last.length += length
      const at = 4 * (this.#count - 1)
      setHalves(this.#local, at + 2, last.length)
      setHalves(this.#mapped, at + 2, last.length)
    } else if (this.#count === maxPieces) {
      this.#more.push([local, mapped, length])
      return
    } else {
      const at = 4 * this.#count++
      setHalves(this.#local, at, local)
      setHalves(this.#local, at + 2, length)
      setHalves(this.#mapped, at, mapped)
      setHalves(this.#mapped, at + 2, length)
      last.local = local
      last.mapped = mapped
      last.length = length
    }
    this.#length += length
  }

  #run(call: Call): boolean {
    let good = this.#call(call)
    while (this.#more.length > 0) {
      for (const [local, mapped, length] of this.#more.splice(0, maxPieces)) {
        this.#put(local, mapped, length)
      }
      good = this.#call(call, good)
    }
    return good
  }

  /** Makes the call, unless one before it has failed, and empties the list. */
  #call(call: Call, good = true): boolean {
    const [count, length] = [this.#count, this.#length]
    this.#count = 0
    this.#length = 0
    this.#last.length = 0
    this.#last.local = Number.NaN
    if (!good || length === 0) return good
    return call(process.pid, this.#localAddress, count, this.#mappedAddress, count, 0) === length
  }
}

function setHalves(halves: Uint32Array, at: number, value: number): void {
  halves[at] = value % 2 ** 32
  halves[at + 1] = Math.floor(value / 2 ** 32)
}

/**
 * epoll(7), told of edges: an event descriptor that is written to is told of though it has been readable
 * before, so it is never read, which its other end could make wait.
 */
class Epoll implements EventSet {
  readonly fd: number
  readonly #calls: Calls
  readonly #events = new Uint8Array(eventLayout.size * eventsAtOnce)
  readonly #view = new DataView(this.#events.buffer)
  readonly #event = new Uint8Array(eventLayout.size)

  constructor(calls: Calls) {
    this.#calls = calls
    this.fd = calls.create(EPOLL_CLOEXEC)
    if (this.fd < 0) throw sysError('epoll_create1', calls.errno())
  }

  add(fd: number, id: number): void {
    const view = new DataView(this.#event.buffer)
    view.setUint32(0, EPOLLIN + EPOLLET, true)
    view.setUint32(eventLayout.data, id, true)
    if (this.#calls.control(this.fd, EPOLL_CTL_ADD, fd, this.#event) < 0) {
      throw sysError('epoll_ctl', this.#calls.errno())
    }
  }

  delete(fd: number): void {
    this.#calls.control(this.fd, EPOLL_CTL_DEL, fd, this.#event)
  }

  take(): readonly number[] {
    const count = this.#calls.wait(this.fd, this.#events, eventsAtOnce, 0)
    const ids: number[] = []
    for (let index = 0; index < count; index++) {
      ids.push(this.#view.getUint32(index * eventLayout.size + eventLayout.data, true))
    }
    return ids
  }

  [Symbol.dispose](): void {
    closeSync(this.fd)
  }
}
