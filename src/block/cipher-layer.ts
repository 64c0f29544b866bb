/**
 * Storage whose bytes are enciphered: what is read from it comes out plain, what is written goes
 * in enciphered. Requests are of whole sectors. Zeroes, discards and extents are of no use here,
 * for nothing that is stored reads as zeroes.
 */
import { SpareBuffers } from '../bytes/spare-buffers.ts'
import type { SectorCipher } from '../crypto/sector-cipher.ts'
import { BlockError } from '../errors.ts'
import { Filter } from './filter.ts'
import {
  type BlockLayer,
  type Capabilities,
  type Completion,
  type Extent,
  type HostRange,
  type Io,
  plainWriteIo,
  type WriteIo,
  type ZeroIo,
} from './layer.ts'

/** What the ciphers work on at the least. */
const sectorSize = 512

/** Bytes of one write of zeroes. */
const zeroLength = 512 * 1024

export class CipherLayer extends Filter {
  readonly #cipher: SectorCipher
  /** What an offset of the storage lacks to be the one that the cipher counts by. */
  readonly #shift: number
  readonly #spare = new SpareBuffers()

  constructor(next: BlockLayer, cipher: SectorCipher, shift = 0) {
    super(next)
    this.#cipher = cipher
    this.#shift = shift
  }

  override get capabilities(): Capabilities {
    const zeroes = { writeZeroes: 'emulated', discard: 'none', extents: 'none' } as const
    return { ...this.next.capabilities, ...zeroes, zeroInit: false }
  }

  get debugEvent(): BlockLayer['debugEvent'] {
    return this.next.debugEvent
  }

  override read(offset: number, target: Uint8Array, io: Io): Completion {
    if (target.length % sectorSize !== 0) return this.#readCutOff(offset, target, io)
    const done = this.next.read(offset, target, io)
    if (done instanceof Promise) return done.then(() => this.#decrypt(offset, target))
    this.#decrypt(offset, target)
  }

  override write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    const hidden = this.#spare.take(source.length)
    this.#cipher.encrypt(offset + this.#shift, source, hidden)
    const done = this.next.write(offset, hidden, io)
    if (done instanceof Promise) return done.finally(() => this.#spare.giveBack(hidden))
    this.#spare.giveBack(hidden)
  }

  override async writeZeroes(offset: number, length: number, io: ZeroIo): Promise<void> {
    if (io.fastOnly) {
      const message = 'enciphered zeroes cannot be written the fast way'
      throw new BlockError('UNSUPPORTED', message, { offset, errno: 'ENOTSUP' })
    }
    const zeroes = new Uint8Array(Math.min(zeroLength, length))
    const writeIo = { ...plainWriteIo, signal: io.signal, fua: io.fua, unchanged: io.unchanged }
    for (let at = 0; at < length; at += zeroes.length) {
      io.signal.throwIfAborted()
      await this.write(offset + at, zeroes.subarray(0, length - at), writeIo)
    }
  }

  override discard(): void {}

  override extentAt(offset: number, length: number): Extent {
    return { offset, length, kind: 'encoded' }
  }

  #decrypt(offset: number, bytes: Uint8Array): void {
    this.#cipher.decrypt(offset + this.#shift, bytes, bytes)
  }

  /** The storage ends within a sector: what it lacks counts as zeroes. */
  async #readCutOff(offset: number, target: Uint8Array, io: Io): Promise<void> {
    const whole = new Uint8Array(Math.ceil(target.length / sectorSize) * sectorSize)
    await this.next.read(offset, whole.subarray(0, target.length), io)
    this.#decrypt(offset, whole)
    target.set(whole.subarray(0, target.length))
  }
}

/** A run as others may see it: bytes that are enciphered cannot be used where they lie. */
export function withoutHidden(run: Extent & { readonly host?: HostRange }): Extent {
  if (!run.host?.enciphered) return run
  const { offset, length } = run
  if (run.kind === 'zero') return { offset, length, kind: 'zero', allocated: run.allocated }
  return { offset, length, kind: 'encoded' }
}
