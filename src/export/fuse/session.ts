/**
 * A disk mounted over a regular file: requests of the kernel come from `/dev/fuse`, one a read, and are
 * answered in any order. The mount's root is the file itself, its only inode.
 *
 * A request that the kernel takes back has no answer to wait for; what it does to the disk is done.
 */
import { closeSync, readSync, writeSync } from 'node:fs'
import { constants as system } from 'node:os'
import type { Completion } from '../../block/layer.ts'
import { BlockError, errnoOf } from '../../errors.ts'
import type { Sys } from '../../sys/sys.ts'
import {
  attributesOut,
  fallocateIn,
  inHeader,
  initFlag,
  initIn,
  initOut,
  lseekIn,
  lseekOut,
  opcode,
  openOut,
  outHeader,
  protocolVersion,
  setattrIn,
  statfsOut,
  transferIn,
  writeOut,
} from '../../wire/fuse/protocol.ts'
import type { DescriptorWatch } from '../descriptor-watch.ts'
import type { DiskFile } from './disk-file.ts'
import { dataStart, maxInFlight, maxPages, maxTransfer, sectorSize } from './limits.ts'
import type { Mount } from './mount.ts'

/** The kernel may rely on attributes for so long, as with QEMU. */
const attributeSeconds = 1

const longestName = 255

/** What is asked of the kernel, where it offers it. */
const wantedFlags =
  initFlag.asyncRead |
  // Opened with O_TRUNC a disk keeps its size: there is no other disk to begin.
  initFlag.atomicTruncate |
  initFlag.bigWrites |
  initFlag.autoInvalidate |
  initFlag.asyncDirect |
  initFlag.maxPages

type Header = ReturnType<typeof inHeader.decode>

export class FuseSession implements AsyncDisposable {
  readonly #sys: Sys
  readonly #watch: DescriptorWatch
  readonly #mount: Mount
  readonly #file: DiskFile
  /** Buffers that no request has; as many as there have been requests at a time. */
  readonly #spare: Uint8Array[] = []
  readonly #inFlight = new Set<Promise<void>>()
  /** The kernel has let go of the file system: it has been unmounted, here or by somebody else. */
  #ended = false

  /** Takes over the mount. */
  constructor(sys: Sys, watch: DescriptorWatch, mount: Mount, file: DiskFile) {
    this.#sys = sys
    this.#watch = watch
    this.#mount = mount
    this.#file = file
    this.#resume()
  }

  /**
   * Unmounts the file, and ends what is under way. Who still has it open gets errors from now on; requests are
   * answered as long as the kernel writes out what it has kept.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    // Somebody may have unmounted it.
    if (!this.#ended) await this.#mount.unmount().catch(() => {})
    this.#end()
    await Promise.all(this.#inFlight)
    closeSync(this.#mount.fd)
  }

  #resume(): void {
    this.#watch.add(this.#mount.fd, () => this.#receiveAll())
  }

  #end(): void {
    this.#ended = true
    this.#watch.delete(this.#mount.fd)
  }

  #receiveAll(): void {
    while (!this.#ended && this.#sys.isReadable(this.#mount.fd)) {
      if (this.#inFlight.size >= maxInFlight) {
        this.#watch.delete(this.#mount.fd)
        return
      }
      const buffer = this.#spare.pop() ?? new Uint8Array(dataStart + maxTransfer)
      const length = this.#receive(buffer)
      const dealing = length === undefined ? undefined : this.#deal(buffer, length)
      if (dealing) this.#follow(dealing, buffer)
      else this.#spare.push(buffer)
    }
  }

  /** The length of the next request; undefined where there is none. */
  #receive(buffer: Uint8Array): number | undefined {
    try {
      const length = readSync(this.#mount.fd, buffer)
      if (length >= inHeader.size) return length
      this.#end()
    } catch (error) {
      const errno = errnoOf(error)
      // ENOENT: one was taken back while it was handed over.
      if (errno !== 'EAGAIN' && errno !== 'EINTR' && errno !== 'ENOENT') this.#end()
    }
    return undefined
  }

  /** The buffer is the request's until its end. */
  #follow(dealing: Promise<void>, buffer: Uint8Array): void {
    const followed = dealing.finally(() => {
      const wasFull = this.#inFlight.size >= maxInFlight
      this.#inFlight.delete(followed)
      this.#spare.push(buffer)
      if (wasFull && !this.#ended) this.#resume()
    })
    this.#inFlight.add(followed)
  }

