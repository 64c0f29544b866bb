/**
 * Signals event descriptors that somebody else holds as well, without ever waiting for him.
 *
 * Writing to one waits while its counter is full, unless the descriptor is non-blocking, which the other
 * holder can change at any moment. The kernel's own signals never wait: so the kernel is asked for one, as
 * what tells of the end of a read (io_submit(2), `aio_resfd`): of nothing, from /dev/null.
 */
import { openSync, writeSync } from 'node:fs'
import type { Call, Libc } from './koffi-load.ts'

/** System calls, of which the C library knows nothing: setup, getevents, submit. */
const callNumbers: Readonly<Record<string, readonly [number, number, number]>> = {
  x64: [206, 208, 209],
  s390x: [243, 245, 246],
  ppc64: [227, 229, 230],
}
/** Of the architectures that share a table of system calls. */
const genericNumbers = [0, 4, 2] as const

const IOCB_CMD_PREAD = 0
const IOCB_FLAG_RESFD = 1
/** A `struct iocb`, and where its opcode, descriptor, flags and descriptor to signal lie. */
const iocb = { size: 64, opcode: 16, fd: 20, flags: 56, signalled: 60 }
/** Reads that may be untaken before the kernel accepts no more. */
const capacity = 128
/** A `struct io_event`. */
const eventSize = 32

/** fcntl(2) */
const F_GETFL = 3
const F_SETFL = 4
const O_NONBLOCK = 0o4000

export class Signals {
  readonly #fcntl: Call
  readonly #syscall: Call
  readonly #numbers: readonly [number, number, number]
  readonly #address: (bytes: ArrayBufferView) => number
  readonly #one = new Uint8Array(new BigUint64Array([1n]).buffer)
  readonly #request = new Uint8Array(new ArrayBuffer(iocb.size))
  readonly #view = new DataView(this.#request.buffer)
  /** The list of one request that `submit` takes. */
  readonly #list = new BigUint64Array(new ArrayBuffer(8))
  readonly #listAddress: number
  readonly #events = new Uint8Array(new ArrayBuffer(eventSize * capacity))
  readonly #noTime = new Uint8Array(new ArrayBuffer(16))
  /** What the kernel knows us by; undefined where it has no such thing. */
  readonly #context: number | undefined
  #untaken = 0

  constructor(libc: Libc) {
    const addresses = Array<string>(5).fill('uintptr_t')
    this.#syscall = libc.bind('syscall', 'long', ['long', ...addresses])
    this.#fcntl = libc.fcntlNumber
    this.#numbers = callNumbers[process.arch] ?? genericNumbers
    this.#address = (bytes) => Number(libc.address(bytes))
    this.#listAddress = this.#address(this.#list)
    this.#context = this.#setUp()
  }

  /** One that has been signalled too often to count stays so. */
  signal(fd: number): void {
    if (this.#context === undefined) {
      this.#write(fd)
      return
    }
    if (this.#untaken === capacity) this.#take()
    this.#view.setUint32(iocb.signalled, fd, true)
    const [, , submit] = this.#numbers
    const done = this.#syscall(submit, this.#context, 1, this.#listAddress, 0, 0)
    // What is no event descriptor is not signalled.
    if (done > 0) this.#untaken++
  }

  #setUp(): number | undefined {
    const [setup] = this.#numbers
    const context = new BigUint64Array(new ArrayBuffer(8))
    if (this.#syscall(setup, capacity, this.#address(context), 0, 0, 0) < 0) return undefined
    this.#list[0] = BigInt(this.#address(this.#request))
    this.#view.setUint16(iocb.opcode, IOCB_CMD_PREAD, true)
    this.#view.setUint32(iocb.fd, openSync('/dev/null', 'r'), true)
    this.#view.setUint32(iocb.flags, IOCB_FLAG_RESFD, true)
    return Number(context[0])
  }

  #take(): void {
    const [, take] = this.#numbers
    const [events, noTime] = [this.#address(this.#events), this.#address(this.#noTime)]
    this.#syscall(take, this.#context as number, 0, capacity, events, noTime)
    this.#untaken = 0
  }

  /** Where there is no other way: he would have to change the descriptor at the very moment. */
  #write(fd: number): void {
    const flags = this.#fcntl(fd, F_GETFL, 0)
    if ((flags & O_NONBLOCK) === 0) this.#fcntl(fd, F_SETFL, flags + O_NONBLOCK)
    try {
      writeSync(fd, this.#one)
    } catch {
      // Its counter is full: whoever waits for it has been told.
    }
  }
}
