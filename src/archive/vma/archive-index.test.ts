import { describe, expect, test } from 'vitest'
import {
  decodeIndex,
  decodeIndexPage,
  encodeIndex,
  hasDevice,
  IndexBuilder,
  indexHead,
  maxIndexGroups,
  maxIndexPages,
} from './archive-index.ts'
import { decodeExtent } from './extent.ts'

const uuid = Buffer.alloc(16, 3)
const header = { size: 12_800, md5: Buffer.alloc(16, 9) }
const md5 = Buffer.alloc(16, 1)
const extentSize = 512 + 58 * 65_536

/** The content of all pages, as a reader gathers it. */
function contentOf(encoded: Buffer): Buffer {
  const pages: Uint8Array[] = []
  for (let at = 0; at < encoded.length; at += 512) {
    const raw = encoded.subarray(at, at + 512)
    expect(decodeExtent(raw, uuid, at)).toMatchObject({ clusters: [], dataSize: 0 })
    const page = decodeIndexPage(raw)!
    expect(page).toMatchObject({ page: at / 512, pages: encoded.length / 512 })
    pages.push(page.content)
  }
  return Buffer.concat(pages)
}

test('groups end after 16 MiB, and know their devices', () => {
  const builder = new IndexBuilder(header)
  for (const device of [1, 1, 1, 1, 200, 31, 32]) builder.add(extentSize, [device], md5)
  const { groups, extentCount, dataEnd } = builder.finish()
  expect(extentCount).toBe(7)
  expect(dataEnd).toBe(header.size + 7 * extentSize)
  expect(groups.map(({ offset, extentCount: count }) => [offset, count])).toEqual([
    [12_800, 4],
    [12_800 + 4 * extentSize, 3],
  ])
  const devices = (group: number) =>
    Array.from({ length: 256 }, (_, id) => id).filter((id) => hasDevice(groups[group], id))
  expect(devices(0)).toEqual([1])
  expect(devices(1)).toEqual([31, 32, 200])
})

test('extents of zeroes end a group after 1024', () => {
  const builder = new IndexBuilder(header)
  for (let extent = 0; extent < 2500; extent++) builder.add(512, [1], md5)
  expect(builder.finish().groups.map(({ extentCount }) => extentCount)).toEqual([1024, 1024, 452])
})

test('what was encoded is decoded', () => {
  const builder = new IndexBuilder(header)
  for (let extent = 0; extent < 500; extent++) builder.add(extentSize, [1 + (extent % 254)], md5)
  const index = builder.finish()
  const content = contentOf(encodeIndex(index, uuid))
  expect(decodeIndex(content, header.size, index.dataEnd)).toEqual(index)
})

test('an index stays small, however large the archive', () => {
  const builder = new IndexBuilder(header)
  const extents = 5 * maxIndexGroups + 100
  for (let extent = 0; extent < extents; extent++) {
    // Extents as large as a group, so that each would be a group of its own.
    builder.add(16 * 1024 * 1024, [extent === 77 ? 2 : 1], md5)
  }
  const index = builder.finish()
  expect(index.groups.length).toBeLessThanOrEqual(maxIndexGroups)
  expect(index.groups.length).toBeGreaterThan(maxIndexGroups / 2)
  expect(index.extentCount).toBe(extents)
  expect(index.groups.reduce((sum, group) => sum + group.extentCount, 0)).toBe(extents)
  const withTwo = index.groups.findIndex((group) => hasDevice(group, 2))
  expect(withTwo).toBe(Math.floor(77 / index.groups[0].extentCount))
  const encoded = encodeIndex(index, uuid)
  expect(encoded.length / 512).toBeLessThanOrEqual(maxIndexPages)
  expect(decodeIndex(contentOf(encoded), header.size, index.dataEnd)).toEqual(index)
})

describe('an index is refused that', () => {
  const valid = () => {
    const builder = new IndexBuilder(header)
    for (let extent = 0; extent < 9; extent++) builder.add(extentSize, [1], md5)
    return contentOf(encodeIndex(builder.finish(), uuid))
  }
  const end = header.size + 9 * extentSize

  test.each<[string, (content: Buffer) => void, string]>([
    ['has an unknown version', (c) => c.writeUInt32BE(2, 0), 'version 2'],
    ['claims four billion groups', (c) => c.writeUInt32BE(2 ** 32 - 1, 4), '4294967295 groups'],
    ['claims more groups than it has', (c) => c.writeUInt32BE(200, 4), 'need'],
    ['begins elsewhere', (c) => c.writeUInt32BE(7, indexHead.offsets.dataEnd + 4), 'begin at 7'],
    ['starts behind the data', (c) => c.writeUInt32BE(13_312, 60), 'does not begin'],
    ['has a group of too many extents', (c) => c.writeUInt32BE(2 ** 31, 64), '2147483648 extents'],
    ['has an empty group', (c) => c.writeUInt32BE(0, 64), 'claims 0 extents'],
    ['goes backwards', (c) => c.writeUInt32BE(5, 104), 'extents between'],
    ['counts wrong', (c) => c.writeUInt32BE(8, indexHead.offsets.extentCount + 4), 'counts 8'],
  ])('%s', (_, change, message) => {
    const content = valid()
    change(content)
    expect(() => decodeIndex(content, header.size, end)).toThrow(message)
  })
})
