/** Builds the pieces of a migration stream. */
import { BlockError } from '../../errors.ts'
import {
  command as commands,
  QEMU_VM_FILE_MAGIC,
  QEMU_VM_FILE_VERSION,
  ramFlag,
  ramSectionVersion,
  token,
} from './format.ts'
import type { RamBlock } from './ram-list.ts'

export function streamHeader(): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeUInt32BE(QEMU_VM_FILE_MAGIC)
  bytes.writeUInt32BE(QEMU_VM_FILE_VERSION, 4)
  return bytes
}

export function commandBytes(number: number, payload: Uint8Array = new Uint8Array(0)): Buffer {
  const head = Buffer.alloc(5)
  head[0] = token.QEMU_VM_COMMAND
  head.writeUInt16BE(number, 1)
  head.writeUInt16BE(payload.length, 3)
  return Buffer.concat([head, payload])
}

/** Says which sizes of pages there are; empties the RAM of who reads it. */
export function adviseCommand(blocks: readonly RamBlock[], pageSize: number): Buffer {
  const payload = Buffer.alloc(16)
  let summary = 0n
  for (const block of blocks) summary |= BigInt(block.pageSize ?? pageSize)
  payload.writeBigUInt64BE(summary)
  payload.writeBigUInt64BE(BigInt(pageSize), 8)
  return commandBytes(commands.MIG_CMD_POSTCOPY_ADVISE, payload)
}

/** The ranges of a block that will come again, or for the first time. */
export function discardCommand(
  block: RamBlock,
  ranges: readonly { readonly offset: number; readonly length: number }[],
): Buffer {
  const payload = Buffer.alloc(ranges.length * 16)
  for (const [index, { offset, length }] of ranges.entries()) {
    payload.writeBigUInt64BE(BigInt(offset), index * 16)
    payload.writeBigUInt64BE(BigInt(length), index * 16 + 8)
  }
  const version = Buffer.of(0)
  const parts = [version, nameBytes(block.name), version, payload]
  return commandBytes(commands.MIG_CMD_POSTCOPY_RAM_DISCARD, Buffer.concat(parts))
}

/** Commands and sections that are read at once, before what follows. */
export function packagedCommand(parts: readonly Uint8Array[]): Buffer {
  const length = parts.reduce((sum, part) => sum + part.length, 0)
  if (length >= 2 ** 32) {
    throw new BlockError('UNSUPPORTED', 'device states of over 4 GiB cannot be loaded by postcopy')
  }
  const size = Buffer.alloc(4)
  size.writeUInt32BE(length)
  return Buffer.concat([commandBytes(commands.MIG_CMD_PACKAGED, size), ...parts])
}

/** Asks which pages of a block have been received. */
export function bitmapCommand(block: RamBlock): Buffer {
  return commandBytes(commands.MIG_CMD_RECV_BITMAP, nameBytes(block.name))
}

export interface RamListForm {
  readonly sectionId: number
  /** Tell the size of large pages, as a source does that is ready for postcopy. */
  readonly pageSizes: boolean
}

/** The section with which RAM begins. */
export function ramListSection(blocks: readonly RamBlock[], form: RamListForm): Buffer {
  const head = Buffer.alloc(5)
  head[0] = token.QEMU_VM_SECTION_START
  head.writeUInt32BE(form.sectionId, 1)
  const versions = Buffer.alloc(8)
  versions.writeUInt32BE(ramSectionVersion, 4)
  const total = blocks.reduce((sum, { usedLength }) => sum + usedLength, 0)
  const parts = [head, nameBytes('ram'), versions, u64(total + ramFlag.RAM_SAVE_FLAG_MEM_SIZE)]
  for (const { name, usedLength, pageSize, guestAddress } of blocks) {
    parts.push(nameBytes(name), u64(usedLength))
    if (form.pageSizes && pageSize !== undefined) parts.push(u64(pageSize))
    if (guestAddress !== undefined) parts.push(u64(guestAddress))
  }
  parts.push(u64(ramFlag.RAM_SAVE_FLAG_EOS), footer(form.sectionId))
  return Buffer.concat(parts)
}

function footer(sectionId: number): Buffer {
  const bytes = Buffer.alloc(5)
  bytes[0] = token.QEMU_VM_SECTION_FOOTER
  bytes.writeUInt32BE(sectionId, 1)
  return bytes
}

function nameBytes(name: string): Buffer {
  const bytes = Buffer.from(name, 'utf8')
  return Buffer.concat([Buffer.of(bytes.length), bytes])
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}
