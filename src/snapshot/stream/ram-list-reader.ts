/** Reads the list of RAM blocks. What a block comes with depends on the source's capabilities. */
import { BlockError } from '../../errors.ts'
import { maxPageSize, ramFlag } from './format.ts'
import { maxRamBlocks, type RamBlock } from './ram-list.ts'
import type { Window } from './window.ts'

export interface RamListOptions {
  /** Bytes of a target page: flags are below. */
  readonly pageSize: number
  /** `x-ignore-shared`: each block has its address. */
  readonly guestAddresses: boolean
  /** Blocks with large pages have their size (a source that was ready for postcopy). */
  readonly pageSizes: boolean
}

/** Largest RAM: offsets stay far from 2^53. */
const maxRamBytes = 2 ** 50

const largestHostPage = 2 ** 34

/**
 * Parses the list at `start` of the window, takes nothing, and returns where its body ends.
 * `flushed`: other channels (multifd) are told to flush.
 */
export async function readRamList(
  window: Window,
  start: number,
  options: RamListOptions,
): Promise<{ blocks: RamBlock[]; flushed: boolean; end: number }> {
  const what = 'the list of RAM blocks'
  const fault = (text: string) =>
    new BlockError('CORRUPT_IMAGE', `${window.name}: ${what}: ${text}`, {
      path: window.name,
      offset: window.offset,
    })
  await window.need(start + 8, what)
  const flags = window.u32(start + 4) % options.pageSize
  if (flags !== ramFlag.RAM_SAVE_FLAG_MEM_SIZE) throw fault('it does not begin with the size')
  const total = window.u64(start) - flags
  if (total > maxRamBytes) throw fault(`${total} bytes of RAM`)
  const blocks: RamBlock[] = []
  const names = new Set<string>()
  let at = start + 8
  let sum = 0
  while (sum < total) {
    await window.need(at + 1, what)
    const nameEnd = at + 1 + window.u8(at)
    await window.need(nameEnd + 16, what)
    const name = window.text(at + 1, nameEnd - at - 1)
    const usedLength = window.u64(nameEnd)
    at = nameEnd + 8
    let pageSize: number | undefined
    if (options.pageSizes && isHostPage(window.u64(at))) {
      pageSize = window.u64(at)
      at += 8
      await window.need(at + 8, what)
    }
    const guestAddress = options.guestAddresses ? window.u64(at) : undefined
    if (options.guestAddresses) at += 8
    if (name === '' || names.has(name)) throw fault(`two blocks of one name, or none`)
    if (usedLength === 0 || usedLength % options.pageSize !== 0) {
      throw fault(`a block of ${usedLength} bytes, not a multiple of ${options.pageSize}`)
    }
    names.add(name)
    blocks.push({ name, usedLength, pageSize, guestAddress })
    sum += usedLength
    if (blocks.length > maxRamBlocks) throw fault('too many blocks')
  }
  if (sum !== total) throw fault(`blocks of ${sum} bytes in all, not ${total}`)
  await window.need(at + 8, what)
  // QEMU 8.1 may put a flush of its channels in front of the end.
  let flushed = false
  while (window.u64(at) === ramFlag.RAM_SAVE_FLAG_MULTIFD_FLUSH) {
    flushed = true
    at += 8
    await window.need(at + 8, what)
  }
  if (window.u64(at) !== ramFlag.RAM_SAVE_FLAG_EOS) throw fault('it has no end')
  return { blocks, flushed, end: at + 8 }
}

/** Not the end mark, and not a name, whose length would be in the first byte. */
function isHostPage(value: number): boolean {
  return (
    value > ramFlag.RAM_SAVE_FLAG_EOS &&
    value >= maxPageSize / 16 &&
    value <= largestHostPage &&
    Number.isInteger(Math.log2(value))
  )
}
