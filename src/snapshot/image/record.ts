/**
 * What tells that a snapshot is complete, and unaltered: a record of ours behind the stream in the
 * area for VM state, where qemu-snap has nothing and looks at nothing. It has hashes of everything
 * but RAM, and the place of a table with the checksum of each page of RAM.
 */
import { createHash } from 'node:crypto'
import { alignUp } from '../../bytes/range.ts'
import { array, bytes, struct, u8, u32, u64 } from '../../bytes/struct.ts'
import { BlockError } from '../../errors.ts'

const hashLength = 32

/** The record, of one length whatever it holds. */
const fixedPart = struct('big', {
  /** "varvsnap" */
  magic: bytes(8),
  version: u32,
  pageSize: u32,
  /** Of this snapshot, by chance; and of the one whose pages it shares, or zeroes. */
  id: bytes(16),
  baseId: bytes(16),
  /** Seconds since 1970. */
  created: u64,
  /** Of the disk that RAM takes. */
  ramEnd: u64,
  /** In the area for VM state. */
  sumsOffset: u64,
  blockCount: u32,
  reserved: array(u8, 20),
  /** SHA-256 of all of the area in front of this record. */
  stateHash: bytes(hashLength),
  sumsHash: bytes(hashLength),
})

const magicText = 'varvsnap'
/** In the second the table of checksums is hashed in pieces; see `sum-table.ts`. */
const wholeVersion = 1
const piecesVersion = 2

export interface SnapshotRecord {
  readonly pageSize: number
  readonly id: string
  readonly baseId?: string
  /** Seconds since 1970. */
  readonly created: number
  readonly ramEnd: number
  readonly sumsOffset: number
  /** `sumsHash` is that of the hashes of the table's pieces, not of the table. */
  readonly hashedInPieces: boolean
  /** Whether any page of a block came: those that the source left out are not sent either. */
  readonly blocksSent: readonly boolean[]
  readonly stateHash: Uint8Array
  readonly sumsHash: Uint8Array
}

/** Where the record begins, behind a stream that ends there. */
export function recordOffset(end: number): number {
  return alignUp(end, 512)
}

/** Bytes of the record for a list of so many blocks. */
export function recordLength(blockCount: number): number {
  return fixedPart.size + blockCount + hashLength
}

export function encodeRecord(record: SnapshotRecord): Uint8Array {
  const { pageSize, created, ramEnd, sumsOffset, stateHash, sumsHash, blocksSent } = record
  const head = fixedPart.encode({
    magic: Buffer.from(magicText),
    version: record.hashedInPieces ? piecesVersion : wholeVersion,
    id: Buffer.from(record.id, 'hex'),
    baseId: Buffer.from(record.baseId ?? '', 'hex'),
    blockCount: blocksSent.length,
    reserved: new Array(20).fill(0),
    ...{ pageSize, created, ramEnd, sumsOffset, stateHash, sumsHash },
  })
  const body = Buffer.concat([head, Uint8Array.from(blocksSent, (sent) => (sent ? 1 : 0))])
  return Buffer.concat([body, createHash('sha256').update(body).digest()])
}

/** Undefined where there has never been one. Throws `CORRUPT_IMAGE` on one that is damaged. */
export function decodeRecord(source: Uint8Array, blockCount: number): SnapshotRecord | undefined {
  if (source.every((byte) => byte === 0)) return undefined
  const body = source.subarray(0, source.length - hashLength)
  const hash = createHash('sha256').update(body).digest()
  if (!hash.equals(source.subarray(body.length))) {
    throw new BlockError('CORRUPT_IMAGE', 'the record of the snapshot is damaged')
  }
  const fields = fixedPart.decode(body)
  const known = fields.version === wholeVersion || fields.version === piecesVersion
  if (!known || fields.blockCount !== blockCount) {
    throw new BlockError('UNSUPPORTED', `a snapshot record of version ${fields.version}`)
  }
  const { pageSize, created, ramEnd, sumsOffset, stateHash, sumsHash } = fields
  const baseId = Buffer.from(fields.baseId).toString('hex')
  return {
    ...{ pageSize, created, ramEnd, sumsOffset, stateHash, sumsHash },
    hashedInPieces: fields.version === piecesVersion,
    id: Buffer.from(fields.id).toString('hex'),
    baseId: /^0*$/.test(baseId) ? undefined : baseId,
    blocksSent: Array.from(body.subarray(fixedPart.size), (byte) => byte === 1),
  }
}
