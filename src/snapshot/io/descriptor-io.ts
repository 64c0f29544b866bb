/** Streams over descriptors that were handed over: pipes, sockets and files. */
import { read, readSync, write } from 'node:fs'
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import { errnoOf, systemError } from '../../errors.ts'
import { sys } from '../../sys/current.ts'
import { patiently } from '../../sys/patiently.ts'
import type { ByteSource } from '../stream/window.ts'
import type { ByteSink } from './sink.ts'

/** What Linux lets anybody have. A usual pipe holds 64 KiB, so a MiB would be 16 system calls. */
const pipeLength = 1024 * 1024

/** How long a pipe may fill. */
const pauseMs = 1

/**
 * A pipe from QEMU gets one page at a time. A read that brought less than this is followed by a
 * pause, in which the pipe fills: many small reads cost more than the pages.
 */
const smallRead = 32 * 1024

/** For how long, in ms, reads may follow each other without a turn of the event loop. */
const longestStretch = 5

/**
 * What has arrived is read on the spot, which saves two trips between threads for each read; only
 * waiting is left to the thread pool.
 */
export class DescriptorSource implements ByteSource {
  readonly name: string
  readonly #fd: number
  #small = 0
  #turned = performance.now()

  constructor(fd: number, name: string) {
    this.#fd = fd
    this.name = name
    sys().growPipe(fd, pipeLength)
  }

  read(target: Uint8Array): number | Promise<number> {
    if (this.#small > 4 || performance.now() - this.#turned > longestStretch) {
      return this.#readLater(target)
    }
    return sys().isReadable(this.#fd) ? this.#readNow(target) : this.#readInPool(target)
  }

  async #readLater(target: Uint8Array): Promise<number> {
    if (this.#small > 4) await sleep(pauseMs)
    else await turn()
    this.#small = 0
    this.#turned = performance.now()
    return await this.read(target)
  }

  #readNow(target: Uint8Array): number | Promise<number> {
    try {
      return this.#counted(readSync(this.#fd, target, 0, target.length, null))
    } catch (error) {
      if (errnoOf(error) === 'EAGAIN') return this.#readInPool(target)
      throw this.#fault(error)
    }
  }

  async #readInPool(target: Uint8Array): Promise<number> {
    const count = await patiently((done) =>
      read(this.#fd, target, 0, target.length, null, done),
    ).catch((error) => {
      throw this.#fault(error)
    })
    this.#turned = performance.now()
    return this.#counted(count)
  }

  #counted(count: number): number {
    this.#small = count < smallRead ? this.#small + 1 : 0
    return count
  }

  #fault(error: unknown) {
    return systemError(error, `Could not read ${this.name}`, { path: this.name })
  }
}

export class DescriptorSink implements ByteSink {
  readonly name: string
  readonly #fd: number

  constructor(fd: number, name: string) {
    this.#fd = fd
    this.name = name
  }

  /** Much may be under way: for streams in which nothing is urgent. */
  widen(): void {
    sys().growPipe(this.#fd, pipeLength)
  }

  async write(bytes: Uint8Array): Promise<void> {
    try {
      for (let at = 0; at < bytes.length; ) {
        at += await patiently((done) => write(this.#fd, bytes, at, bytes.length - at, null, done))
      }
    } catch (error) {
      throw systemError(error, `Could not write to ${this.name}`, { path: this.name })
    }
  }

  /** Whoever handed the descriptor over closes it, at the latest by ending. */
  async end(): Promise<void> {}
}
