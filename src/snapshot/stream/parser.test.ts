import { deflateSync } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import {
  capture,
  command,
  configuration,
  device,
  ending,
  eos,
  footer,
  header,
  itemsOf,
  type KeptItem,
  page,
  ramPart,
  ramStart,
  text,
  u8,
  u16,
  u32,
  u64,
} from '../../../test/support/migration.ts'
import type { RamRecord } from './stream-item.ts'

const start = Buffer.concat([header, configuration('pc-test')])
const ram = ramStart([
  { name: 'pc.ram', length: 8 * 4096 },
  { name: 'rom', length: 4096 },
])
const timer = device(0, 'timer', Buffer.alloc(24, 1))
const end = ending({ timer: 24 })

function find<K extends KeptItem['kind']>(items: readonly KeptItem[], kind: K) {
  return items.filter((item): item is Extract<KeptItem, { kind: K }> => item.kind === kind)
}

function recordsOf(items: readonly KeptItem[]): RamRecord[] {
  return find(items, 'ram').flatMap(({ records }) => [...records])
}

async function withRam(...parts: Buffer[]): Promise<RamRecord[]> {
  return recordsOf(await itemsOf(Buffer.concat([start, ram, ...parts, timer, end])))
}

describe('a capture of QEMU', () => {
  it('is taken apart whole, whatever the pieces it comes in', async () => {
    const stream = capture('tiny')
    const whole = await itemsOf(stream)
    const piecewise = await itemsOf(stream, { step: 999 })
    const sections = find(whole, 'section')
    expect(sections.map(({ name }) => name).slice(0, 4)).toEqual([
      ...['timer', 'cpu_common', 'cpu', 'kvm-tpr-opt'],
    ])
    expect(find(piecewise, 'section')).toEqual(sections)
    expect(recordsOf(piecewise)).toEqual(recordsOf(whole))
    expect(find(whole, 'configuration')[0].machine).toBe('pc-i440fx-7.2')
    expect(find(whole, 'ram-list')[0].blocks.map(({ name }) => name)).toContain('pc.bios')
    const length = whole.reduce((sum, item) => sum + ('bytes' in item ? item.bytes.length : 0), 0)
    const parts = find(whole, 'ram-part').reduce((sum, part) => sum + part.length, 0)
    expect(length + parts).toBe(stream.length)
  })

  it('of a background snapshot has each page once, and no end of RAM', async () => {
    const items = await itemsOf(capture('tiny-background'))
    const pages = recordsOf(items).map(({ block, offset }) => `${block}:${offset}`)
    expect(new Set(pages).size).toBe(pages.length)
    expect(find(items, 'ram-part').some(({ last }) => last)).toBe(false)
  })

  it('with a return path begins with commands', async () => {
    const items = await itemsOf(capture('tiny-return-path'))
    expect(find(items, 'command').map(({ command }) => command)).toEqual([1, 2])
  })

  it('of QEMU 10 has a command in front of the last pages', async () => {
    const items = await itemsOf(capture('tiny-10'))
    expect(find(items, 'command').map(({ command }) => command)).toEqual([11])
    expect(find(items, 'configuration')[0].machine).toBe('pc-i440fx-10.0')
  })

  it('of QEMU 10 may have devices in front of the first page', async () => {
    const sections = find(await itemsOf(capture('tiny-10-memory')), 'section')
    const early = sections.filter((section) => section.early)
    expect(early.map(({ name }) => name)).toEqual(['0000:00:01.0/virtio-mem-device-early'])
    expect(sections.length).toBeGreaterThan(30)
  })

  it('tells the UUID', async () => {
    const [{ subsections }] = find(await itemsOf(capture('tiny-uuid')), 'configuration')
    expect(subsections[0].name).toBe('configuration/uuid')
    expect(Buffer.from(subsections[0].data).toString('hex')).toBe(
      '112233445566778899aabbccddeeff00',
    )
  })

  it('tells addresses of blocks, and has no page of a shared one', async () => {
    const items = await itemsOf(capture('tiny-shared'))
    const [{ blocks }] = find(items, 'ram-list')
    expect(blocks[0]).toMatchObject({ name: 'm', guestAddress: 0, usedLength: 2 * 1024 * 1024 })
    expect(recordsOf(items).some(({ block }) => block === 0)).toBe(false)
  })
})

