/** The two ways in which one cluster is compressed. */
import { promisify } from 'node:util'
import zlib from 'node:zlib'
import { KiB } from '../../bytes/range.ts'
import type { CompressionType } from './header.ts'
import { zstdFrameLength } from './zstd-frame.ts'

/** Made when they are first needed: loading zlib takes 2 ms. */
function codecs() {
  return {
    deflateRaw: promisify<Uint8Array, zlib.ZlibOptions, Buffer>(zlib.deflateRaw),
    inflateRaw: promisify<Uint8Array, zlib.ZlibOptions, Buffer>(zlib.inflateRaw),
    zstdCompress: promisify<Uint8Array, zlib.ZstdOptions, Buffer>(zlib.zstdCompress),
    zstdDecompress: promisify<Uint8Array, zlib.ZstdOptions, Buffer>(zlib.zstdDecompress),
  }
}
let made: ReturnType<typeof codecs> | undefined

/** Readers may have a window of 4 KiB only, so writers keep to it. */
const writtenWindowBits = 12
/** Others may have written with any window that deflate has. */
const readWindowBits = 15
const memLevel = 9
/**
 * One below zlib's default: a sixth of the time less, for 0.1 % more bytes in clusters of 64 KiB of
 * text and programs.
 */
const level = 5
/** Room for what does not shrink, so that the result comes in one piece. */
const outputSlack = KiB

/** Bytes looked at to tell whether compressing is worth the time, in pieces all over the cluster. */
const sampleBytes = 8192
const samplePieces = 16
/** Bits per byte from which on a sample counts as random. Uniformly random ones have 7.978. */
const randomEntropy = 7.95

/** The compressed bytes, or undefined where they would be no fewer than `source` has. */
export async function compress(
  type: CompressionType,
  source: Uint8Array,
): Promise<Uint8Array | undefined> {
  if (looksRandom(source)) return undefined
  made ??= codecs()
  const packed =
    type === 'zlib'
      ? await made.deflateRaw(source, {
          windowBits: writtenWindowBits,
          memLevel,
          level,
          chunkSize: source.length + outputSlack,
        })
      : await made.zstdCompress(source, {})
  return packed.length < source.length ? packed : undefined
}

/**
 * The first `length` bytes that `source`, which may have anything behind its end, decompresses to.
 * Fewer when it holds fewer. Rejects when it is broken.
 */
export async function decompress(
  type: CompressionType,
  source: Uint8Array,
  length: number,
): Promise<Uint8Array> {
  made ??= codecs()
  return type === 'zlib'
    ? await made.inflateRaw(source, {
        windowBits: readWindowBits,
        maxOutputLength: length,
        finishFlush: zlib.constants.Z_SYNC_FLUSH,
      })
    : await made.zstdDecompress(source.subarray(0, zstdFrameLength(source)), {
        maxOutputLength: length,
        finishFlush: zlib.constants.ZSTD_e_flush,
      })
}

/** Whether a sample says that the data cannot be compressed by more than about one percent. */
function looksRandom(source: Uint8Array): boolean {
  if (source.length < sampleBytes * 2) return false
  const counts = new Uint16Array(256)
  const stride = Math.floor(source.length / samplePieces)
  const piece = sampleBytes / samplePieces
  for (let start = 0; start + piece <= source.length; start += stride) {
    for (let at = start; at < start + piece; at++) counts[source[at]]++
  }
  return entropyOf(counts) >= randomEntropy
}

/** Bits per byte. */
function entropyOf(counts: Uint16Array): number {
  let total = 0
  let sum = 0
  for (const count of counts) {
    total += count
    if (count > 0) sum += count * Math.log2(count)
  }
  return Math.log2(total) - sum / total
}
