/**
 * A snapshot as an ELF core file, which gdb and crash open: RAM at its physical addresses, and the
 * registers of each processor.
 */
import { alignUp } from '../../bytes/range.ts'
import { struct, u16, u32, u64 } from '../../bytes/struct.ts'
import type { SnapshotReader } from '../image/snapshot-reader.ts'
import { fieldsOf } from './device-fields.ts'
import { memoryRegions } from './guest-memory.ts'
import type { RandomTarget } from './random-file.ts'

const elfHeader = struct('little', {
  magic: u32,
  classAndOrder: u32,
  abi: u64,
  type: u16,
  machine: u16,
  version: u32,
  entry: u64,
  programHeaderOffset: u64,
  sectionHeaderOffset: u64,
  flags: u32,
  headerSize: u16,
  programHeaderSize: u16,
  programHeaderCount: u16,
  sectionHeaderSize: u16,
  sectionHeaderCount: u16,
  sectionNameIndex: u16,
})

const programHeader = struct('little', {
  type: u32,
  flags: u32,
  offset: u64,
  virtualAddress: u64,
  physicalAddress: u64,
  fileSize: u64,
  memorySize: u64,
  alignment: u64,
})

/** 0x7f "ELF"; 64 bits, little-endian, version 1. */
const ELFMAG = 0x464c457f
const classAndOrder = 0x00010102
const ET_CORE = 4
const EM_X86_64 = 62
const PT_LOAD = 1
const PT_NOTE = 4
const NT_PRSTATUS = 1
const readWriteExecute = 7

const pageAlignment = 4096

/** Returns the length of the file. */
export async function writeElfCore(
  snapshot: SnapshotReader,
  target: RandomTarget,
  below4G?: number,
): Promise<number> {
  const regions = memoryRegions(snapshot, below4G)
  const notes = Buffer.concat(registerNotes(snapshot))
  const notesOffset = elfHeader.size + (regions.length + 1) * programHeader.size
  let end = alignUp(notesOffset + notes.length, pageAlignment)
  const headers = [
    elfHeader.encode({
      ...{ magic: ELFMAG, classAndOrder, abi: 0, type: ET_CORE, machine: EM_X86_64, version: 1 },
      ...{ entry: 0, programHeaderOffset: elfHeader.size, sectionHeaderOffset: 0, flags: 0 },
      ...{ headerSize: elfHeader.size, programHeaderSize: programHeader.size },
      ...{ programHeaderCount: regions.length + 1, sectionHeaderSize: 0 },
      ...{ sectionHeaderCount: 0, sectionNameIndex: 0 },
    }),
    segment(PT_NOTE, notesOffset, 0, notes.length),
  ]
  const places = regions.map((region) => {
    const offset = end
    end += region.length
    headers.push(segment(PT_LOAD, offset, region.guestAddress, region.length))
    return { ...region, fileOffset: offset }
  })
  await target.write(0, Buffer.concat([...headers, notes]))
  for (const { offset, length, fileOffset } of places) {
    for await (const run of snapshot.pages(offset, length)) {
      await target.write(fileOffset + run.offset - offset, run.bytes)
    }
  }
  return end
}

function segment(type: number, offset: number, address: number, length: number): Uint8Array {
  return programHeader.encode({
    ...{ type, flags: type === PT_LOAD ? readWriteExecute : 0, offset },
    ...{ virtualAddress: address, physicalAddress: address },
    ...{ fileSize: length, memorySize: length, alignment: type === PT_LOAD ? pageAlignment : 4 },
  })
}

/** Linux's `elf_prstatus` for x86-64: its length, the place of the thread's number, of registers. */
const statusLength = 336
const threadAt = 32
const registersAt = 112

/** The order of `user_regs_struct`, by the numbers that QEMU has for general registers. */
const generalRegisters = [15, 14, 13, 12, 5, 3, 11, 10, 9, 8, 0, 1, 2, 6, 7]

/** One note a processor; none where the states cannot be read. */
function registerNotes({ parts }: SnapshotReader): Buffer[] {
  const processors = parts.devices.filter(({ name }) => name === 'cpu')
  return processors.flatMap((device, index) => {
    const fields = fieldsOf(device, parts.description)
    const general = fields.get('env.regs')
    const pointer = fields.get('env.eip')
    if (!general || !pointer || general.length < 8 * 8) return []
    const status = Buffer.alloc(statusLength)
    status.writeUInt32LE(index + 1, threadAt)
    const register = (number: number) =>
      number * 8 + 8 <= general.length ? general.readBigUInt64BE(number * 8) : 0n
    const values = [
      ...generalRegisters.map(register),
      0n,
      pointer.readBigUInt64BE(),
      selector(fields, 1),
      long(fields.get('env.eflags')),
      register(4),
      selector(fields, 2),
      segmentBase(fields, 4),
      segmentBase(fields, 5),
      ...[3, 0, 4, 5].map((number) => selector(fields, number)),
    ]
    for (const [place, value] of values.entries()) {
      status.writeBigUInt64LE(value, registersAt + place * 8)
    }
    return [note('CORE', NT_PRSTATUS, status)]
  })
}

/** `SegmentCache` in the stream: selector, base, limit, flags; selectors and the rest big-endian. */
const segmentLength = 4 + 8 + 4 + 4

function segmentOf(fields: ReadonlyMap<string, Buffer>, number: number): Buffer | undefined {
  const all = fields.get('env.segs')
  const single = fields.get(`env.segs[${number}]`)
  if (single) return single
  return all && all.length >= (number + 1) * segmentLength
    ? all.subarray(number * segmentLength, (number + 1) * segmentLength)
    : undefined
}

function selector(fields: ReadonlyMap<string, Buffer>, number: number): bigint {
  return BigInt(segmentOf(fields, number)?.readUInt32BE() ?? 0)
}

function segmentBase(fields: ReadonlyMap<string, Buffer>, number: number): bigint {
  return segmentOf(fields, number)?.readBigUInt64BE(4) ?? 0n
}

function long(field: Buffer | undefined): bigint {
  if (!field) return 0n
  return field.length >= 8 ? field.readBigUInt64BE() : BigInt(field.readUInt32BE())
}

function note(owner: string, type: number, content: Buffer): Buffer {
  const name = Buffer.alloc(alignUp(owner.length + 1, 4))
  name.write(owner)
  const head = Buffer.alloc(12)
  head.writeUInt32LE(owner.length + 1)
  head.writeUInt32LE(content.length, 4)
  head.writeUInt32LE(type, 8)
  return Buffer.concat([head, name, content])
}
