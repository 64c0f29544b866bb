/** `-` of `img convert`: raw bytes through pipes, as processes. The other end is plain files. */

import { spawn } from 'node:child_process'
import {
  createReadStream,
  createWriteStream,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { SeededRandom } from '../../src/bytes/seeded-random.ts'
import { peer } from '../peers.ts'
import { main } from '../support/main.ts'

const qemu = peer('qemu-img')

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'varve-stream-'))
  writeFileSync(join(folder, 'r.raw'), disk(21, 3_500_000))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

/** Runs of zeroes and of data; the length is no multiple of anything. */
function disk(seed: number, length: number): Uint8Array {
  const random = new SeededRandom(seed)
  const bytes = new Uint8Array(length)
  for (let at = 0; at < length; at += random.below(200_000)) {
    const end = at + random.below(100_000)
    for (let index = at; index < Math.min(end, length); index++) bytes[index] = random.below(256)
    at = end
  }
  return bytes
}

async function convert(args: string[], input?: string, output?: string): Promise<number> {
  const child = spawn(process.execPath, [main, 'img', 'convert', ...args], {
    cwd: folder,
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const ended = new Promise<number>((resolve) => child.once('exit', (code) => resolve(code ?? -1)))
  const ways = [
    input ? pipeline(createReadStream(join(folder, input)), child.stdin) : child.stdin.end(),
    output
      ? pipeline(child.stdout, createWriteStream(join(folder, output)))
      : child.stdout.resume(),
  ]
  await Promise.all(ways)
  return await ended
}

qemu.describe('img convert through pipes', () => {
  it.each([
    ['-O', 'qcow2'],
    ['-c', '-O', 'qcow2'],
    ['-S', '0', '-O', 'qcow2'],
    ['-O', 'raw'],
  ])('reads standard input with %s %s', async (...options) => {
    expect(await convert([...options, '-', 'x'], 'r.raw')).toBe(0)
    const raw = ['-f', 'raw', '-F', options.at(-1) ?? '']
    const same = await qemu.run('compare', ...raw, join(folder, 'r.raw'), join(folder, 'x'))
    expect(same).toBe('Images are identical.\n')
    if (options.includes('qcow2')) await qemu.run('check', join(folder, 'x'))
  })

  it('writes standard output', async () => {
    await qemu.run('convert', '-f', 'raw', '-O', 'qcow2', join(folder, 'r.raw'), join(folder, 'q'))
    expect(await convert(['q', '-'], undefined, 'out')).toBe(0)
    const [original, copy] = ['r.raw', 'out'].map((name) => readFileSync(join(folder, name)))
    // A disk is whole sectors.
    expect(copy.length).toBe(Math.ceil(original.length / 512) * 512)
    expect(copy.subarray(0, original.length).equals(original)).toBe(true)
  })

  it('makes an empty image of empty input', async () => {
    writeFileSync(join(folder, 'nothing'), '')
    expect(await convert(['-O', 'qcow2', '-', 'x'], 'nothing')).toBe(0)
    expect(await qemu.run('info', join(folder, 'x'))).toContain('virtual size: 0 B')
  })
})
