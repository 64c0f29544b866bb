/**
 * Files of QEMU's capability `mapped-ram` (9.0 and later): a stream in which every page of RAM has a
 * place of its own. The list of RAM blocks has, behind each block's length, a header that says where
 * in the file a bitmap of its pages and the pages are. Only pages in the bitmap mean anything.
 */
import { alignUp, MiB } from '../../bytes/range.ts'
import { struct, u32, u64 } from '../../bytes/struct.ts'
import { isZero } from '../../bytes/zero.ts'
import { BlockError } from '../../errors.ts'
import type { SnapshotReader } from '../image/snapshot-reader.ts'
import { readConfiguration, settingsOf, withCapabilities } from '../stream/configuration.ts'
import { defaultPageSize, ramFlag, ramSectionVersion, token } from '../stream/format.ts'
import { maxRamBlocks, type RamBlock } from '../stream/ram-list.ts'
import { RamPart } from '../stream/ram-part.ts'
import { ramListSection, streamHeader } from '../stream/stream-writer.ts'
import { type ByteSource, Window } from '../stream/window.ts'
import type { RandomFile, RandomTarget } from './random-file.ts'

const mappedHeader = struct('big', {
  version: u32,
  pageSize: u64,
  bitmapOffset: u64,
  pagesOffset: u64,
})

const mappedVersion = 1
const pagesAlignment = MiB

/** Pages are moved in pieces of this length. */
const pieceLength = MiB

interface MappedBlock extends RamBlock {
  readonly bitmapOffset: number
  readonly pagesOffset: number
}

/** Whether a stream that begins with these bytes is such a file. */
export async function isMappedRam(file: RandomFile): Promise<boolean> {
  const window = new Window(sourceAt(file, 0))
  await window.need(9, 'its header')
  window.skip(8)
  if (window.u8(0) !== token.QEMU_VM_CONFIGURATION) return false
  return settingsOf(await readConfiguration(window), window).capabilities.includes('mapped-ram')
}

/** The file as an ordinary stream. */
export async function mappedRamSource(file: RandomFile): Promise<ByteSource> {
  return sourceOf(streamOf(file), file.name)
}

async function* streamOf(file: RandomFile): AsyncGenerator<Uint8Array> {
  const window = new Window(sourceAt(file, 0))
  await window.need(9, 'its header')
  yield window.take(8).slice()
  const configuration = await readConfiguration(window)
  const { pageSize = defaultPageSize, capabilities } = settingsOf(configuration, window)
  yield withCapabilities(
    configuration,
    capabilities.filter((name) => name !== 'mapped-ram'),
  )
  const { blocks, sectionId, end } = await readList(file, window, capabilities, pageSize)
  yield ramListSection(blocks, { sectionId, pageSizes: false })
  const found: Found = { present: false, data: false }
  for (const block of blocks) yield* pagesOf(file, block, { sectionId, pageSize, found })
  if (found.data && !found.present) {
    const text =
      'none of its pages is marked as present, as when QEMU makes such a file with background-snapshot'
    throw fault(file, end, text)
  }
  const rest = sourceAt(file, end)
  const buffer = new Uint8Array(pieceLength)
  for (let count = await rest.read(buffer); count > 0; count = await rest.read(buffer)) {
    yield buffer.subarray(0, count)
  }
}

