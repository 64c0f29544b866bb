/** `Sys` through the C library. Numbers and layouts are those of 64-bit Linux. */
import { constants } from 'node:os'
import { type Argument, type Call, type Libc, loadLibc } from './koffi-load.ts'
import { openSharedMemory } from './koffi-shared-memory.ts'
import { nothingYet, type SharedMemorySys } from './shared-memory.ts'
import { type AllocateMode, notOffered, type Supported, type Sys, wouldWait } from './sys.ts'
import { sysError } from './sys-error.ts'
import { Turnstile } from './turnstile.ts'

const { EAGAIN, EACCES, EFBIG, ENXIO, EOPNOTSUPP, EINTR, ENOSYS, EINVAL } = constants.errno

/** lseek(2) */
const SEEK_END = 2
const SEEK_DATA = 3
const SEEK_HOLE = 4

/** fallocate(2) */
const FALLOC_FL_KEEP_SIZE = 0x01
const FALLOC_FL_PUNCH_HOLE = 0x02
const FALLOC_FL_ZERO_RANGE = 0x10

const fallocateFlags: Readonly<Record<AllocateMode, number>> = {
  punch: FALLOC_FL_PUNCH_HOLE + FALLOC_FL_KEEP_SIZE,
  zero: FALLOC_FL_ZERO_RANGE + FALLOC_FL_KEEP_SIZE,
  'zero-extend': FALLOC_FL_ZERO_RANGE,
  allocate: 0,
}

/** fcntl(2) */
const F_OFD_GETLK = 36
const F_OFD_SETLK = 37
const F_RDLCK = 0
const F_WRLCK = 1
const F_UNLCK = 2

/** sync_file_range(2) */
const SYNC_FILE_RANGE_WRITE = 2

const F_SETPIPE_SZ = 1031

/** poll(2) */
const POLLIN = 1
/** Milliseconds: a process that ends in a hurry waits for the threads of its pool. */
const longestPoll = 1000

/** eventfd(2) */
const EFD_CLOEXEC = 0o2000000
const EFD_NONBLOCK = 0o4000

/** socketpair(2) */
const AF_UNIX = 1
const SOCK_STREAM = 1
const SOCK_CLOEXEC = 0o2000000

/** fcntl(2) */
const F_GETFL = 3
const F_SETFL = 4
const O_NONBLOCK = 0o4000

/** mount(2) */
const MS_NOSUID = 2
const MS_NODEV = 4
const MNT_DETACH = 2

/** preadv2(2): answer from the page cache or fail with EAGAIN. */
const RWF_NOWAIT = 8

/** keyctl(2), of which the C library knows nothing. */
const KEYCTL_READ = 11
const keyctlNumbers: Readonly<Record<string, number>> = { x64: 250, s390x: 280, ppc64: 271 }
/** Of the architectures that share a table of system calls. */
const genericKeyctlNumber = 219

/** koffi allows 64 asynchronous calls at a time; the thread pool runs 4. */
const maxCallsInPool = 8

export function openKoffiSys(): Sys | undefined {
  const libc = loadLibc()
  return libc && new KoffiSys(libc)
}

class KoffiSys implements Sys {
  readonly name = 'koffi'
  readonly supported: Supported
  readonly #libc: Libc
  readonly #pool = new Turnstile(maxCallsInPool)
  /** One `struct iovec`, filled anew for each call: address and length. */
  readonly #iovec = new BigUint64Array(2)
  readonly #iovecAddress: bigint
  /** What the second half holds: requests mostly have the length of the one before. */
  #iovecLength = 0
  /** One `struct flock`: type and whence, start, length, pid. */
  readonly #flock = new BigInt64Array(4)
  readonly #flockType = new Int16Array(this.#flock.buffer, 0, 2)
  readonly #flockBytes = new Uint8Array(this.#flock.buffer)
  /** One `struct pollfd`: descriptor, what is asked, and what is the case. */
  readonly #pollfd = new Int32Array(2)
  readonly #pollEvents = new Int16Array(this.#pollfd.buffer, 4, 2)
  readonly #pollBytes = new Uint8Array(this.#pollfd.buffer)
  #sharedMemory: SharedMemorySys | undefined

