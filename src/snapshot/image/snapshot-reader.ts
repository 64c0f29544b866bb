/**
 * Reads a snapshot image. Opening it checks that it was completed, that what describes devices and
 * RAM is what was written, and that it can be told apart whole; each page of RAM is checked when it
 * is read. Images of qemu-snap have no checksums: of them only the structure is checked.
 */
import { createHash } from 'node:crypto'
import { type Completion, plainIo } from '../../block/layer.ts'
import { KiB, MiB } from '../../bytes/range.ts'
import { viewOf } from '../../bytes/view.ts'
import { isZero } from '../../bytes/zero.ts'
import { BlockError, inContext } from '../../errors.ts'
import { StreamReader } from '../stream/parser.ts'
import type { Configuration, DeviceSection, RamList, StreamItem } from '../stream/stream-item.ts'
import {
  endOf,
  maxLeaderBytes,
  type PlacedBlock,
  placeBlocks,
  stateHeader,
  stateMagic,
} from './layout.ts'
import { PageSums } from './page-sum.ts'
import { decodeRecord, recordLength, recordOffset, type SnapshotRecord } from './record.ts'
import type { SnapshotImage } from './snapshot-image.ts'
import { stateHash } from './snapshot-writer.ts'
import { SumTable } from './sum-table.ts'

/** Read at a time: so much the page cache gives on the spot, and the processor's cache holds. */
const pieceLength = 256 * KiB

/** Leader and device states, which are held in memory. */
const maxStateBytes = 1024 * MiB

export interface SnapshotParts {
  readonly machine: string
  readonly configuration: Configuration | undefined
  readonly ramList: RamList
  /** Devices in front of RAM, and behind it. */
  readonly early: readonly DeviceSection[]
  readonly devices: readonly DeviceSection[]
  /** JSON; undefined where the source sent none. */
  readonly description: string | undefined
  /** The end mark and the description, as they came. */
  readonly tail: Uint8Array
}

export class SnapshotReader {
  readonly name: string
  readonly parts: SnapshotParts
  readonly blocks: readonly PlacedBlock[]
  readonly pageSize: number
  /** Undefined for an image of qemu-snap. */
  readonly record: SnapshotRecord | undefined
  /** Checksums of the pages of the disk. */
  readonly sums: SumTable | undefined
  /** Pages that are not zero, as the source counted them. */
  readonly normalPages: number
  readonly #image: SnapshotImage
  readonly #pageSums: PageSums
  /** Checksums of what was read, until they are compared. */
  readonly #found: Uint32Array

  private constructor(
    image: SnapshotImage,
    parts: SnapshotParts,
    normalPages: number,
    record: SnapshotRecord | undefined,
    sums: SumTable | undefined,
  ) {
    this.#image = image
    this.name = image.name
    this.parts = parts
    this.blocks = placeBlocks(parts.ramList.blocks)
    this.pageSize = parts.ramList.pageSize
    this.normalPages = normalPages
    this.record = record
    this.sums = sums
    this.#pageSums = new PageSums(this.pageSize)
    this.#found = new Uint32Array(Math.ceil(pieceLength / this.pageSize))
  }

  /** The image stays its owner's. */
  static async open(image: SnapshotImage): Promise<SnapshotReader> {
    try {
      return await openReader(image, (...known) => new SnapshotReader(image, ...known))
    } catch (error) {
      throw inContext(image.name, error)
    }
  }

  /** Bytes of RAM. */
  get ramSize(): number {
    return this.blocks.reduce((sum, { usedLength }) => sum + usedLength, 0)
  }

  /** Whether the source sent any page of a block; shared ones may not be touched. */
  isSent(block: number): boolean {
    return this.record ? this.record.blocksSent[block] : true
  }

  /** Loads what `isZeroPage` needs to tell of a part of the disk. */
  prepare(offset: number, length: number): Completion {
    return this.sums?.load(Math.floor(offset / this.pageSize), Math.ceil(length / this.pageSize))
  }

