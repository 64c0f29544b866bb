import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, openSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { gunzipSync, zstdDecompressSync } from 'node:zlib'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { openSink } from './open-sink.ts'

let folder = ''
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-sink-'))
})
afterEach(() => rm(folder, { recursive: true }))

const parts = [Buffer.from('one'), Buffer.alloc(1_500_000, 'two'), Buffer.from('three')]
const whole = Buffer.concat(parts)

test('a file gets its name when it is complete, and mode 0644', async () => {
  const path = join(folder, 'a.vma')
  const before = process.umask(0o022)
  const sink = await openSink(path)
  process.umask(before)
  await Promise.all(parts.map((part) => sink.write(part)))
  expect((await readdir(folder)).every((name) => name.endsWith('.partial'))).toBe(true)
  await sink.finish()
  expect(await readdir(folder)).toEqual(['a.vma'])
  expect((await stat(path)).mode & 0o777).toBe(0o644)
  expect((await readFile(path)).equals(whole)).toBe(true)
})

test('a file that is given up leaves nothing', async () => {
  const sink = await openSink(join(folder, 'a.vma'))
  await sink.write(parts[0])
  await sink.abort()
  await sink.abort()
  expect(await readdir(folder)).toEqual([])
})

test.each(['file', 'dangling link'])('an existing %s is refused and left alone', async (kind) => {
  const path = join(folder, 'a.vma')
  if (kind === 'file') await writeFile(path, 'precious')
  else await symlink('nowhere', path)
  await expect(openSink(path)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', errno: 'EEXIST' })
  expect(await readdir(folder)).toEqual(['a.vma'])
})

test('a file that appears meanwhile under the final name is not replaced', async () => {
  const path = join(folder, 'a.vma')
  const sink = await openSink(path)
  await sink.write(parts[0])
  await writeFile(path, 'precious')
  await expect(sink.finish()).rejects.toMatchObject({ errno: 'EEXIST' })
  await sink.abort()
  expect(await readFile(path, 'utf8')).toBe('precious')
  expect(await readdir(folder)).toEqual(['a.vma'])
})

test('a FIFO waits for its reader, and survives', async () => {
  const path = join(folder, 'fifo')
  execFileSync('mkfifo', [path])
  const opening = openSink(path)
  const reader = spawn('cat', [path], { stdio: ['ignore', 'pipe', 'inherit'] })
  const received = buffer(reader.stdout)
  const sink = await opening
  await Promise.all(parts.map((part) => sink.write(part)))
  await sink.finish()
  expect((await received).equals(whole)).toBe(true)
  expect((await stat(path)).isFIFO()).toBe(true)
})

test('waiting for the reader of a FIFO can be aborted', async () => {
  const path = join(folder, 'fifo')
  execFileSync('mkfifo', [path])
  const opening = openSink(path, { signal: AbortSignal.timeout(30) })
  await expect(opening).rejects.toThrow(/abort/i)
})

test('a FIFO whose reader leaves is an error, and survives', async () => {
  const path = join(folder, 'fifo')
  execFileSync('mkfifo', [path])
  const reader = spawn('head', ['-c', '10', path], { stdio: 'ignore' })
  const sink = await openSink(path)
  const writes = await Promise.allSettled(parts.map((part) => sink.write(part)))
  expect(writes.some(({ status }) => status === 'rejected')).toBe(true)
  await sink.abort()
  if (reader.exitCode === null) await once(reader, 'close')
  expect((await stat(path)).isFIFO()).toBe(true)
})

test.each(['a signal', 'abort'])(
  'a reader that never reads is not waited for after %s',
  async (how) => {
    const path = join(folder, 'fifo')
    execFileSync('mkfifo', [path])
    const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const interrupt = new AbortController()
    const sink = await openSink(path, { signal: interrupt.signal })
    const writing = expect(sink.write(parts[1])).rejects.toThrow()
    if (how === 'a signal') interrupt.abort()
    else await sink.abort()
    await writing
    await sink.abort()
    closeSync(reader)
  },
)

test('a command that does not stop when asked to is stopped', async () => {
  const sink = await openSink("exec:trap '' TERM; while :; do sleep 1; done")
  const writing = expect(sink.write(parts[1])).rejects.toThrow()
  await sink.abort()
  await writing
})

test('a full device reports it', async () => {
  const sink = await openSink('/dev/full')
  await expect(sink.write(parts[0])).rejects.toMatchObject({ code: 'NO_SPACE' })
  await sink.abort()
})

test('standard output stays open', async () => {
  const stdout = new PassThrough()
  const sink = await openSink('-', { stdout })
  await sink.write(parts[0])
  await sink.finish()
  expect(stdout.writableEnded).toBe(false)
  stdout.end()
  expect((await buffer(stdout)).toString()).toBe('one')
  await expect(openSink('-')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
})

test('a command gets everything before it is complete', async () => {
  const path = join(folder, 'out')
  const sink = await openSink(`exec:cat > '${path}'`)
  for (const part of parts) await sink.write(part)
  await sink.finish()
  expect((await readFile(path)).equals(whole)).toBe(true)
})

test('a command that fails says so', async () => {
  const sink = await openSink('exec:cat > /dev/null; exit 3')
  await sink.write(parts[0])
  await expect(sink.finish()).rejects.toThrow('failed with exit status 3')

  const early = await openSink('exec:exit 4')
  await expect(
    (async () => {
      for (;;) await early.write(parts[1])
    })(),
  ).rejects.toThrow('failed with exit status 4')
  await early.abort()
})

test('a command is stopped when the archive is given up, and does not see a regular end', async () => {
  const path = join(folder, 'done')
  const sink = await openSink(`exec:cat > /dev/null && touch '${path}'`)
  await sink.write(parts[0])
  await sink.abort()
  expect(await readdir(folder)).toEqual([])
})

test('a descriptor can be handed over', async () => {
  const path = join(folder, 'out')
  const fd = openSync(path, 'w')
  const sink = await openSink('/dev/fdset/7', { descriptor: () => fd })
  await Promise.all(parts.map((part) => sink.write(part)))
  await sink.finish()
  expect((await readFile(path)).equals(whole)).toBe(true)
  await expect(openSink('/dev/fdname/x')).rejects.toThrow("no descriptor '/dev/fdname/x'")
})

test('lzop is refused by name', async () => {
  await expect(openSink(join(folder, 'a.vma.lzo'))).rejects.toMatchObject({ code: 'UNSUPPORTED' })
})

test('names that end in .gz and .zst are compressed', async () => {
  for (const [ending, decompress] of [
    ['gz', gunzipSync],
    ['zst', zstdDecompressSync],
  ] as const) {
    const path = join(folder, `a.vma.${ending}`)
    const sink = await openSink(path)
    await sink.write(parts[0])
    await sink.write(parts[2])
    await sink.finish()
    expect(decompress(await readFile(path)).toString()).toBe('onethree')
  }
})