describe('records of RAM', () => {
  it('continue the block named last, across sections', async () => {
    const records = await withRam(
      ramPart([Buffer.concat([u64(8), text('rom'), page(1)])]),
      ramPart([Buffer.concat([u64(0x28), page(2)])], 2, 3),
    )
    expect(records.map(({ block, data }) => [block, data[0]])).toEqual([
      [1, 1],
      [1, 2],
    ])
  })

  it('may be zero, or filled with a byte', async () => {
    const [zero, fives] = await withRam(
      ramPart([
        Buffer.concat([u64(4096 + 2), text('pc.ram'), u8(0)]),
        Buffer.concat([u64(8192 + 0x22), u8(5)]),
      ]),
    )
    expect(zero).toMatchObject({ kind: 'zero', offset: 4096 })
    expect(fives).toMatchObject({ kind: 'page', offset: 8192 })
    expect(fives.data.every((byte) => byte === 5)).toBe(true)
  })

  it('may be deltas and compressed pages, with flushes between', async () => {
    const zlib = deflateSync(page(9))
    const [packed, delta] = await withRam(
      ramPart([
        Buffer.concat([u64(0x100), text('pc.ram'), u32(zlib.length), zlib]),
        u64(0x200),
        Buffer.concat([u64(0x60), u8(1), u16(3), u8(0, 1, 7)]),
      ]),
    )
    expect(packed.data.every((byte) => byte === 9)).toBe(true)
    expect(delta).toMatchObject({ kind: 'delta', block: 0, offset: 0 })
  })

  it.each([
    ['of no block', Buffer.concat([u64(0x28), page(1)]), /no block/],
    ['of an unknown block', Buffer.concat([u64(8), text('vga'), page(1)]), /not in the list/],
    ['behind the end', Buffer.concat([u64(8 * 4096 + 8), text('pc.ram'), page(1)]), /behind/],
    ['of RDMA', Buffer.concat([u64(0x80), text('pc.ram')]), /flags 0x80/],
    ['of no page', Buffer.concat([u64(0x100), text('pc.ram'), u32(2), u8(1, 2)]), /compressed/],
  ])('are refused: %s', async (_, record, message) => {
    await expect(withRam(ramPart([record]))).rejects.toThrow(message)
  })
})

describe('the list of blocks', () => {
  it('has sizes of pages where the source was ready for postcopy with large ones', async () => {
    const large = 2 * 1024 * 1024
    const list = ramStart([
      { name: 'huge', length: large, extra: u64(large) },
      { name: 'usual', length: 4096 },
      { name: 'last', length: large, extra: u64(large) },
    ])
    const advise = command(3, Buffer.concat([u64(large + 4096), u64(4096)]))
    const items = await itemsOf(Buffer.concat([start, advise, list, ramPart([]), timer, end]))
    const [{ blocks }] = find(items, 'ram-list')
    expect(blocks.map(({ pageSize }) => pageSize)).toEqual([large, undefined, large])
  })

  it('has to add up', async () => {
    const wrong = Buffer.from(ram)
    wrong.writeUInt32BE(9 * 4096 + 4096 + 4, 1 + 4 + 4 + 8 + 4)
    await expect(itemsOf(Buffer.concat([start, wrong, timer, end]))).rejects.toThrow(/RAM blocks/)
  })
})

describe('devices', () => {
  it('may come before RAM', async () => {
    const early = device(7, 'virtio-mem', Buffer.alloc(9, 3))
    const stream = Buffer.concat([
      ...[start, ram, early, ramPart([]), timer],
      ending({ 'virtio-mem': 9, timer: 24 }),
    ])
    const sections = find(await itemsOf(stream), 'section')
    expect(sections.map(({ name, early }) => [name, early])).toEqual([
      ['virtio-mem', true],
      ['timer', false],
    ])
  })

  it('may contain what looks like a footer', async () => {
    const body = Buffer.concat([footer(9), u8(0x42), footer(9), u8(4), u32(10), text('\0')])
    const stream = Buffer.concat([
      ...[start, ram, ramPart([]), device(9, 'odd', body), timer],
      ending({ odd: body.length, timer: 24 }),
    ])
    const [odd] = find(await itemsOf(stream), 'section')
    expect(Buffer.from(odd.body)).toEqual(body)
  })

  it('have to be as long as described', async () => {
    const stream = Buffer.concat([start, ram, ramPart([]), timer, ending({ timer: 25 })])
    await expect(itemsOf(stream)).rejects.toThrow(/gives 'timer' 25 bytes, but there are 24/)
  })
})

describe('what a snapshot cannot carry', () => {
  const live = (name: string) =>
    Buffer.concat([u8(1), u32(5), text(name), u32(0), u32(1), eos, footer(5)])

  it.each([
    ['0000:00:02.0/vfio', live('0000:00:02.0/vfio'), /live state of '0000:00:02.0\/vfio'/],
    ['block', live('block'), /live state of 'block'/],
    ['postcopy', command(4), /MIG_CMD_POSTCOPY_LISTEN/],
    ['packaged', command(7, u32(0)), /MIG_CMD_PACKAGED/],
    ['COLO', command(8), /MIG_CMD_ENABLE_COLO/],
  ])('is refused by name: %s', async (_, part, message) => {
    const stream = Buffer.concat([start, ram, part, ramPart([]), timer, end])
    await expect(itemsOf(stream)).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(message),
    })
  })

  it('is refused when it is no stream', async () => {
    await expect(itemsOf(Buffer.alloc(100, 7))).rejects.toMatchObject({ code: 'NOT_RECOGNISED' })
  })
})

describe('the end', () => {
  const stream = Buffer.concat([start, ram, ramPart([]), timer, end])

  it('is the end: nothing may follow', async () => {
    await expect(itemsOf(Buffer.concat([stream, u8(0)]))).rejects.toThrow(/behind the end/)
  })

  it('has to come: no shorter stream is taken for whole', async () => {
    for (let length = 0; length < stream.length; length++) {
      await expect(itemsOf(stream.subarray(0, length)), `${length} bytes`).rejects.toThrow()
    }
  })

  it('may lack a description where the machine gives none', async () => {
    const bare = Buffer.concat([start, ram, ramPart([]), timer, u8(0)])
    await expect(itemsOf(bare)).rejects.toThrow(/--no-description/)
    expect((await itemsOf(bare, { withoutDescription: true })).at(-1)?.kind).toBe('end')
  })
})
