import { describe, expect, it } from 'vitest'
import {
  capture,
  configuration,
  device,
  ending,
  eos,
  footer,
  header,
  mappedCapture,
  page,
  text,
  u8,
  u32,
  u64,
} from '../../../test/support/migration.ts'
import { ramOf, saved, savedFrom } from '../../../test/support/snapshot.ts'
import { SnapshotReader } from '../image/snapshot-reader.ts'
import { readStream } from '../stream/parser.ts'
import { isMappedRam, mappedRamSource, writeMappedRam } from './mapped-ram.ts'
import type { RandomFile } from './random-file.ts'

const MiB = 1024 * 1024

function fileOf(bytes: Uint8Array): RandomFile {
  return {
    name: 'mapped',
    size: bytes.length,
    async read(offset, target) {
      const part = bytes.subarray(offset, offset + target.length)
      target.set(part)
      return part.length
    },
  }
}

const capabilities = Buffer.concat([
  ...[u8(5), text('configuration/capabilities'), u32(1), u32(1), text('mapped-ram')],
])
const start = Buffer.concat([header, configuration('pc-test', capabilities)])

/** As QEMU's documentation of the format lays it out: two blocks of three pages. */
function documented(bits: readonly [number, number]): Buffer {
  const head = Buffer.concat([
    ...[start, u8(1), u32(2), text('ram'), u32(0), u32(4), u64(2 * 3 * 4096 + 4)],
  ])
  const file = Buffer.alloc(2 * MiB + 3 * 4096)
  head.copy(file)
  let at = head.length
  for (const [index, name] of ['one', 'two'].entries()) {
    const bitmapAt = at + 1 + name.length + 8 + 28
    const pagesAt = (index + 1) * MiB
    Buffer.concat([
      ...[text(name), u64(3 * 4096), u32(1), u64(4096), u64(bitmapAt), u64(pagesAt)],
      ...[u8(bits[index]), Buffer.alloc(7)],
    ]).copy(file, at)
    for (let number = 0; number < 3; number++) page(number + 1).copy(file, pagesAt + number * 4096)
    at = pagesAt + 3 * 4096
  }
  const parts = [eos, footer(2), u8(2), u32(2), eos, footer(2)]
  const devices = [device(0, 'timer', Buffer.alloc(24)), ending({ timer: 24 })]
  return Buffer.concat([file, ...parts, ...devices])
}

describe('a mapped-ram file', () => {
  it('is recognised', async () => {
    expect(await isMappedRam(fileOf(documented([1, 1])))).toBe(true)
    expect(await isMappedRam(fileOf(capture('tiny')))).toBe(false)
  })

  it('has the pages of its bitmaps, and no others', async () => {
    const source = await mappedRamSource(fileOf(documented([0b101, 0b010])))
    const fills: string[] = []
    for await (const item of readStream(source)) {
      if (item.kind !== 'ram') continue
      for (const { block, offset, data } of item.records) {
        fills.push(`${block}:${offset / 4096}:${data[0] ?? 0}`)
      }
    }
    expect(fills).toEqual(['0:0:1', '0:1:0', '0:2:3', '1:0:0', '1:1:2', '1:2:0'])
  })

  it.each([
    ['a bitmap behind the file', 8 + 4 + 8],
    ['pages in front of it', 8 + 4 + 8 + 8],
  ])('is refused with %s', async (_, field) => {
    const file = documented([1, 1])
    const name = file.indexOf('one')
    file.writeBigUInt64BE(field === 20 ? 2n ** 50n : 16n, name + 3 + field)
    const consume = async () => {
      for await (const _ of readStream(await mappedRamSource(fileOf(file))));
    }
    await expect(consume()).rejects.toMatchObject({ code: 'CORRUPT_IMAGE' })
  })

  it('of QEMU 10 has the pages that its stream has', async () => {
    const source = await mappedRamSource(fileOf(mappedCapture('tiny-10-mapped')))
    expect(await ramOf(await savedFrom(source))).toEqual(
      await ramOf(await saved(capture('tiny-10'))),
    )
  })

  it('without bitmaps, which background-snapshot makes, is refused', async () => {
    const source = await mappedRamSource(fileOf(mappedCapture('tiny-10-mapped-background')))
    await expect(savedFrom(source)).rejects.toThrow(/none of its pages is marked/)
  })

  it.each(['tiny', 'tiny-uuid', 'tiny-shared', 'tiny-10'])(
    'is made of %s, and read again',
    async (name) => {
      const image = await saved(capture(name))
      const snapshot = await SnapshotReader.open(image)
      const bytes = Buffer.alloc(16 * MiB)
      const length = await writeMappedRam(snapshot, {
        name: 'mapped',
        async write(offset, part) {
          bytes.set(part, offset)
        },
      })
      const source = await mappedRamSource(fileOf(bytes.subarray(0, length)))
      const parts: Buffer[] = []
      const part = Buffer.alloc(100_000)
      for (let count = await source.read(part); count > 0; count = await source.read(part)) {
        parts.push(Buffer.from(part.subarray(0, count)))
      }
      expect(await ramOf(await saved(Buffer.concat(parts)))).toEqual(await ramOf(image))
    },
  )
})