/** The list, with its headers; `end` is behind the section. */
async function readList(
  file: RandomFile,
  window: Window,
  capabilities: readonly string[],
  pageSize: number,
) {
  const start = window.offset
  const headLength = 1 + 4 + 1 + 3 + 4 + 4
  await window.need(headLength + 8, 'the list of RAM blocks')
  const sectionId = window.u32(1)
  const isRam = window.u8(0) === token.QEMU_VM_SECTION_START && window.text(6, 3) === 'ram'
  if (!isRam || window.u32(headLength - 4) !== ramSectionVersion) {
    throw fault(file, start, 'RAM is not the first section')
  }
  const total = window.u64(headLength) - ramFlag.RAM_SAVE_FLAG_MEM_SIZE
  const blocks: MappedBlock[] = []
  let at = start + headLength + 8
  for (let sum = 0; sum < total; ) {
    const block = await readBlock(file, at, capabilities.includes('x-ignore-shared'))
    if (block.pageSize !== pageSize) throw fault(file, at, `pages of ${block.pageSize} bytes`)
    if (block.usedLength === 0 || block.usedLength % pageSize !== 0) {
      throw fault(file, at, `a block of ${block.usedLength} bytes`)
    }
    const { pageSize: _, ...kept } = block
    blocks.push(kept)
    sum += block.usedLength
    at = block.pagesOffset + block.usedLength
    if (sum > total || blocks.length > maxRamBlocks)
      throw fault(file, at, 'its blocks do not add up')
  }
  const tail = Buffer.alloc(13)
  await file.read(at, tail)
  const isEnd = tail.readBigUInt64BE() === BigInt(ramFlag.RAM_SAVE_FLAG_EOS)
  if (!isEnd || tail[8] !== token.QEMU_VM_SECTION_FOOTER || tail.readUInt32BE(9) !== sectionId) {
    throw fault(file, at, 'the list of RAM blocks has no end')
  }
  return { blocks, sectionId, end: at + tail.length }
}

async function readBlock(file: RandomFile, at: number, addressed: boolean): Promise<MappedBlock> {
  const bytes = Buffer.alloc(1 + 255 + 8 + 8 + mappedHeader.size)
  await file.read(at, bytes)
  const nameEnd = 1 + bytes[0]
  const usedLength = Number(bytes.readBigUInt64BE(nameEnd))
  const headerAt = nameEnd + 8 + (addressed ? 8 : 0)
  const header = mappedHeader.decode(bytes, headerAt)
  if (header.version !== mappedVersion) {
    throw fault(file, at, `version ${header.version} of mapped-ram`)
  }
  const bitmapEnd = header.bitmapOffset + bitmapLength(usedLength / header.pageSize)
  // The footer of the list follows the last page, so the file has room for all of them.
  const pagesEnd = header.pagesOffset + usedLength
  if (header.bitmapOffset < at || bitmapEnd > header.pagesOffset || pagesEnd > file.size) {
    throw fault(file, at, 'a block whose parts overlap, or lie outside the file')
  }
  return {
    name: bytes.toString('utf8', 1, nameEnd),
    guestAddress: addressed ? Number(bytes.readBigUInt64BE(nameEnd + 8)) : undefined,
    ...{ usedLength, pageSize: header.pageSize },
    ...{ bitmapOffset: header.bitmapOffset, pagesOffset: header.pagesOffset },
  }
}

/**
 * QEMU (up to 10.1 at least) writes no bitmaps with background-snapshot, and does not load such a
 * file itself. Taken for a snapshot it would be one of zeroes.
 */
interface Found {
  present: boolean
  data: boolean
}

interface PageOptions {
  readonly sectionId: number
  readonly pageSize: number
  readonly found: Found
}

async function* pagesOf(
  file: RandomFile,
  block: MappedBlock,
  { sectionId, pageSize, found }: PageOptions,
): AsyncGenerator<Uint8Array> {
  const bits = new Uint8Array(bitmapLength(block.usedLength / pageSize))
  await file.read(block.bitmapOffset, bits)
  found.present ||= !isZero(bits)
  const part = new RamPart(sectionId, pageSize, pieceLength / pageSize)
  const name = Buffer.from(block.name)
  const piece = new Uint8Array(pieceLength)
  for (let start = 0; start < block.usedLength; start += pieceLength) {
    const length = Math.min(pieceLength, block.usedLength - start)
    piece.fill(0)
    await file.read(block.pagesOffset + start, piece.subarray(0, length))
    found.data ||= !found.present && !isZero(piece)
    part.begin(name)
    for (let at = 0; at < length; at += pageSize) {
      const page = (start + at) / pageSize
      if ((bits[Math.floor(page / 8)] >>> (page % 8)) % 2 === 0) part.zero(start + at)
      else part.page(start + at, piece.subarray(at, at + pageSize))
    }
    yield part.finish()
  }
}

