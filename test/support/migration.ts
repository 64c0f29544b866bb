/** Migration streams for tests: real captures, and others made byte by byte as the format has it. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'
import { readStream, type StreamOptions } from '../../src/snapshot/stream/parser.ts'
import type { RamRecord, StreamItem } from '../../src/snapshot/stream/stream-item.ts'
import type { ByteSource } from '../../src/snapshot/stream/window.ts'

/** A capture of QEMU; see `test/images/README.md`. */
export function capture(name: string): Buffer {
  return unpacked(`${name}.stream`)
}

/** A mapped-ram file of QEMU 10. */
export function mappedCapture(name: string): Buffer {
  return unpacked(name)
}

function unpacked(name: string): Buffer {
  const url = new URL(`../images/migration/${name}.gz`, import.meta.url)
  return gunzipSync(readFileSync(fileURLToPath(url)))
}

/** Hands out `bytes`, at most `step` at a time. */
export function sourceOf(bytes: Uint8Array, step = Number.POSITIVE_INFINITY): ByteSource {
  let given = 0
  return {
    name: 'stream',
    async read(target) {
      const part = bytes.subarray(given, given + Math.min(step, target.length))
      target.set(part)
      given += part.length
      return part.length
    },
  }
}

/** Items with bytes of their own; records of RAM as objects. */
export type KeptItem =
  | Exclude<StreamItem, { kind: 'ram' }>
  | { readonly kind: 'ram'; readonly records: readonly RamRecord[] }

/** All items of a stream. */
export async function itemsOf(
  bytes: Uint8Array,
  options: StreamOptions & { readonly step?: number } = {},
): Promise<KeptItem[]> {
  const items: KeptItem[] = []
  for await (const item of readStream(sourceOf(bytes, options.step), options)) {
    items.push(
      item.kind === 'ram'
        ? { kind: 'ram', records: structuredClone([...item.records]) }
        : structuredClone(item),
    )
  }
  return items
}

export const u8 = (...values: number[]): Buffer => Buffer.from(values)

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

export const text = (value: string): Buffer => Buffer.concat([u8(value.length), Buffer.from(value)])

export const header: Buffer = Buffer.concat([Buffer.from('QEVM'), u32(3)])

export const configuration = (machine: string, ...subsections: Buffer[]): Buffer =>
  Buffer.concat([u8(7), u32(machine.length), Buffer.from(machine), ...subsections])

export const footer = (id: number): Buffer => Buffer.concat([u8(0x7e), u32(id)])

export const eos: Buffer = u64(0x10)

/** `extra` is what follows the length of a block. */
export function ramStart(
  blocks: readonly { name: string; length: number; extra?: Buffer }[],
  id = 2,
): Buffer {
  const total = blocks.reduce((sum, { length }) => sum + length, 0)
  return Buffer.concat([
    ...[u8(1), u32(id), text('ram'), u32(0), u32(4), u64(total + 4)],
    ...blocks.flatMap(({ name, length, extra }) => [text(name), u64(length), extra ?? u8()]),
    ...[eos, footer(id)],
  ])
}

export const ramPart = (records: readonly Buffer[], id = 2, kind = 2): Buffer =>
  Buffer.concat([u8(kind), u32(id), ...records, eos, footer(id)])

export const device = (id: number, name: string, body: Buffer): Buffer =>
  Buffer.concat([u8(4), u32(id), text(name), u32(0), u32(1), body, footer(id)])

export const command = (number: number, payload: Buffer = u8()): Buffer =>
  Buffer.concat([u8(8), u16(number), u16(payload.length), payload])

/** The end, with a description of devices of those lengths. */
export function ending(devices: Readonly<Record<string, number>>): Buffer {
  const json = JSON.stringify({
    page_size: 4096,
    devices: Object.entries(devices).map(([name, size]) => ({
      ...{ name, instance_id: 0, vmsd_name: name, version: 1 },
      fields: [{ name: 'all', type: 'buffer', size }],
    })),
  })
  return Buffer.concat([u8(0), u8(6), u32(json.length), Buffer.from(json)])
}

export const page = (fill: number): Buffer => Buffer.alloc(4096, fill)
