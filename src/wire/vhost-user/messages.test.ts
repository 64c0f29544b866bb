import { expect, it } from 'vitest'
import { blockConfig, segment } from '../virtio/block.ts'
import { configHeader, memoryRegion, messageHeader, vringAddress } from './messages.ts'

it('has the layouts of the specifications', () => {
  expect([messageHeader.size, memoryRegion.size, vringAddress.size]).toEqual([12, 32, 40])
  expect([configHeader.size, segment.size, blockConfig.size]).toEqual([12, 16, 60])
  const { blockSize, writeback, queues, maxDiscardSectors, writeZeroesMayUnmap } =
    blockConfig.offsets
  expect([blockSize, writeback, queues, maxDiscardSectors, writeZeroesMayUnmap]).toEqual([
    20, 32, 34, 36, 56,
  ])
})
