import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import {
  capture,
  configuration,
  device,
  ending,
  header,
  page,
  ramPart,
  ramStart,
  sourceOf,
  text,
  u8,
  u64,
} from '../../../test/support/migration.ts'
import { Random, seedNote } from '../../../test/support/random.ts'
import { memoryImage, ramOf, saved } from '../../../test/support/snapshot.ts'
import { saveSnapshot } from '../save.ts'
import { readStream } from '../stream/parser.ts'
import { stateHeader } from './layout.ts'
import { recordLength, recordOffset } from './record.ts'
import { SnapshotReader } from './snapshot-reader.ts'

const pages = 600
const start = Buffer.concat([
  ...[header, configuration('pc-test')],
  ramStart([
    { name: 'pc.ram', length: pages * 4096 },
    { name: 'rom', length: 8192 },
  ]),
])
const end = Buffer.concat([device(0, 'timer', Buffer.alloc(24, 1)), ending({ timer: 24 })])

const write = (number: number, fill: number) =>
  Buffer.concat([u64(number * 4096 + 8), text('pc.ram'), page(fill)])
const zero = (number: number) => Buffer.concat([u64(number * 4096 + 2), text('pc.ram'), u8(0)])

const stream = (...records: Buffer[]) => Buffer.concat([start, ramPart(records), end])

describe('a snapshot image', () => {
  it('has the pages of a capture, at multiples of 1 MiB', async () => {
    const image = await saved(capture('tiny'))
    const snapshot = await SnapshotReader.open(image)
    expect(snapshot.blocks.every(({ base }) => base % (1024 * 1024) === 0)).toBe(true)
    expect(snapshot.parts.machine).toBe('pc-i440fx-7.2')
    expect(snapshot.parts.devices.length).toBeGreaterThan(20)
    const bios = (await ramOf(image)).get('pc.bios')
    expect(bios?.subarray(-16, -11).toString('hex')).toBe('faf4ebfd90')
  })

  it('is not made of one of several connections', async () => {
    const multifd = saved(capture('tiny-10-multifd'))
    await expect(multifd).rejects.toMatchObject({ code: 'UNSUPPORTED', message: /multifd/ })
    await expect(saved(stream(write(1, 7), u64(0x200)))).rejects.toThrow(/multifd/)
  })

  it('keeps the last content of a page, zeroes too', async () => {
    const image = await saved(
      stream(write(1, 7), write(2, 7), write(500, 7), zero(1), write(2, 8), zero(3)),
    )
    const ram = (await ramOf(image)).get('pc.ram') ?? Buffer.alloc(0)
    expect([0, 1, 2, 3, 500].map((number) => ram[number * 4096])).toEqual([0, 0, 8, 0, 7])
    expect((await SnapshotReader.open(image)).normalPages).toBe(2)
  })

  it(`keeps it whatever the order in which writes settle (${seedNote})`, async () => {
    const random = new Random()
    const image = memoryImage(16 * 1024 * 1024)
    image.slow = () => sleep(random.below(3))
    const fills = new Uint8Array(pages)
    const records = Array.from({ length: 3000 }, () => {
      const number = random.below(pages)
      fills[number] = random.chance(0.3) ? 0 : 1 + random.below(255)
      return fills[number] === 0 ? zero(number) : write(number, fills[number])
    })
    await saveSnapshot(readStream(sourceOf(stream(...records), 70_000)), image)
    const ram = (await ramOf(image)).get('pc.ram') ?? Buffer.alloc(0)
    for (const [number, fill] of fills.entries()) {
      expect(ram.subarray(number * 4096, number * 4096 + 4096), `page ${number}`).toEqual(
        page(fill),
      )
    }
  })

  it('applies deltas to what the page was', async () => {
    const delta = (number: number, ...bytes: number[]) =>
      Buffer.concat([u64(number * 4096 + 0x40), text('pc.ram'), u8(1, 0, bytes.length, ...bytes)])
    const image = await saved(stream(write(5, 1), delta(5, 2, 3, 9, 8, 7)))
    const ram = (await ramOf(image)).get('pc.ram') ?? Buffer.alloc(0)
    expect([...ram.subarray(5 * 4096, 5 * 4096 + 6)]).toEqual([1, 1, 9, 8, 7, 1])
  })

  it('that is too small for RAM is refused before anything is written', async () => {
    const image = memoryImage(1024 * 1024)
    await expect(saveSnapshot(readStream(sourceOf(stream())), image)).rejects.toMatchObject({
      code: 'NO_SPACE',
    })
    expect(image.stateBytes.every((byte) => byte === 0)).toBe(true)
  })

  it('is none as long as the stream was not whole', async () => {
    const whole = stream(write(1, 1))
    const image = memoryImage(16 * 1024 * 1024)
    const cut = whole.subarray(0, whole.length - 10)
    await expect(saveSnapshot(readStream(sourceOf(cut)), image)).rejects.toThrow(/ends at byte/)
    await expect(SnapshotReader.open(image)).rejects.toMatchObject({ code: 'NOT_RECOGNISED' })
  })

  it('of an earlier snapshot is none while the next one is saved', async () => {
    const image = await saved(stream(write(1, 1)))
    const cut = stream(write(1, 2)).subarray(0, 300)
    await expect(saveSnapshot(readStream(sourceOf(cut)), image)).rejects.toThrow()
    await expect(SnapshotReader.open(image)).rejects.toThrow()
  })
})

describe('an altered snapshot', () => {
  it(`is refused wherever a bit is flipped in its state (${seedNote})`, async () => {
    const random = new Random()
    const image = await saved(stream(write(1, 1), write(7, 3)))
    const used = image.stateBytes.findLastIndex((byte) => byte !== 0) + 1
    const before = await ramOf(image)
    const end = stateHeader.size + stateHeader.decode(image.stateBytes).eofOffset
    for (let round = 0; round < 400; round++) {
      const at = random.below(used)
      const bit = 1 << random.below(8)
      image.stateBytes[at] ^= bit
      const outcome = await ramOf(image).catch(() => undefined)
      // Between the parts there are bytes that nobody reads.
      if (outcome) expect(isPadding(at, end), `bit ${bit} of ${at}`).toBe(true)
      image.stateBytes[at] ^= bit
    }
    expect(await ramOf(image)).toEqual(before)
  })

  it(`is refused when a page of it is read (${seedNote})`, async () => {
    const random = new Random()
    const image = await saved(stream(write(1, 1), write(7, 3)))
    for (let round = 0; round < 100; round++) {
      const at = random.below(pages * 4096)
      image.ramBytes[at] ^= 1 << random.below(8)
      await expect(ramOf(image)).rejects.toMatchObject({ code: 'CORRUPT_IMAGE' })
      image.ramBytes.fill(0, at - (at % 4096), at - (at % 4096) + 4096)
      if (at >= 4096 && at < 8192) image.ramBytes.fill(1, 4096, 8192)
      if (at >= 7 * 4096 && at < 8 * 4096) image.ramBytes.fill(3, 7 * 4096, 8 * 4096)
    }
  })
})

/** Whether a byte lies between the stream, which has that end, the record and the checksums. */
function isPadding(at: number, end: number): boolean {
  const recordEnd = recordOffset(end) + recordLength(2)
  return (at >= end && at < recordOffset(end)) || (at >= recordEnd && at < recordOffset(recordEnd))
}
