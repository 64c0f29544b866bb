/** Streams and snapshot images of strangers: whatever is in them ends with an error of ours, or well. */
import { readFile, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { run } from '../../src/cli/snap.ts'
import { BlockError } from '../../src/errors.ts'
import { mappedRamSource } from '../../src/snapshot/convert/mapped-ram.ts'
import { ReturnPath } from '../../src/snapshot/load/return-path.ts'
import { readStream } from '../../src/snapshot/stream/parser.ts'
import { runCommand } from '../support/cli.ts'
import { scratchFolder } from '../support/folder.ts'
import { capture, mappedCapture, sourceOf, text, u16, u32, u64 } from '../support/migration.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'
import { ramOf, saved } from '../support/snapshot.ts'

const rounds = process.env.VARVE_LONG === '1' ? 5000 : 300
const folder = scratchFolder('snap-fuzz')

const captures = [
  ...['tiny', 'tiny-background', 'tiny-return-path', 'tiny-uuid', 'tiny-shared'],
  ...['tiny-10', 'tiny-10-memory', 'tiny-10-multifd'],
]

/** Flips bits, moves, repeats and removes bytes, mostly near the places where sections begin. */
function damaged(stream: Buffer, random: Random): Buffer {
  const bytes = Buffer.from(stream)
  for (let count = 1 + random.below(4); count > 0; count--) {
    const at = random.chance(0.5) ? random.below(400) : random.below(bytes.length)
    const kind = random.below(4)
    if (kind === 0) bytes.writeUInt32BE(random.below(2 ** 32), Math.min(at, bytes.length - 4))
    else if (kind === 1) bytes.copy(bytes, at, random.below(bytes.length))
    else bytes[at] ^= 1 << random.below(8)
  }
  return random.chance(0.2) ? bytes.subarray(0, random.below(bytes.length)) : bytes
}

describe('a damaged stream', () => {
  it(`is parsed or refused (${seedNote})`, async () => {
    const random = new Random(runSeed)
    for (let round = 0; round < rounds; round++) {
      const stream = damaged(capture(random.pick(captures)), random)
      const step = 1 + random.below(100_000)
      try {
        for await (const _ of readStream(sourceOf(stream, step), { patienceMs: 1 }));
      } catch (error) {
        expect(error, `round ${round}`).toBeInstanceOf(BlockError)
      }
    }
  })

  it(`of a mapped-ram file, too (${seedNote})`, async () => {
    const random = new Random(runSeed)
    const whole = mappedCapture('tiny-10-mapped')
    for (let round = 0; round < rounds / 10; round++) {
      const bytes = damaged(whole, random)
      const file = {
        name: 'mapped',
        size: bytes.length,
        read: async (at: number, target: Uint8Array) =>
          bytes.copy(target, 0, Math.min(at, bytes.length)),
      }
      try {
        for await (const _ of readStream(await mappedRamSource(file)));
      } catch (error) {
        expect(error, `round ${round}`).toBeInstanceOf(BlockError)
      }
    }
  })

  it('is refused wherever it is cut at the end of an item, and within devices', async () => {
    for (const name of ['tiny', 'tiny-background', 'tiny-return-path']) {
      const stream = capture(name)
      const reader = readStream(sourceOf(stream), { patienceMs: 1 })
      const cuts: number[] = []
      for await (const item of reader) {
        cuts.push(reader.offset)
        if (item.kind === 'section') cuts.push(reader.offset - Math.ceil(item.body.length / 2))
      }
      for (const cut of cuts.filter((at) => at < stream.length)) {
        await expect(saved(stream.subarray(0, cut)), `${name} cut at ${cut}`).rejects.toThrow()
      }
    }
  })
})

describe('a damaged image', () => {
  it(`is refused, or what was saved (${seedNote})`, async () => {
    const random = new Random(runSeed)
    const path = join(folder, 'snapshot.qcow2')
    const input = join(folder, 'stream')
    await writeFile(input, capture('tiny'))
    const made = await runCommand(run, ['-s', '64M', 'convert', input, path])
    expect(made.stderr).toBe('')
    const image = await readFile(path)
    const whole = await ramOf(await saved(capture('tiny')))
    for (let round = 0; round < rounds / 8; round++) {
      const bytes = Buffer.from(image)
      // Metadata and states lie in the first and the last clusters.
      const at = random.chance(0.5) ? random.below(4096) : random.below(bytes.length)
      bytes[at] ^= 1 << random.below(8)
      await writeFile(path, bytes)
      if (random.chance(0.1)) await truncate(path, random.below(bytes.length))
      const raw = join(folder, 'ram.raw')
      const { status, stderr } = await runCommand(run, ['-O', 'raw', 'convert', path, raw])
      if (status === 0) {
        expect(Buffer.compare(await readFile(raw), whole.get('pc.ram') ?? Buffer.alloc(0))).toBe(0)
      } else expect(stderr).toMatch(/^(varve-snap: .*\n)+$/)
    }
  }, 240_000)
})

describe('a hostile return path', () => {
  it(`ends with an error of ours (${seedNote})`, async () => {
    const random = new Random(runSeed)
    const messages = [
      Buffer.concat([u16(3), u16(19), u64(0), u32(4096), text('pc.ram')]),
      Buffer.concat([u16(4), u16(12), u64(4096), u32(4096)]),
      Buffer.concat([u16(2), u16(4), u32(1)]),
      Buffer.concat([u16(5), u16(7), text('pc.ram'), u64(8), u64(1), u64(0x123456789abcde)]),
      Buffer.concat([u16(6), u16(4), u32(1)]),
    ]
    for (let round = 0; round < rounds; round++) {
      const stream = damaged(
        Buffer.concat(Array.from({ length: 20 }, () => random.pick(messages))),
        random,
      )
      const path = new ReturnPath(sourceOf(stream, 1 + random.below(50)))
      await path.ended
      // A SHUT among the noise is a proper end.
      const verdict = await verdictOf(path).catch((error: unknown) => error)
      if (typeof verdict !== 'number') expect(verdict, `round ${round}`).toBeInstanceOf(BlockError)
    }
  })
})

async function verdictOf(path: ReturnPath): Promise<number> {
  while (path.takeRequest());
  return await path.shut()
}
