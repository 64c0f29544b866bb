/** What `varve io` does on its own; test/interop/io.test.ts holds it against qemu-io. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough, Writable } from 'node:stream'
import { afterAll, beforeEach, expect, test } from 'vitest'
import { run } from './io.ts'

const folder = mkdtempSync(join(tmpdir(), 'varve-io-'))
const image = join(folder, 'disk.raw')
afterAll(() => rmSync(folder, { recursive: true, force: true }))
beforeEach(() => writeFileSync(image, Buffer.alloc(64 * 1024)))

class Text extends Writable {
  text = ''

  override _write(bytes: Buffer, _: BufferEncoding, done: () => void): void {
    this.text += bytes.toString()
    done()
  }
}

async function io(args: readonly string[], input = '') {
  const stdin = new PassThrough()
  stdin.end(input)
  const [stdout, stderr] = [new Text(), new Text()]
  const status = await run([...args], { stdin, stdout, stderr, env: {}, cwd: folder })
  return { status, stdout: stdout.text, stderr: stderr.text }
}

test('commands run in order, and the status tells of any failure', async () => {
  const lines = ['write -q -P 65 0 20', 'nosuch', 'read -q -v -P 65 0 20', 'length']
  const outcome = await io(['-f', 'raw', ...lines.flatMap((line) => ['-c', line]), image])
  expect(outcome).toEqual({
    status: 1,
    stdout: '64 KiB\n',
    stderr: 'command "nosuch" not found\n',
  })
})

test('commands are read from standard input', async () => {
  const outcome = await io(['-f', 'raw', image], 'write -q -P 1 0 512\nread -q -P 1 0 512\nq\n')
  expect(outcome).toEqual({ status: 0, stdout: 'qemu-io> qemu-io> qemu-io> ', stderr: '' })
})

test('requests left in flight are finished before the image is closed', async () => {
  const writes = Array.from({ length: 32 }, (_, at) => `aio_write -q -P ${at + 1} ${at * 1024} 1k`)
  const reads = Array.from({ length: 32 }, (_, at) => `read -q -P ${at + 1} ${at * 1024} 1k`)
  expect(await io(['-f', 'raw', image], writes.join('\n'))).toMatchObject({ status: 0 })
  expect(await io(['-f', 'raw', image], reads.join('\n'))).toMatchObject({ status: 0 })
})

test('what is not supported is refused by name', async () => {
  for (const [args, name] of [[['--object', 'iothread,id=s', image], 'objects']] as const) {
    const { status, stderr } = await io([...args])
    expect(status).toBe(1)
    expect(stderr).toContain(name)
  }
  const waiting = await io(['-f', 'raw', '-c', 'wait_break x', image])
  expect(waiting).toMatchObject({ status: 1, stdout: expect.stringContaining('not supported') })
})

test('reopening with options that are refused leaves the image open as it was', async () => {
  const lines = ['reopen -r', 'reopen -o nosuch=1', 'write 0 1', 'reopen -w', 'write -q 0 1']
  const { status, stderr } = await io(['-f', 'raw', ...lines.flatMap((l) => ['-c', l]), image])
  expect(status).toBe(1)
  expect(stderr).toBe(
    "varve-io: Cannot change the option 'nosuch'\nvarve-io: Block node is read-only\n",
  )
})
