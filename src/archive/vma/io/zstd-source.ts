/**
 * Reading zstd in order. Node's decoder stops after the first frame and may take a truncated one
 * for whole, so the frame and block headers (RFC 8878, section 3.1) are followed here: each frame
 * is handed to a decoder of its own, complete or not at all.
 */
import type { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'
import { crc32, createZstdDecompress, zstdDecompress } from 'node:zlib'
import { MiB } from '../../../bytes/range.ts'
import { BlockError } from '../../../errors.ts'
import type { ChunkReader } from './chunk-reader.ts'
import {
  decodeSeekFooter,
  isSkippable,
  maxSeekTableSize,
  seekEntry,
  seekEntrySizes,
  seekFooter,
  seekTableMagic,
  zstdMagic,
} from './zstd-format.ts'

/** Frames up to this content size are decoded whole, several at a time. */
export const maxWholeFrame = 16 * MiB
const wholeFramesInFlight = 3
/** The memory that a frame may ask a decoder for, as with the `zstd` program. */
const maxWindow = 128 * MiB
const outputChunk = 1 * MiB

/** The decoded bytes of all frames. */
export async function* decodeZstd(input: ChunkReader): AsyncGenerator<Uint8Array> {
  const pending: Promise<Buffer>[] = []
  const tally = new SeekTally()
  try {
    for (let frame = await nextFrame(input, tally); frame; frame = await nextFrame(input, tally)) {
      if (frame.contentSize !== undefined && frame.contentSize <= maxWholeFrame) {
        const decoded = decodeWhole(await gather(input, frame, tally), frame)
        decoded.catch(() => {})
        pending.push(decoded)
        if (pending.length < wholeFramesInFlight) continue
        yield await pending.shift()!
      } else {
        while (pending.length > 0) yield await pending.shift()!
        yield* decodeStreaming(input, frame, tally)
      }
    }
    while (pending.length > 0) yield await pending.shift()!
  } finally {
    await Promise.allSettled(pending)
  }
}

interface Frame {
  readonly name: string
  readonly offset: number
  /** Magic and frame header as they were read. */
  readonly head: Buffer
  readonly contentSize: number | undefined
  readonly hasChecksum: boolean
}

/** Reads up to the first block of the next frame, past skippable ones; undefined at the end. */
async function nextFrame(input: ChunkReader, tally: SeekTally): Promise<Frame | undefined> {
  for (;;) {
    const offset = input.offset
    const magic = await input.take(4)
    if (magic.length === 0) return undefined
    const value = magic.length === 4 ? magic.readUInt32LE(0) : 0
    if (value === zstdMagic) return frameHeader(input, offset, magic)
    if (!isSkippable(value)) {
      throw magic.length < 4 ? cutOff(input, offset) : corrupt(input, offset, 'has no zstd frame')
    }
    await skip(input, offset, value, tally)
  }
}

async function skip(input: ChunkReader, offset: number, magic: number, tally: SeekTally) {
  const size = (await exactly(input, 4, offset)).readUInt32LE(0)
  if (magic === seekTableMagic && size <= maxSeekTableSize) {
    const table = await exactly(input, size, offset)
    if (!tally.matches(table)) throw corrupt(input, offset, 'has a seek table that is wrong')
    return
  }
  let left = size
  for await (const part of input.pass(size)) left -= part.length
  if (left > 0) throw cutOff(input, offset)
}

async function frameHeader(input: ChunkReader, offset: number, magic: Buffer): Promise<Frame> {
  const descriptor = await exactly(input, 1, offset)
  const sizeFlag = descriptor[0] >> 6
  const singleSegment = (descriptor[0] & 0x20) !== 0
  const windowBytes = singleSegment ? 0 : 1
  const dictionaryBytes = [0, 1, 2, 4][descriptor[0] & 3]
  const sizeBytes = sizeFlag === 0 ? Number(singleSegment) : 2 ** sizeFlag
  if (descriptor[0] & 0x08) throw corrupt(input, offset, 'has a reserved bit set in a zstd frame')
  if (dictionaryBytes > 0) {
    throw new BlockError('UNSUPPORTED', `'${input.name}' needs a zstd dictionary`, { offset })
  }
  const rest = await exactly(input, windowBytes + sizeBytes, offset)
  const contentSize = readContentSize(rest.subarray(windowBytes))
  const window = singleSegment ? (contentSize ?? 0) : windowSize(rest[0])
  if (window > maxWindow && !(contentSize !== undefined && contentSize <= maxWindow)) {
    throw new BlockError(
      'UNSUPPORTED',
      `'${input.name}' was compressed with a zstd window of ${window} bytes; ${maxWindow} is the most`,
      { path: input.name, offset },
    )
  }
  return {
    name: input.name,
    offset,
    head: Buffer.concat([magic, descriptor, rest]),
    contentSize,
    hasChecksum: (descriptor[0] & 0x04) !== 0,
  }
}

/** RFC 8878, section 3.1.1.1.2. */
function windowSize(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3))
  return base + (base / 8) * (descriptor & 7)
}

function readContentSize(bytes: Buffer): number | undefined {
  switch (bytes.length) {
    case 0:
      return undefined
    case 2:
      return bytes.readUInt16LE(0) + 256
    case 8:
      return Number(bytes.readBigUInt64LE(0))
    default:
      return bytes.readUIntLE(0, bytes.length)
  }
}

