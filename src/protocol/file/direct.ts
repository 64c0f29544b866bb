/**
 * Data past the page cache (O_DIRECT). The system demands aligned memory; requests whose buffer
 * is not aligned go through buffers that all files of the process share.
 */
import type { Io, WriteIo } from '../../block/layer.ts'
import { alignDown, MiB } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import type { Sys } from '../../sys/sys.ts'
import { Turnstile } from '../../sys/turnstile.ts'
import type { Transfer } from './buffered.ts'
import type { OpenFile } from './open-file.ts'
import { readOnce, writeInPool } from './pool-io.ts'

/** Twice the threads of the pool, so that a thread that finishes finds the next request ready. */
const maxBounceBuffers = 8
const bounceLength = MiB

/** Suits every logical block size there is. */
const bounceAlignment = 64 * 1024

const turnstile = new Turnstile(maxBounceBuffers)
const idle: Uint8Array[] = []

/** Runs `work` with `bounceLength` bytes of aligned memory; at most eight at a time. */
function withBounce<T>(sys: Sys, work: (memory: Uint8Array) => Promise<T>): Promise<T> {
  return turnstile.pass(async () => {
    const memory = idle.pop() ?? sys.alignedMemory(bounceLength, bounceAlignment)
    try {
      return await work(memory)
    } finally {
      idle.push(memory)
    }
  })
}

export class DirectTransfer implements Transfer {
  readonly #file: OpenFile
  readonly #alignment: number

  constructor(file: OpenFile, alignment: number) {
    this.#file = file
    this.#alignment = alignment
  }

  async read(offset: number, target: Uint8Array, io: Io): Promise<void> {
    if (this.#file.sys.isAlignedMemory(target, this.#alignment)) {
      const got = await this.#fill(target, target.length, offset)
      target.fill(0, got)
      return
    }
    for (let at = 0; at < target.length; at += bounceLength) {
      io.signal.throwIfAborted()
      const length = Math.min(bounceLength, target.length - at)
      await withBounce(this.#file.sys, async (memory) => {
        const got = await this.#fill(memory, length, offset + at)
        target.set(memory.subarray(0, got), at)
        target.fill(0, at + got, at + length)
      })
    }
  }

  async write(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    if (this.#file.sys.isAlignedMemory(source, this.#alignment)) {
      return writeInPool(this.#file, source, 0, offset)
    }
    for (let at = 0; at < source.length; at += bounceLength) {
      io.signal.throwIfAborted()
      const part = source.subarray(at, at + bounceLength)
      await withBounce(this.#file.sys, async (memory) => {
        memory.set(part)
        await writeInPool(this.#file, memory.subarray(0, part.length), 0, offset + at)
      })
    }
  }

  /**
   * Reads up to `length` bytes; fewer only at the end of the file. A transfer that stops between
   * blocks stopped at the end: there is nothing aligned to go on from.
   */
  async #fill(memory: Uint8Array, length: number, offset: number): Promise<number> {
    let at = 0
    while (at < length) {
      const count = await readOnce(
        this.#file,
        memory.subarray(at, length),
        length - at,
        offset + at,
      )
      at += count
      if (count === 0 || at % this.#alignment !== 0) break
    }
    return at
  }
}

/** Block sizes that disks have, smallest first. */
const blockSizes = [512, 1024, 2048, 4096]

/** An empty file does not tell: whatever reads it succeeds. */
const assumedBlockSize = 4096

/** The alignment that direct transfers of this file need: found by trying. */
export async function probeAlignment(file: OpenFile, size: number): Promise<number> {
  const memory = file.sys.alignedMemory(assumedBlockSize, assumedBlockSize)
  if (size === 0) return assumedBlockSize
  const at = alignDown(Math.max(0, size - assumedBlockSize), assumedBlockSize)
  for (const blockSize of blockSizes) {
    if (await accepts(file, memory.subarray(0, blockSize), at)) return blockSize
  }
  throw new BlockError('UNSUPPORTED', `Could not find working O_DIRECT alignment of ${file.path}`, {
    node: file.node,
    path: file.path,
  })
}

/** A block that begins where none does is refused, unless that is what the disk's blocks are. */
async function accepts(file: OpenFile, memory: Uint8Array, at: number): Promise<boolean> {
  const offset = at === 0 ? 0 : at - memory.length
  try {
    await readOnce(file, memory, memory.length, offset)
    return true
  } catch (error) {
    if (error instanceof BlockError && error.errno === 'EINVAL') return false
    throw error
  }
}

export function noDirect(names: { path: string; node: string }, cause?: unknown): BlockError {
  const message = `Could not open '${names.path}': filesystem does not support O_DIRECT`
  return new BlockError('UNSUPPORTED', message, { ...names, cause })
}