/** Writes a snapshot as such a file. Pages of zeroes are holes, and not in the bitmap. */
export async function writeMappedRam(
  snapshot: SnapshotReader,
  target: RandomTarget,
): Promise<number> {
  const { parts, pageSize } = snapshot
  if (!parts.configuration) {
    throw new BlockError('UNSUPPORTED', 'mapped-ram needs a stream with a configuration')
  }
  const addressed = parts.ramList.blocks.some(({ guestAddress }) => guestAddress !== undefined)
  const { sectionId } = parts.ramList
  const capabilities = [...(addressed ? ['x-ignore-shared'] : []), 'mapped-ram']
  let at = 0
  const put = async (bytes: Uint8Array) => {
    await target.write(at, bytes)
    at += bytes.length
  }
  await put(streamHeader())
  await put(withCapabilities(parts.configuration, capabilities))
  const list = ramListSection(parts.ramList.blocks, { sectionId, pageSizes: false })
  await put(list.subarray(0, 1 + 4 + 1 + 3 + 4 + 4 + 8))
  for (const [index, block] of snapshot.blocks.entries()) {
    const name = Buffer.from(block.name)
    const fields = Buffer.alloc(addressed ? 16 : 8)
    fields.writeBigUInt64BE(BigInt(block.usedLength))
    if (addressed) fields.writeBigUInt64BE(BigInt(block.guestAddress ?? 0), 8)
    const bitmapOffset = at + 1 + name.length + fields.length + mappedHeader.size
    const bits = new Uint8Array(bitmapLength(block.usedLength / pageSize))
    const pagesOffset = alignUp(bitmapOffset + bits.length, pagesAlignment)
    const header = mappedHeader.encode({
      version: mappedVersion,
      pageSize,
      bitmapOffset,
      pagesOffset,
    })
    await put(Buffer.concat([Buffer.of(name.length), name, fields, header]))
    if (snapshot.isSent(index)) await writePages(snapshot, block.base, bits, pagesOffset, target)
    await put(bits)
    at = pagesOffset + block.usedLength
  }
  // The end mark and the footer close the list, as they close any.
  await put(list.subarray(list.length - 13))
  for (const { bytes } of [...parts.early, ...parts.devices]) await put(bytes)
  await put(parts.tail)
  return at
}

async function writePages(
  snapshot: SnapshotReader,
  base: number,
  bits: Uint8Array,
  pagesOffset: number,
  target: RandomTarget,
): Promise<void> {
  const { pageSize } = snapshot
  const block = snapshot.blocks.find((one) => one.base === base)
  const usedLength = block?.usedLength ?? 0
  for await (const { offset, bytes } of snapshot.pages(base, usedLength)) {
    for (let at = 0; at < bytes.length; at += pageSize) {
      const page = (offset - base + at) / pageSize
      bits[Math.floor(page / 8)] |= 1 << (page % 8)
    }
    await target.write(pagesOffset + offset - base, bytes)
  }
}

/** Bytes: whole words of 64 bits. */
function bitmapLength(pages: number): number {
  return Math.ceil(pages / 64) * 8
}

function sourceAt(file: RandomFile, start: number): ByteSource {
  let at = start
  return {
    name: file.name,
    async read(target) {
      const count = await file.read(at, target)
      at += count
      return count
    },
  }
}

/** A source of what a generator yields. */
export function sourceOf(parts: AsyncIterator<Uint8Array>, name: string): ByteSource {
  let part: Uint8Array = new Uint8Array(0)
  return {
    name,
    async read(target) {
      while (part.length === 0) {
        const next = await parts.next()
        if (next.done) return 0
        part = next.value
      }
      const taken = part.subarray(0, target.length)
      target.set(taken)
      part = part.subarray(taken.length)
      return taken.length
    },
  }
}

function fault(file: RandomFile, offset: number, what: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', `${file.name}: ${what}, at byte ${offset}`, {
    path: file.name,
    offset,
  })
}
