import { execFileSync, spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Random } from '../../../../test/support/random.ts'
import { MemorySink, memorySource } from '../../../../test/support/vma.ts'
import { ZstdSink } from './compress-sink.ts'
import { openSource } from './open-source.ts'
import type { ArchiveSource } from './source.ts'

let folder = ''
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-source-'))
})
afterEach(() => rm(folder, { recursive: true }))

/** Half of it compresses. */
function sample(size: number): Buffer {
  const random = new Random(7)
  const bytes = Buffer.alloc(size)
  for (let at = 0; at + 4 <= size; at += 4)
    if (at % 8192 < 4096) bytes.writeUInt32LE(random.below(2 ** 32), at)
  return bytes
}
const content = sample(3_000_000)

/** Everything, in reads of awkward lengths. */
async function drain(source: ArchiveSource): Promise<Buffer> {
  const parts: Buffer[] = []
  for (let turn = 0; ; turn++) {
    const target = Buffer.alloc([512, 100_000, 700_001][turn % 3])
    const count = await source.read(target)
    parts.push(target.subarray(0, count))
    if (count < target.length) return Buffer.concat(parts)
  }
}

async function fromFile(bytes: Uint8Array): Promise<Buffer> {
  const path = join(folder, 'input')
  await writeFile(path, bytes)
  await using source = await openSource(path)
  return await drain(source)
}

async function zstdPieces(parts: readonly Buffer[]): Promise<Buffer> {
  const sink = new MemorySink()
  const zstd = new ZstdSink(sink)
  for (const part of parts) await zstd.write(part)
  await zstd.finish()
  return sink.bytes
}

const half = content.length / 2
const frames = [content.subarray(0, half), content.subarray(half)]

describe('the content of', () => {
  test.each<[string, () => Buffer | Promise<Buffer>]>([
    ['a plain file', () => content],
    ['gzip', () => gzipSync(content)],
    ['gzip of two members', () => Buffer.concat(frames.map((part) => gzipSync(part)))],
    ['zstd', () => zstdCompressSync(content)],
    ['zstd of two frames', () => Buffer.concat(frames.map((part) => zstdCompressSync(part)))],
    ['zstd with a seek table', () => zstdPieces(frames)],
    [
      'zstd of an empty and a full frame',
      () => Buffer.concat([zstdCompressSync(''), zstdCompressSync(content)]),
    ],
    [
      'zstd behind a skippable frame',
      () =>
        Buffer.concat([Buffer.from('502a4d1803000000616263', 'hex'), zstdCompressSync(content)]),
    ],
  ])('%s', async (_, make) => {
    const bytes = await make()
    expect((await fromFile(bytes)).equals(content)).toBe(true)
    const stdin = Readable.from(
      bytes.length > 100_000 ? [bytes.subarray(0, 3), bytes.subarray(3)] : [bytes],
    )
    await using piped = await openSource('-', { stdin })
    expect((await drain(piped)).equals(content)).toBe(true)
  })

  test('a FIFO whose writer comes late', async () => {
    const path = join(folder, 'fifo')
    execFileSync('mkfifo', [path])
    const opening = openSource(path)
    const writer = spawn('sh', ['-c', `sleep 0.05; head -c 2000000 /dev/zero > '${path}'`])
    await using source = await opening
    expect((await drain(source)).length).toBe(2_000_000)
    expect(writer.pid).toBeDefined()
  })
})

describe('damage', () => {
  const zstd = zstdCompressSync(content)
  test.each([
    ['a cut in a zstd frame', () => zstd.subarray(0, -100), 'is truncated'],
    ['a cut in a zstd checksum', () => zstd.subarray(0, -1), 'is truncated'],
    ['garbage behind zstd', () => Buffer.concat([zstd, Buffer.from('abcdefgh')]), 'no zstd frame'],
    ['a cut in a second frame', () => Buffer.concat([zstd, zstd.subarray(0, 7)]), 'is truncated'],
    ['a cut in gzip', () => gzipSync(content).subarray(0, -100), 'cannot be decompressed'],
  ])('%s is an error', async (_, make, message) => {
    await expect(fromFile(make())).rejects.toMatchObject({
      code: 'CORRUPT_IMAGE',
      message: expect.stringContaining(message),
    })
  })

  test('a flipped byte in zstd data with a checksum', async () => {
    const bytes = await zstdPieces(frames)
    bytes[1_000_000] ^= 1
    await expect(fromFile(bytes)).rejects.toMatchObject({ code: 'CORRUPT_IMAGE' })
  })

  test.each([0, 4, 8, 20, -10, -9, -5, -1])('byte %s of a seek table', async (at) => {
    const bytes = await zstdPieces(frames)
    const table = bytes.length - 9 - 16 - 8
    const where = at < 0 ? bytes.length + at : table + at
    bytes[where] ^= 0x40
    await expect(fromFile(bytes)).rejects.toMatchObject({ code: 'CORRUPT_IMAGE' })
  })

  test('a frame that claims a window beyond 128 MiB', async () => {
    const frame = Buffer.from('28b52ffd00a0010000', 'hex')
    await expect(fromFile(frame)).rejects.toMatchObject({ code: 'UNSUPPORTED' })
  })
})

test('random access to zstd decodes what is asked for', async () => {
  const path = join(folder, 'a.zst')
  await writeFile(path, await zstdPieces(frames))
  await using source = await openSource(path)
  const target = Buffer.alloc(5000)
  expect(source.random!.size).toBe(content.length)
  expect(await source.random!.readAt(half - 1000, target)).toBe(5000)
  expect(target.equals(content.subarray(half - 1000, half + 4000))).toBe(true)
  expect(await source.random!.readAt(content.length - 10, target)).toBe(10)
  expect(await source.random!.readAt(content.length + 10, target)).toBe(0)
})

test('lzop is refused by name, directories and missing files too', async () => {
  await expect(fromFile(Buffer.from('894c5a4f000d0a1a0a0000', 'hex'))).rejects.toMatchObject({
    code: 'UNSUPPORTED',
    message: expect.stringContaining('lzop -dc'),
  })
  await expect(openSource(folder)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  await expect(openSource(join(folder, 'none'))).rejects.toMatchObject({ errno: 'ENOENT' })
  await expect(openSource('-')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
})

test('a source that waits for its producer can be disposed', async () => {
  const stdin = new PassThrough()
  stdin.write('0123456789')
  const source = await openSource('-', { stdin })
  const reading = source.read(Buffer.alloc(100)).catch(() => {})
  await source[Symbol.asyncDispose]()
  await reading
})

test('a signal ends the wait for a FIFO and for standard input', async () => {
  const path = join(folder, 'fifo')
  execFileSync('mkfifo', [path])
  await expect(openSource(path, { signal: AbortSignal.timeout(20) })).rejects.toThrow()
  const stdin = new PassThrough()
  await expect(openSource('-', { stdin, signal: AbortSignal.timeout(20) })).rejects.toThrow()
})

test('a reader of memory is the test double it claims to be', async () => {
  expect((await drain(memorySource(content, false))).equals(content)).toBe(true)
})
