/** Names of inputs, and what their first bytes say about compression. */
import { constants, createReadStream, type Stats } from 'node:fs'
import { Socket } from 'node:net'
import { addAbortSignal, type Readable } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { MiB } from '../../../bytes/range.ts'
import { BlockError, systemError } from '../../../errors.ts'
import { ChunkReader } from './chunk-reader.ts'
import { closeDescriptor, openDescriptor, readFully, statDescriptor } from './descriptor.ts'
import { chunksOf, FileSource } from './file-source.ts'
import type { ArchiveSource, Chunks, RandomAccess } from './source.ts'
import { ZstdRandom } from './zstd-random.ts'
import { decodeThrough, decodeZstd } from './zstd-source.ts'

export interface OpenSourceOptions {
  /** What `-` means; without it `-` is refused. */
  readonly stdin?: Readable
  /** Makes reads fail that wait for a pipe's writer. */
  readonly signal?: AbortSignal
}

/** Opens a file, FIFO, device or `-` (standard input), decompressing zstd and gzip. */
export async function openSource(
  name: string,
  options: OpenSourceOptions = {},
): Promise<ArchiveSource> {
  if (name === '-') return decoded(stdinReader(options))
  const fd = await openForReading(name)
  const facts: Stats = await statDescriptor(fd)
  if (facts.isDirectory()) {
    throw new BlockError('INVALID_ARGUMENT', `'${name}' is a directory`, { path: name })
  }
  if (facts.isFile()) return fileSource(new FileSource(name, fd, facts.size))
  return decoded(pipeReader(name, fd, facts, options.signal))
}

/** A stream over a file, FIFO or device; a FIFO without a writer is waited for with events. */
export async function openReadable(path: string, signal?: AbortSignal): Promise<Readable> {
  const fd = await openForReading(path)
  const facts = await statDescriptor(fd)
  if (!facts.isFIFO()) return createReadStream(path, { fd, signal })
  return new Socket({ fd, writable: false, signal })
}

function stdinReader({ stdin, signal }: OpenSourceOptions): ChunkReader {
  if (stdin) return streamReader('standard input', stdin, signal)
  throw new BlockError('INVALID_ARGUMENT', 'there is no standard input to read an archive from')
}

function streamReader(
  name: string,
  stream: Readable,
  signal: AbortSignal | undefined,
): ChunkReader {
  if (signal) addAbortSignal(signal, stream)
  return new ChunkReader(name, stream, { abort: () => stream.destroy() })
}

/** Without blocking: a FIFO that has no writer yet is waited for with events. */
async function openForReading(path: string): Promise<number> {
  return openDescriptor(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error) => {
    throw systemError(error, `Could not open '${path}'`, { path })
  })
}

function pipeReader(
  name: string,
  fd: number,
  facts: Stats,
  signal: AbortSignal | undefined,
): ChunkReader {
  if (facts.isFIFO()) return streamReader(name, new Socket({ fd, writable: false }), signal)
  return new ChunkReader(name, deviceChunks(fd), { close: () => closeDescriptor(fd) })
}

/** A block or character device, from its start to its end. */
async function* deviceChunks(fd: number): AsyncGenerator<Buffer> {
  yield* chunksOf({ size: 0, readAt: (_, target) => readFully(fd, target, null) })
}

type Compression = 'none' | 'zstd' | 'gzip'

/** Bytes that are needed to tell: the longest magic number is lzop's. */
const headSize = 9
const magics: readonly { readonly magic: Buffer; readonly compression: Compression | 'lzop' }[] = [
  { magic: Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), compression: 'zstd' },
  { magic: Buffer.from([0x1f, 0x8b]), compression: 'gzip' },
  {
    magic: Buffer.from([0x89, 0x4c, 0x5a, 0x4f, 0x00, 0x0d, 0x0a, 0x1a, 0x0a]),
    compression: 'lzop',
  },
]

function compressionOf(head: Uint8Array, name: string): Compression {
  // A zstd file may begin with a skippable frame: 0x184D2A5?, little-endian.
  const skippable = Buffer.from([0x2a, 0x4d, 0x18])
  if ((head[0] & 0xf0) === 0x50 && skippable.equals(head.subarray(1, 4))) return 'zstd'
  const found = magics.find(({ magic }) => magic.equals(head.subarray(0, magic.length)))
  if (found?.compression === 'lzop') {
    throw new BlockError(
      'UNSUPPORTED',
      `'${name}' is compressed with lzop, which varve cannot read: run 'lzop -dc' and pipe it in`,
      { path: name },
    )
  }
  return found?.compression ?? 'none'
}

async function fileSource(file: FileSource): Promise<ArchiveSource> {
  try {
    const head = Buffer.alloc(headSize)
    const count = await file.readAt(0, head)
    const compression = compressionOf(head.subarray(0, count), file.name)
    if (compression === 'none') return file
    const random = compression === 'zstd' ? await ZstdRandom.open(file.name, file) : undefined
    const reader = new ChunkReader(file.name, chunksOf(file), {
      close: () => file[Symbol.asyncDispose](),
    })
    return withRandom(decompressed(reader, compression), random)
  } catch (error) {
    await file[Symbol.asyncDispose]()
    throw error
  }
}

/** The content of `file`, at any offset, or undefined where compression forbids it. */
export async function randomAccessTo(
  name: string,
  file: RandomAccess,
): Promise<RandomAccess | undefined> {
  const head = Buffer.alloc(headSize)
  const count = await file.readAt(0, head)
  const compression = compressionOf(head.subarray(0, count), name)
  if (compression === 'none') return file
  return compression === 'zstd' ? ZstdRandom.open(name, file) : undefined
}

async function decoded(reader: ChunkReader): Promise<ArchiveSource> {
  try {
    const compression = compressionOf(await reader.peek(headSize), reader.name)
    return compression === 'none' ? reader : decompressed(reader, compression)
  } catch (error) {
    await reader[Symbol.asyncDispose]()
    throw error
  }
}

function decompressed(reader: ChunkReader, compression: Compression): ChunkReader {
  const chunks: Chunks =
    compression === 'zstd'
      ? decodeZstd(reader)
      : decodeThrough(reader.rest(), createGunzip({ chunkSize: 1 * MiB }))
  return new ChunkReader(reader.name, chunks, {
    abort: () => reader.abort(),
    close: () => reader[Symbol.asyncDispose](),
  })
}

function withRandom(source: ChunkReader, random: RandomAccess | undefined): ArchiveSource {
  return {
    name: source.name,
    random,
    read: (target) => source.read(target),
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  }
}