  /** Whether a page of the disk is zero; undefined where only its content tells. */
  isZeroPage(page: number): boolean | undefined {
    const sum = this.sums?.get(page)
    return sum === undefined ? undefined : sum === this.#pageSums.zero
  }

  /**
   * Fills `target`, whole pages of one block from a byte of the disk on, and checks them; on the
   * spot where the page cache has them.
   */
  read(offset: number, target: Uint8Array): Completion {
    for (let at = 0; at < target.length; at += pieceLength) {
      const done = this.#readPiece(offset + at, target.subarray(at, at + pieceLength))
      if (done) return this.#readRest(offset, target, at + pieceLength, done)
    }
  }

  /** The pieces from `start` on, together; the target is its owner's again when all are done. */
  async #readRest(
    offset: number,
    target: Uint8Array,
    start: number,
    before: Promise<void>,
  ): Promise<void> {
    const pending = [before]
    for (let at = start; at < target.length; at += pieceLength) {
      const piece = target.subarray(at, at + pieceLength)
      pending.push((async () => this.#readPiece(offset + at, piece))())
    }
    for (const result of await Promise.allSettled(pending)) {
      if (result.status === 'rejected') throw result.reason
    }
  }

  #readPiece(offset: number, target: Uint8Array): Completion {
    const loaded = this.prepare(offset, target.length)
    const done = this.#image.ram.read(offset, target, plainIo)
    if (!loaded && !done) return this.#check(offset, target)
    return this.#checkLater([loaded, done], offset, target)
  }

  async #checkLater(
    both: readonly Completion[],
    offset: number,
    target: Uint8Array,
  ): Promise<void> {
    for (const result of await Promise.allSettled(both)) {
      if (result.status === 'rejected') throw result.reason
    }
    this.#check(offset, target)
  }

  #check(offset: number, pages: Uint8Array): void {
    if (!this.sums) return
    const first = offset / this.pageSize
    const count = pages.length / this.pageSize
    const found = this.#found.length < count ? new Uint32Array(count) : this.#found
    this.#pageSums.fill(found, 0, pages)
    for (let index = 0; index < count; index++) {
      if (found[index] === this.sums.get(first + index)) continue
      throw this.#damaged(offset + index * this.pageSize)
    }
  }

  /** Runs of pages that are not zero, in order; the bytes are valid until the next one. */
  async *pages(
    offset: number,
    length: number,
  ): AsyncGenerator<{ readonly offset: number; readonly bytes: Uint8Array }> {
    const buffer = new Uint8Array(MiB)
    const end = offset + length
    for (let at = offset; at < end; at += buffer.length) {
      const piece = buffer.subarray(0, Math.min(buffer.length, end - at))
      await this.prepare(at, piece.length)
      if (this.#isBlank(at, piece.length)) continue
      await this.read(at, piece)
      let start = 0
      for (let next = 0; next <= piece.length; next += this.pageSize) {
        const page = piece.subarray(next, next + this.pageSize)
        if (page.length > 0 && !isZero(page)) continue
        if (next > start) yield { offset: at + start, bytes: piece.subarray(start, next) }
        start = next + this.pageSize
      }
    }
  }

  #isBlank(offset: number, length: number): boolean {
    for (let at = offset; at < offset + length; at += this.pageSize) {
      if (this.isZeroPage(at / this.pageSize) !== true) return false
    }
    return true
  }

  #damaged(offset: number): BlockError {
    const block = this.blocks.find(({ base, usedLength }) => offset < base + usedLength)
    const where = block ? `byte ${offset - block.base} of '${block.name}'` : `byte ${offset}`
    return new BlockError(
      'CORRUPT_IMAGE',
      `${this.name}: the page at ${where} is not what was saved`,
      { path: this.name, offset },
    )
  }
}

