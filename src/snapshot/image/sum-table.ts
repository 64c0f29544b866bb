/**
 * The checksums of all pages, as an image keeps them: 32 bits each, big-endian. They are read and
 * checked a piece at a time when pages of it are wanted, since a guest that is to run at once cannot
 * wait for the table of all its RAM: that of 256 GiB takes half a second.
 */
import { createHash } from 'node:crypto'
import { endianness } from 'node:os'
import type { VmState } from '../../block/abilities.ts'
import { type Completion, plainIo, plainWriteIo } from '../../block/layer.ts'
import { alignUp, MiB } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import type { SnapshotRecord } from './record.ts'

const pieceBytes = MiB
const pieceSums = pieceBytes / 4
const hashLength = 32

export class SumTable {
  readonly #state: VmState
  readonly #offset: number
  readonly #count: number
  /** SHA-256 of each piece; undefined where the table was checked as a whole. */
  readonly #hashes: Uint8Array | undefined
  readonly #pieces: (Uint32Array | undefined)[]
  readonly #loading = new Map<number, Promise<void>>()

  private constructor(
    state: VmState,
    record: SnapshotRecord,
    count: number,
    hashes: Uint8Array | undefined,
  ) {
    this.#state = state
    this.#offset = record.sumsOffset
    this.#count = count
    this.#hashes = hashes
    this.#pieces = new Array(Math.ceil(count / pieceSums)).fill(undefined)
  }

  /** Throws `CORRUPT_IMAGE` where the table, or what it will be checked against, is damaged. */
  static async open(state: VmState, record: SnapshotRecord): Promise<SumTable> {
    const count = Math.ceil(record.ramEnd / record.pageSize)
    if (record.hashedInPieces) {
      const hashes = new Uint8Array(Math.ceil(count / pieceSums) * hashLength)
      await state.read(hashesOffset(record.sumsOffset, count), hashes, plainIo)
      checkHash(createHash('sha256').update(hashes), record.sumsHash)
      return new SumTable(state, record, count, hashes)
    }
    const table = new SumTable(state, record, count, undefined)
    const hash = createHash('sha256')
    for (let piece = 0; piece < table.#pieces.length; piece++) {
      const stored = await table.#read(piece)
      hash.update(stored)
      table.#pieces[piece] = decode(stored)
    }
    checkHash(hash, record.sumsHash)
    return table
  }

  /** Waits until the sums of these pages are there. */
  load(page: number, count: number): Completion {
    const pending: Promise<void>[] = []
    const end = Math.min(this.#count, page + count)
    for (let piece = Math.floor(page / pieceSums); piece * pieceSums < end; piece++) {
      if (!this.#pieces[piece]) pending.push(this.#loadPiece(piece))
    }
    if (pending.length > 0) return Promise.all(pending).then(() => {})
  }

  /** The sum of a page of the disk; undefined as long as it is not loaded. */
  get(page: number): number | undefined {
    return this.#pieces[Math.floor(page / pieceSums)]?.[page % pieceSums]
  }

  /** All of them. */
  async whole(): Promise<Uint32Array> {
    const sums = new Uint32Array(this.#count)
    for (const index of this.#pieces.keys()) {
      await this.load(index * pieceSums, 1)
      sums.set(this.#pieces[index] ?? [], index * pieceSums)
    }
    return sums
  }

  #loadPiece(piece: number): Promise<void> {
    const loading = this.#loading.get(piece) ?? this.#loadNow(piece)
    this.#loading.set(piece, loading)
    return loading
  }

  async #loadNow(piece: number): Promise<void> {
    const stored = await this.#read(piece)
    const expected = this.#hashes?.subarray(piece * hashLength, (piece + 1) * hashLength)
    if (expected) checkHash(createHash('sha256').update(stored), expected)
    this.#pieces[piece] = decode(stored)
    this.#loading.delete(piece)
  }

  async #read(piece: number): Promise<Uint8Array> {
    const start = piece * pieceSums
    const stored = new Uint8Array(Math.min(pieceSums, this.#count - start) * 4)
    await this.#state.read(this.#offset + start * 4, stored, plainIo)
    return stored
  }
}

/**
 * Writes the table, which is used up. One of several pieces has their hashes behind it, so that it
 * need not be read as a whole.
 */
export async function writeSums(
  state: VmState,
  offset: number,
  sums: Uint32Array,
): Promise<Pick<SnapshotRecord, 'sumsHash' | 'hashedInPieces'>> {
  const stored = bigEndian(Buffer.from(sums.buffer, sums.byteOffset, sums.byteLength))
  const hashes: Buffer[] = []
  for (let at = 0; at < stored.length; at += pieceBytes) {
    const piece = stored.subarray(at, at + pieceBytes)
    hashes.push(createHash('sha256').update(piece).digest())
    await state.write(offset + at, piece, plainWriteIo)
  }
  if (hashes.length === 1) return { sumsHash: hashes[0], hashedInPieces: false }
  const list = Buffer.concat(hashes)
  await state.write(hashesOffset(offset, sums.length), list, plainWriteIo)
  return { sumsHash: createHash('sha256').update(list).digest(), hashedInPieces: true }
}

function hashesOffset(sumsOffset: number, count: number): number {
  return alignUp(sumsOffset + count * 4, 512)
}

function checkHash(hash: ReturnType<typeof createHash>, expected: Uint8Array): void {
  if (Buffer.compare(hash.digest(), expected) === 0) return
  throw new BlockError('CORRUPT_IMAGE', 'the checksums of RAM are not what was saved')
}

function decode(stored: Uint8Array): Uint32Array {
  const words = bigEndian(Buffer.from(stored.buffer, stored.byteOffset, stored.length))
  return new Uint32Array(words.buffer, words.byteOffset, words.length / 4)
}

/** Turns words of this machine's order into such, or the reverse, in place. */
function bigEndian(words: Buffer): Buffer {
  return endianness() === 'BE' ? words : words.swap32()
}