const blockTypes = { raw: 0, rle: 1, compressed: 2, reserved: 3 } as const

/** The frame's bytes from its head to its checksum. */
async function* frameBytes(
  input: ChunkReader,
  frame: Frame,
  onEnd: (size: number) => void,
): AsyncGenerator<Uint8Array> {
  yield frame.head
  for (let last = false; !last; ) {
    const header = await exactly(input, 3, frame.offset)
    yield header
    const value = header.readUIntLE(0, 3)
    last = (value & 1) === 1
    const type = (value >> 1) & 3
    if (type === blockTypes.reserved) {
      throw corrupt(input, frame.offset, 'has a zstd block of a reserved type')
    }
    yield* exactlyPassed(input, type === blockTypes.rle ? 1 : value >> 3, frame.offset)
  }
  if (frame.hasChecksum) yield* exactlyPassed(input, 4, frame.offset)
  onEnd(input.offset - frame.offset)
}

async function gather(input: ChunkReader, frame: Frame, tally: SeekTally): Promise<Buffer> {
  const limit = 2 * frame.contentSize! + 64 * 1024
  const parts: Uint8Array[] = []
  let size = 0
  const onEnd = (compressed: number) => tally.add(compressed, frame.contentSize!)
  for await (const part of frameBytes(input, frame, onEnd)) {
    size += part.length
    if (size > limit) throw corrupt(input, frame.offset, 'has a zstd frame larger than its content')
    parts.push(part)
  }
  return Buffer.concat(parts, size)
}

const spareOutput = 64

const decompress = promisify(zstdDecompress)

/** Decodes one frame that is in memory. `contentSize` is known and limits the output. */
export async function decodeWhole(
  bytes: Uint8Array,
  frame: { readonly name: string; readonly offset: number; readonly contentSize?: number },
): Promise<Buffer> {
  const size = frame.contentSize!
  const decoded = await decompress(bytes, {
    // A chunk that is not filled to the brim spares the decoder the next one.
    chunkSize: size + spareOutput,
    maxOutputLength: size + spareOutput,
  })
  if (decoded.length !== size) {
    throw new BlockError(
      'CORRUPT_IMAGE',
      `'${frame.name}': the zstd frame at byte ${frame.offset} has ${decoded.length} bytes, not ${size}`,
      { path: frame.name, offset: frame.offset },
    )
  }
  return decoded
}

async function* decodeStreaming(input: ChunkReader, frame: Frame, tally: SeekTally) {
  let compressed = 0
  let size = 0
  const bytes = frameBytes(input, frame, (length) => {
    compressed = length
  })
  for await (const part of decodeThrough(bytes, createZstdDecompress({ chunkSize: outputChunk }))) {
    size += part.length
    yield part
  }
  if (frame.contentSize !== undefined && frame.contentSize !== size) {
    throw corrupt(input, frame.offset, `has a zstd frame of ${size} bytes that claims another size`)
  }
  tally.add(compressed, size)
}

/** What `decoder` makes of `chunks`. */
export async function* decodeThrough(
  chunks: AsyncIterable<Uint8Array>,
  decoder: Transform,
): AsyncGenerator<Uint8Array> {
  const feeding = pipeline(chunks, decoder)
  feeding.catch(() => {})
  try {
    yield* decoder
    await feeding
  } finally {
    decoder.destroy()
    await feeding.catch(() => {})
  }
}

/** Compares the frames that went by with what a seek table says about them. */
class SeekTally {
  #frames = 0
  #crc = 0

  add(compressedSize: number, decompressedSize: number): void {
    // Sizes of 4 GiB and more have no place in a seek table; then none will match.
    const entry = {
      compressedSize: compressedSize % 2 ** 32,
      decompressedSize: decompressedSize % 2 ** 32,
    }
    this.#crc = crc32(seekEntry.encode(entry), this.#crc)
    this.#frames++
  }

  /** True also for a frame that is no seek table and has not the length of one. */
  matches(table: Buffer): boolean {
    const entriesSize = table.length - seekFooter.size
    if (entriesSize < 0) return true
    const footer = decodeSeekFooter(table.subarray(entriesSize))
    if (!footer) return !seekEntrySizes.some((size) => size * this.#frames === entriesSize)
    if (footer.frameCount !== this.#frames) return false
    if (footer.frameCount * footer.entrySize !== entriesSize) return false
    let crc = 0
    for (let frame = 0; frame < footer.frameCount; frame++) {
      const at = frame * footer.entrySize
      crc = crc32(table.subarray(at, at + seekEntry.size), crc)
    }
    return crc === this.#crc
  }
}

async function exactly(input: ChunkReader, length: number, offset: number): Promise<Buffer> {
  const bytes = await input.take(length)
  if (bytes.length < length) throw cutOff(input, offset)
  return bytes
}

async function* exactlyPassed(input: ChunkReader, length: number, offset: number) {
  let left = length
  for await (const part of input.pass(length)) {
    left -= part.length
    yield part
  }
  if (left > 0) throw cutOff(input, offset)
}

function cutOff(input: ChunkReader, offset: number): BlockError {
  return new BlockError(
    'CORRUPT_IMAGE',
    `'${input.name}' is truncated: it ends inside the zstd frame that begins at byte ${offset}`,
    { path: input.name, offset },
  )
}

function corrupt(input: ChunkReader, offset: number, what: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', `'${input.name}' ${what}, at byte ${offset}`, {
    path: input.name,
    offset,
  })
}