  constructor(libc: Libc) {
    this.#libc = libc
    this.#iovecAddress = libc.address(this.#iovec)
    this.supported = {
      holes: true,
      fallocate: true,
      locks: true,
      cachedReads: libc.preadv2 !== undefined,
      ioctl: true,
      keyring: true,
      fuse: true,
    }
  }

  seekData(fd: number, offset: number): number | undefined {
    return this.#seek(fd, offset, SEEK_DATA)
  }

  seekHole(fd: number, offset: number): number | undefined {
    return this.#seek(fd, offset, SEEK_HOLE)
  }

  seekEnd(fd: number): number {
    return this.#seek(fd, 0, SEEK_END) ?? 0
  }

  async fallocate(fd: number, mode: AllocateMode, offset: number, length: number): Promise<void> {
    await this.#callInPool(
      'fallocate',
      this.#libc.fallocate,
      fd,
      fallocateFlags[mode],
      offset,
      length,
    )
  }

  async startWriteback(fd: number, offset: number, length: number): Promise<void> {
    const { sync_file_range } = this.#libc
    if (!sync_file_range) return
    await this.#pool.pass(
      () =>
        new Promise<void>((resolve) =>
          sync_file_range.async(fd, offset, length, SYNC_FILE_RANGE_WRITE, () => resolve()),
        ),
    )
  }

  async returnFreeMemory(): Promise<void> {
    const { malloc_trim } = this.#libc
    if (!malloc_trim) return
    await this.#pool.pass(
      () => new Promise<void>((resolve) => malloc_trim.async(0, () => resolve())),
    )
  }

  readCached(fd: number, target: Uint8Array, offset: number): number {
    const { preadv2 } = this.#libc
    if (target.length === 0) return 0
    if (!preadv2) return notOffered
    this.#iovec[0] = this.#libc.address(target)
    if (target.length !== this.#iovecLength) {
      this.#iovecLength = target.length
      this.#iovec[1] = BigInt(target.length)
    }
    const got = preadv2(fd, this.#iovecAddress, 1, offset, RWF_NOWAIT)
    return got >= 0 ? got : this.#notCached()
  }

  #notCached(): number {
    const errno = this.#libc.errno()
    if (errno === EAGAIN || errno === EINTR) return wouldWait
    // A real fault is left to the ordinary read, which meets it again and reports it.
    return errno === EOPNOTSUPP || errno === ENOSYS || errno === EINVAL ? notOffered : wouldWait
  }

  shareLock(fd: number, offset: number): boolean {
    return this.#setLock(fd, F_RDLCK, offset)
  }

  unlock(fd: number, offset: number): void {
    this.#setLock(fd, F_UNLCK, offset)
  }

  lockedElsewhere(fd: number, offset: number): boolean {
    this.#fillLock(F_WRLCK, offset)
    if (this.#libc.fcntl(fd, F_OFD_GETLK, this.#flockBytes) !== 0) {
      throw sysError('fcntl', this.#libc.errno())
    }
    return this.#flockType[0] !== F_UNLCK
  }

  async ioctl(fd: number, request: number, argument: Uint8Array | number): Promise<number> {
    const call = typeof argument === 'number' ? this.#libc.ioctlNumber : this.#libc.ioctl
    return await this.#callInPool('ioctl', call, fd, request, argument)
  }

  readKey(serial: number, maxLength: number): Uint8Array {
    const bytes = new Uint8Array(maxLength)
    const number = keyctlNumbers[process.arch] ?? genericKeyctlNumber
    const length = this.#libc.syscall(number, KEYCTL_READ, serial, bytes, maxLength)
    if (length < 0) throw sysError('keyctl', this.#libc.errno())
    if (length > maxLength) throw sysError('keyctl', EFBIG)
    return bytes.slice(0, length)
  }

  isReadable(fd: number): boolean {
    this.#pollfd[0] = fd
    this.#pollEvents[0] = POLLIN
    // What the other end has closed, and what is no descriptor, count too.
    return this.#libc.poll(this.#pollBytes, 1, 0) > 0
  }

  async untilReadable(fds: readonly number[]): Promise<void> {
    const polled = new Int32Array(fds.flatMap((fd) => [fd, POLLIN]))
    const bytes = new Uint8Array(polled.buffer)
    // Whatever it returns, who waits looks again.
    await new Promise<void>((resolve) => {
      this.#libc.poll.async(bytes, fds.length, longestPoll, () => resolve())
    })
  }

  eventDescriptor(): number {
    const fd = this.#libc.eventfd(0, EFD_CLOEXEC + EFD_NONBLOCK)
    if (fd < 0) throw sysError('eventfd', this.#libc.errno())
    return fd
  }

  socketPair(): readonly [number, number] {
    const pair = new Int32Array(2)
    const bytes = new Uint8Array(pair.buffer)
    const result = this.#libc.socketpair(AF_UNIX, SOCK_STREAM + SOCK_CLOEXEC, 0, bytes)
    if (result < 0) throw sysError('socketpair', this.#libc.errno())
    return [pair[0], pair[1]]
  }

  async receiveDescriptor(socket: number): Promise<number | undefined> {
    const byte = new Uint8Array(new ArrayBuffer(8), 0, 1)
    const fds: number[] = []
    for (;;) {
      await this.untilReadable([socket])
      const length = this.sharedMemory?.receive(socket, byte, fds)
      if (length !== nothingYet) break
    }
    const [fd] = fds
    if (fd === undefined) return undefined
    this.#libc.fcntlNumber(fd, F_SETFL, this.#libc.fcntlNumber(fd, F_GETFL, 0) | O_NONBLOCK)
    return fd
  }

  get sharedMemory(): SharedMemorySys | undefined {
    this.#sharedMemory ??= openSharedMemory(this.#libc)
    return this.#sharedMemory
  }

  mountFuse(target: string, options: string): void {
    const type = cString('fuse')
    const source = cString('/dev/fuse')
    const flags = MS_NOSUID + MS_NODEV
    const result = this.#libc.mount(source, cString(target), type, flags, cString(options))
    if (result < 0) throw sysError('mount', this.#libc.errno())
  }

  async unmount(target: string): Promise<void> {
    await this.#callInPool('umount2', this.#libc.umount2, cString(target), MNT_DETACH)
  }

  growPipe(fd: number, length: number): void {
    this.#libc.fcntlNumber(fd, F_SETPIPE_SZ, length)
  }

  /** A larger ordinary buffer, of which the aligned part is used: nobody has to free it. */
  alignedMemory(length: number, alignment: number): Uint8Array {
    const buffer = new ArrayBuffer(length + alignment)
    const rest = Number(this.#libc.address(new Uint8Array(buffer)) % BigInt(alignment))
    return new Uint8Array(buffer, rest === 0 ? 0 : alignment - rest, length)
  }

  isAlignedMemory(bytes: Uint8Array, alignment: number): boolean {
    return this.#libc.address(bytes) % BigInt(alignment) === 0n
  }

  /** For calls whose results are below 0 when they fail, and that may be repeated when they do. */
  async #callInPool(name: string, call: Call, ...args: Argument[]): Promise<number> {
    const result = await this.#pool.pass(
      () =>
        new Promise<number>((resolve, reject) => {
          call.async(...args, (error: unknown, value: number) =>
            error ? reject(error) : resolve(value),
          )
        }),
    )
    if (result >= 0) return result
    // errno belongs to the thread that made the call, so the failure is repeated here to learn it.
    const again = call(...args)
    if (again < 0) throw sysError(name, this.#libc.errno())
    return again
  }

  #seek(fd: number, offset: number, whence: number): number | undefined {
    const at = this.#libc.lseek(fd, offset, whence)
    if (at >= 0) return at
    const errno = this.#libc.errno()
    if (errno === ENXIO) return undefined
    throw sysError('lseek', errno)
  }

  #setLock(fd: number, type: number, offset: number): boolean {
    this.#fillLock(type, offset)
    if (this.#libc.fcntl(fd, F_OFD_SETLK, this.#flockBytes) === 0) return true
    const errno = this.#libc.errno()
    if (errno === EAGAIN || errno === EACCES) return false
    throw sysError('fcntl', errno)
  }

  #fillLock(type: number, offset: number): void {
    this.#flock.fill(0n)
    this.#flockType[0] = type
    this.#flock[1] = BigInt(offset)
    this.#flock[2] = 1n
  }
}

function cString(text: string): Uint8Array {
  return Buffer.from(`${text}\0`)
}
