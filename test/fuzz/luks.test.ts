/**
 * Broken LUKS headers: every field set to extreme values, bits flipped, files cut off. Whatever
 * happens ends soon, in an answer or in a `BlockError` with a code; nothing is read that the
 * checked layout does not allow.
 */
import { expect, it } from 'vitest'
import { neverAborted, plainIo } from '../../src/block/layer.ts'
import { decodeHeader, encodeHeader, headerLength } from '../../src/crypto/luks/header.ts'
import { phdrStruct, slotCount, slotStruct } from '../../src/crypto/luks/layout.ts'
import { materialLength } from '../../src/crypto/luks/slot-layout.ts'
import { BlockError } from '../../src/errors.ts'
import { luks } from '../../src/format/luks/luks.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { openContext } from '../support/context.ts'
import { testSecrets as secrets } from '../support/qcow2.ts'
import { Random, seedNote } from '../support/random.ts'

const rounds = 3000

/** Passwords of such headers are tried; more iterations would only take longer. */
const bearableIterations = 50_000

async function newDisk(options: Readonly<Record<string, unknown>>): Promise<Uint8Array> {
  const file = new MemoryLayer({ size: 0 })
  const all = { ...options, size: 1024, 'key-secret': 's', 'iter-time': 1 }
  const parsed = luks.creator?.parse(all)
  if (!parsed) throw new Error('luks images cannot be made')
  await luks.creator?.create(parsed, { file, secrets, signal: neverAborted })
  const bytes = new Uint8Array(file.size)
  await file.read(0, bytes, plainIo)
  return bytes
}

const corpus = [
  { 'cipher-alg': 'aes-128' },
  { 'cipher-alg': 'twofish-256', 'cipher-mode': 'cbc', 'ivgen-alg': 'essiv', 'hash-alg': 'sha1' },
]

for (const options of corpus) {
  it(`a broken header is refused with a code: ${JSON.stringify(options)} (${seedNote})`, async () => {
    const random = new Random()
    const sound = await newDisk(options)
    const seen = new Set<string>()
    for (let round = 0; round < rounds; round++) {
      const head = sound.slice(0, headerLength)
      damage(head, random)
      const length = random.chance(0.1) ? random.below(headerLength) : headerLength
      await attempt(seen, `round ${round}`, async () => {
        const header = decodeHeader(head.subarray(0, length))
        for (const { offset } of header.slots) {
          expect(offset).toBeGreaterThanOrEqual(4096)
          expect(offset + materialLength(header.spec)).toBeLessThanOrEqual(header.payloadOffset)
        }
        // What was understood can be written again.
        expect(decodeHeader(encodeHeader(header)).payloadOffset).toBe(header.payloadOffset)
        const tried = header.slots.filter(({ active }) => active)
        const most = Math.max(header.digestIterations, ...tried.map((slot) => slot.iterations))
        if (most > bearableIterations || round % 40 !== 0) return
        await open(head, sound, random)
      })
    }
    expect(seen.has('CORRUPT_IMAGE')).toBe(true)
    expect(seen.has('UNSUPPORTED')).toBe(true)
    expect(seen.has('fine')).toBe(true)
  })
}

async function open(head: Uint8Array, sound: Uint8Array, random: Random): Promise<void> {
  const bytes = sound.slice()
  bytes.set(head)
  const cut = random.chance(0.3) ? random.below(bytes.length) : bytes.length
  const file = MemoryLayer.of(bytes.slice(0, cut))
  const context = { ...openContext(), secrets, child: async () => file }
  const layer = await luks.open({ file: 'file', keySecret: 's' }, context)
  if (layer.size > 0) await layer.read(0, new Uint8Array(Math.min(512, layer.size)), plainIo)
  await layer[Symbol.asyncDispose]()
}

const places = [
  ...Object.values(phdrStruct.offsets),
  ...Array.from({ length: slotCount }, (_, slot) =>
    Object.values(slotStruct.offsets).map(
      (at) => phdrStruct.offsets.slots + slot * slotStruct.size + at,
    ),
  ).flat(),
]
const extremes = [0, 1, 2, 7, 8, 15, 16, 24, 32, 33, 48, 64, 128, 4000, 4001, 2 ** 31, 2 ** 32 - 1]

function damage(head: Uint8Array, random: Random): void {
  const view = new DataView(head.buffer)
  for (let count = 1 + random.below(3); count > 0; count--) {
    if (random.chance(0.6)) {
      const at = Math.min(random.pick(places), headerLength - 4)
      view.setUint32(at, random.chance(0.7) ? random.pick(extremes) : random.below(2 ** 32))
    } else {
      const at = random.below(headerLength)
      head[at] ^= 1 << random.below(8)
    }
  }
}

async function attempt(seen: Set<string>, note: string, work: () => Promise<void>): Promise<void> {
  try {
    await work()
    seen.add('fine')
  } catch (error) {
    if (!(error instanceof BlockError)) throw new Error(note, { cause: error })
    expect(error.code, note).not.toBe('IO')
    seen.add(error.code)
  }
}