async function openReader(
  image: SnapshotImage,
  made: (
    parts: SnapshotParts,
    normalPages: number,
    record: SnapshotRecord | undefined,
    sums: SumTable | undefined,
  ) => SnapshotReader,
): Promise<SnapshotReader> {
  const { state, ram } = image
  const headBytes = new Uint8Array(stateHeader.size)
  await state.read(0, headBytes, plainIo)
  if (viewOf(headBytes).getUint32(0) === 0 && headBytes.every((byte) => byte === 0)) {
    throw new BlockError('NOT_RECOGNISED', 'the image holds no complete snapshot')
  }
  if (viewOf(headBytes).getUint32(0) !== stateMagic) {
    throw new BlockError('NOT_RECOGNISED', 'the image holds no snapshot')
  }
  const head = stateHeader.decode(headBytes)
  if (head.eofOffset === 0) corrupt('the snapshot was never completed')
  if (
    head.ramListOffset >= head.deviceOffset ||
    head.deviceOffset >= head.eofOffset ||
    head.deviceOffset > maxLeaderBytes ||
    head.eofOffset > maxStateBytes
  ) {
    corrupt('the header of the snapshot contradicts itself')
  }
  const stream = new Uint8Array(head.eofOffset)
  await state.read(stateHeader.size, stream, plainIo)
  const parts = await splitState(stream, head.deviceOffset, head.pageSize)
  const blocks = placeBlocks(parts.ramList.blocks)
  if (parts.ramList.pageSize !== head.pageSize) corrupt('two sizes of pages')
  if (endOf(blocks) > ram.size) corrupt('the image is smaller than its RAM')
  const at = recordOffset(stateHeader.size + head.eofOffset)
  const stored = new Uint8Array(recordLength(blocks.length))
  await state.read(at, stored, plainIo)
  const record = decodeRecord(stored, blocks.length)
  if (!record) return made(parts, head.normalPages, undefined, undefined)
  const rest = createHash('sha256').update(stream).digest()
  if (Buffer.compare(stateHash(headBytes, rest), record.stateHash) !== 0) {
    corrupt('the states of the devices are not what was saved')
  }
  if (record.ramEnd !== endOf(blocks) || record.pageSize !== head.pageSize) {
    corrupt('the record of the snapshot contradicts the list of RAM blocks')
  }
  return made(parts, head.normalPages, record, await SumTable.open(state, record))
}

/** Parses what was saved as the stream that it is, without its RAM. */
async function splitState(
  stream: Uint8Array,
  deviceOffset: number,
  pageSize: number,
): Promise<SnapshotParts> {
  let given = 0
  const source = {
    name: 'the state of the devices',
    async read(target: Uint8Array) {
      const part = stream.subarray(given, given + target.length)
      target.set(part)
      given += part.length
      return part.length
    },
  }
  const reader = new StreamReader(source, { pageSize, withoutDescription: true })
  const items: StreamItem[] = []
  const devices: DeviceSection[] = []
  const early: DeviceSection[] = []
  let at = 0
  for await (const item of reader) {
    if (item.kind === 'section') {
      const kept = { ...item, body: item.body.slice(), bytes: item.bytes.slice() }
      if (at < deviceOffset) early.push(kept)
      else devices.push(kept)
    } else items.push(keep(item))
    at = reader.offset
  }
  const find = <K extends StreamItem['kind']>(kind: K) =>
    items.find((item): item is Extract<StreamItem, { kind: K }> => item.kind === kind)
  const ramList = find('ram-list')
  const end = find('end')
  if (!ramList || !end) throw new BlockError('CORRUPT_IMAGE', 'the snapshot lacks a part')
  const configuration = find('configuration')
  const description = find('description')
  return {
    machine: configuration?.machine ?? '',
    ...{ configuration, ramList, early, devices },
    description: description?.text,
    tail: Buffer.concat([end.bytes, description?.bytes ?? new Uint8Array(0)]),
  }
}

function keep(item: StreamItem): StreamItem {
  return 'bytes' in item ? { ...item, bytes: item.bytes.slice() } : item
}

function corrupt(what: string): never {
  throw new BlockError('CORRUPT_IMAGE', what)
}