  /** Deals with a request on the spot, which most reads and writes permit, or in a promise that never rejects. */
  #deal(buffer: Uint8Array, length: number): Completion {
    const header = inHeader.decode(buffer)
    const body = buffer.subarray(inHeader.size, length)
    try {
      const { opcode: code } = header
      if (code === opcode.read) return this.#read(header, body, buffer)
      if (code === opcode.write) return this.#write(header, body)
    } catch (error) {
      return this.#reply(header, undefined, errnoNumber(error))
    }
    return this.#answer(header, body).then(
      (answer) => {
        if (!unanswered.has(header.opcode)) this.#reply(header, answer, 0)
      },
      (error) => this.#reply(header, undefined, errnoNumber(error)),
    )
  }

  /** The data goes where the request came, behind room for the header. */
  #read(header: Header, body: Uint8Array, buffer: Uint8Array): Completion {
    const { offset, length: wanted } = transferIn.decode(body)
    const send = (length: number) => {
      const whole = buffer.subarray(dataStart - outHeader.size, dataStart + length)
      outHeader.encodeInto(whole, 0, { length: whole.length, error: 0, unique: header.unique })
      this.#send(whole)
    }
    const reading = this.#file.read(offset, buffer.subarray(dataStart, dataStart + wanted))
    return this.#settle(header, reading, send)
  }

  #write(header: Header, body: Uint8Array): Completion {
    const { offset, length } = transferIn.decode(body)
    const data = body.subarray(transferIn.size, transferIn.size + length)
    return this.#settle(header, this.#file.write(offset, data), (written) =>
      this.#reply(header, writeOut.encode({ length: written, padding: 0 }), 0),
    )
  }

  #settle(
    header: Header,
    transfer: number | Promise<number>,
    send: (length: number) => void,
  ): Completion {
    if (!(transfer instanceof Promise)) return send(transfer)
    return transfer.then(send, (error) => this.#reply(header, undefined, errnoNumber(error)))
  }

  async #answer(header: Header, body: Uint8Array): Promise<Uint8Array | undefined> {
    const file = this.#file
    switch (header.opcode) {
      case opcode.init:
        return initAnswer(body)
      case opcode.getattr:
        return await this.#attributes()
      case opcode.setattr:
        await file.change(setattrIn.decode(body))
        return await this.#attributes()
      case opcode.open:
        return openOut.encode({ handle: 0, flags: 0, padding: 0 })
      case opcode.flush:
      case opcode.fsync:
        await file.flush()
        return undefined
      case opcode.fallocate: {
        const { offset, length, mode } = fallocateIn.decode(body)
        await file.allocate(offset, length, mode)
        return undefined
      }
      case opcode.lseek: {
        const { offset, whence } = lseekIn.decode(body)
        return lseekOut.encode({ offset: await file.seek(offset, whence) })
      }
      case opcode.statfs:
        return statfsOut.encode(noSpaceFacts)
      case opcode.release:
      case opcode.forget:
      case opcode.batchForget:
      case opcode.interrupt:
      case opcode.destroy:
        return undefined
      default:
        throw new BlockError('UNSUPPORTED', `FUSE request ${header.opcode}`, { errno: 'ENOSYS' })
    }
  }

  async #attributes(): Promise<Uint8Array> {
    const { size, blocks, blockSize, mode, uid, gid } = await this.#file.attributes()
    // Whatever was read before may have changed: the disk has other users.
    const now = Math.floor(Date.now() / 1000)
    return attributesOut.encode({
      ...{ validSeconds: attributeSeconds, validNanoseconds: 0, dummy: 0 },
      ...{ inode: 1, size, blocks, blockSize, mode, links: 1, uid, gid, device: 0, flags: 0 },
      ...{ accessed: now, modified: now, changed: now },
      ...{ accessedNanoseconds: 0, modifiedNanoseconds: 0, changedNanoseconds: 0 },
    })
  }

  #reply({ unique }: Header, body: Uint8Array | undefined, errno: number): void {
    const length = outHeader.size + (body?.length ?? 0)
    const whole = new Uint8Array(length)
    outHeader.encodeInto(whole, 0, { length, error: -errno, unique })
    if (body) whole.set(body, outHeader.size)
    this.#send(whole)
  }

  /** The kernel takes an answer whole and at once. */
  #send(whole: Uint8Array): void {
    try {
      writeSync(this.#mount.fd, whole)
    } catch {
      // The request was taken back, or the file system with it.
    }
  }
}

/** Requests that only tell something. */
const unanswered = new Set<number>([opcode.forget, opcode.batchForget, opcode.interrupt])

/** A disk has no room but its own. */
const noSpaceFacts = {
  ...{ blocks: 0, free: 0, available: 0, files: 0, freeFiles: 0 },
  ...{ blockSize: sectorSize, nameLength: longestName, fragmentSize: sectorSize },
  unused: Array<number>(7).fill(0),
}

function initAnswer(body: Uint8Array): Uint8Array {
  const { major, maxReadahead, flags } = initIn.decode(body)
  if (major !== protocolVersion.major) {
    throw new BlockError('UNSUPPORTED', `FUSE protocol ${major}`, { errno: 'EPROTO' })
  }
  return initOut.encode({
    ...protocolVersion,
    maxReadahead,
    flags: (flags & wantedFlags) >>> 0,
    maxBackground: maxInFlight,
    congestionThreshold: Math.floor((maxInFlight * 3) / 4),
    maxWrite: maxTransfer,
    timeGranularity: 1,
    maxPages,
    mapAlignment: 0,
    unused: Array<number>(8).fill(0),
  })
}

function errnoNumber(error: unknown): number {
  const name = errnoOf(error) ?? 'EIO'
  return (system.errno as Readonly<Record<string, number>>)[name] ?? system.errno.EIO
}
