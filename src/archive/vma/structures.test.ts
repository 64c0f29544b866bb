import { expect, test } from 'vitest'
import { indexGroup, indexHead, indexPage } from './archive-index.ts'
import { deviceInfo, extentHeader, slotOffsets, slotsPerExtent, vmaHeader } from './structures.ts'

test('the header has its fields where the format puts them', () => {
  expect(vmaHeader.size).toBe(12_288)
  expect(vmaHeader.offsets).toMatchObject({
    magic: 0,
    version: 4,
    uuid: 8,
    ctime: 24,
    md5: 32,
    blobBufferOffset: 48,
    blobBufferSize: 52,
    headerSize: 56,
    extensionMagic: 64,
    extensionVersion: 72,
    extensionFeatures: 76,
    configNames: 2044,
    configData: 3068,
    deviceInfo: 4096,
  })
  expect(deviceInfo.size).toBe(32)
  expect(deviceInfo.offsets).toMatchObject({ nameOffset: 0, size: 8 })
})

test('the extent header has its fields where the format puts them', () => {
  expect(extentHeader.size).toBe(512)
  expect(extentHeader.offsets).toMatchObject({ blockCount: 6, uuid: 8, md5: 24, slots: 40 })
  expect(slotOffsets.size * slotsPerExtent).toBe(512 - 40)
})

test('an index page fills the seven free bytes of 59 slots', () => {
  expect(indexPage.size).toBe(59 * 7)
  expect(indexHead.size).toBe(56)
  expect(indexGroup.size).toBe(44)
})
