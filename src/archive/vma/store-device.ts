/** Copies a whole disk into an archive: zero runs by status, data with reads kept in flight. */

import type { BlockLayer, Extent, Io } from '../../block/layer.ts'
import { alignDown, alignUp, GiB, MiB } from '../../bytes/range.ts'
import { clusterSize } from './structures.ts'
import type { VmaWriteResult, VmaWriter } from './writer.ts'

/** What is read of a disk; any offset and length inside `size`, as an edge of the graph allows. */
export type DiskSource = Pick<BlockLayer, 'size' | 'read' | 'extentAt'>

/** Bytes of one read, and how many reads are in flight. */
const pieceSize = 1 * MiB
const piecesInFlight = 6
/** Zero runs are stored in steps of this size, so that progress and cancelling stay alive. */
const zeroStep = 1 * GiB

interface Piece {
  readonly offset: number
  readonly length: number
  /** Undefined for a run of zeroes. */
  readonly data: Promise<Buffer> | undefined
}

/**
 * Stores every cluster of `source` in the stream `deviceId` of `writer`, in order, and closes the
 * stream. `onProgress` hears of what was stored since the last time.
 */
export async function storeDevice(
  writer: VmaWriter,
  deviceId: number,
  source: DiskSource,
  io: Io,
  onProgress: (stored: VmaWriteResult) => void = () => {},
): Promise<void> {
  const reader = new PieceReader(source, io)
  try {
    for (let piece = await reader.next(); piece; piece = await reader.next()) {
      io.signal.throwIfAborted()
      const data = await piece.data
      onProgress(await storePiece(writer, deviceId, piece, data))
      if (data) reader.recycle(data)
    }
  } finally {
    await reader.settle()
  }
  await writer.closeStream(deviceId)
}

async function storePiece(
  writer: VmaWriter,
  deviceId: number,
  piece: Piece,
  data: Buffer | undefined,
): Promise<VmaWriteResult> {
  const sum = { bytes: 0, zeroBytes: 0 }
  for (let at = 0; at < piece.length; at += clusterSize) {
    const content = data?.subarray(at, Math.min(at + clusterSize, piece.length))
    const written = writer.write(deviceId, (piece.offset + at) / clusterSize, content)
    const { bytes, zeroBytes } = written instanceof Promise ? await written : written
    sum.bytes += bytes
    sum.zeroBytes += zeroBytes
  }
  return sum
}

/** Cuts a disk into pieces of whole clusters and reads ahead of whoever takes them. */
class PieceReader {
  readonly #source: DiskSource
  readonly #io: Io
  readonly #ahead: Piece[] = []
  readonly #free: Buffer[] = []
  #offset = 0
  /** The run of one status that the next piece begins in. */
  #run: { zero: boolean; end: number } = { zero: false, end: 0 }

  constructor(source: DiskSource, io: Io) {
    this.#source = source
    this.#io = io
  }

  async next(): Promise<Piece | undefined> {
    while (this.#ahead.length < piecesInFlight && this.#offset < this.#source.size) {
      this.#ahead.push(await this.#start())
    }
    return this.#ahead.shift()
  }

  /** Gives back the buffer of a piece. */
  recycle(buffer: Buffer): void {
    this.#free.push(Buffer.from(buffer.buffer, 0, pieceSize))
  }

  /** Waits for reads that nobody will take. */
  async settle(): Promise<void> {
    await Promise.allSettled(this.#ahead.map(({ data }) => data))
  }

  async #start(): Promise<Piece> {
    const offset = this.#offset
    const { zero, end } = await this.#runAt(offset)
    const length = Math.min(end - offset, zero ? zeroStep : pieceSize)
    this.#offset += length
    if (zero) return { offset, length, data: undefined }
    const data = this.#read(offset, length)
    data.catch(() => {})
    return { offset, length, data }
  }

  async #read(offset: number, length: number): Promise<Buffer> {
    const memory = this.#free.pop() ?? Buffer.from(new ArrayBuffer(pieceSize))
    const target = memory.subarray(0, length)
    await this.#source.read(offset, target, this.#io)
    return target
  }

  /**
   * From `offset`, a multiple of the cluster size: zeroes up to the last whole cluster of them,
   * or data up to the first one that may be zero.
   */
  async #runAt(offset: number): Promise<{ zero: boolean; end: number }> {
    if (offset < this.#run.end) return this.#run
    const { size } = this.#source
    const zeroEnd = await this.#endOf(offset, (extent) => extent.kind === 'zero')
    const zeroClusters = zeroEnd === size ? size : alignDown(zeroEnd, clusterSize)
    if (zeroClusters > offset) {
      this.#run = { zero: true, end: zeroClusters }
    } else {
      const from = Math.min(alignUp(zeroEnd + 1, clusterSize), size)
      const dataEnd = await this.#endOf(from, (extent) => extent.kind !== 'zero')
      this.#run = { zero: false, end: Math.min(alignUp(dataEnd, clusterSize), size) }
    }
    return this.#run
  }

  /** The end of the run at `offset` whose extents are `alike`, looking one step ahead at most. */
  async #endOf(offset: number, alike: (extent: Extent) => boolean): Promise<number> {
    const limit = Math.min(this.#source.size, offset + zeroStep)
    let end = offset
    while (end < limit) {
      const extent = await this.#source.extentAt(end, limit - end, this.#io)
      if (!alike(extent)) break
      end += extent.length
    }
    return end
  }
}
