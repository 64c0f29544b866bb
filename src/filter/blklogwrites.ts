/**
 * Records every write, discard and flush on a second node, in the format of Linux' dm-log-writes,
 * so that the disk can be replayed up to any moment and examined as after a crash there.
 *
 * The log begins with a superblock. Each entry is one sector, followed by its data if it has any;
 * numbers are little-endian (kernel documentation, `device-mapper/log-writes.rst`).
 */
import type { BlockDriver, NodeReference } from '../block/driver.ts'
import { Filter } from '../block/filter.ts'
import {
  type BlockLayer,
  type Completion,
  type FlushIo,
  type Io,
  type Limits,
  plainIo,
  plainWriteIo,
  plainZeroIo,
  type WriteIo,
  type ZeroIo,
} from '../block/layer.ts'
import { OptionReader, takeFile } from '../block/options.ts'
import type { ChildRole, Permission, Permissions } from '../block/permission.ts'
import { alignDown, alignUp, isPowerOfTwo } from '../bytes/range.ts'
import { bits64, struct, u32, u64 } from '../bytes/struct.ts'
import { BlockError, invalid } from '../errors.ts'

interface LogOptions {
  readonly file: NodeReference
  readonly log: NodeReference
  /** Go on with the log that is there. */
  readonly append: boolean
  /** Bytes; that of the log when it is continued, otherwise 512. */
  readonly sectorSize?: number
  /** The superblock is written again after so many entries, and with every flush. */
  readonly superInterval: number
}

const superblock = struct('little', {
  magic: bits64,
  version: u64,
  /** Entries in the log. */
  entries: u64,
  sectorSize: u32,
})

const entryHeader = struct('little', {
  /** Where on the disk, in sectors of the log. */
  sector: u64,
  sectors: u64,
  flags: u64,
  dataLength: u64,
})

const logMagic = 0x6a736677736872n
const logVersion = 1
const flags = { write: 0, flush: 1, fua: 2, discard: 4 } as const

const defaultSectorSize = 512
const largestSectorSize = 2 ** 23
const defaultInterval = 4096

class LogWrites extends Filter {
  readonly #log: BlockLayer
  readonly #sectorSize: number
  readonly #superInterval: number
  readonly #readOnly: boolean
  /** Sector of the log where the next entry begins. */
  #next: number
  #entries: number
  /** Something was recorded since the last flush was. */
  #unflushed = false
  /** Limits of the child, and with the log's sector as the alignment. */
  #limits: { readonly below: Limits; readonly own: Limits } | undefined

  constructor(
    file: BlockLayer,
    log: BlockLayer,
    state: LogState,
    { interval, readOnly }: { readonly interval: number; readonly readOnly: boolean },
  ) {
    super(file)
    this.#log = log
    this.#sectorSize = state.sectorSize
    this.#next = state.next
    this.#entries = state.entries
    this.#superInterval = interval
    this.#readOnly = readOnly
  }

  override get limits(): Limits {
    const below = this.next.limits
    if (this.#limits?.below !== below) {
      this.#limits = { below, own: inSectors(below, this.#sectorSize) }
    }
    return this.#limits.own
  }

  override async read(offset: number, target: Uint8Array, io: Io): Promise<void> {
    const inside = this.#inside(offset, target.length)
    target.fill(0, inside)
    if (inside > 0) await this.next.read(offset, target.subarray(0, inside), io)
  }

  override async write(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    const flag = io.fua ? flags.fua : flags.write
    await this.#both(
      this.#record(flag, offset, source.length, (at) => this.#log.write(at, source, plainWriteIo)),
      this.next.write(offset, source.subarray(0, this.#inside(offset, source.length)), io),
    )
  }

  override async writeZeroes(offset: number, length: number, io: ZeroIo): Promise<void> {
    const flag = io.fua ? flags.fua : flags.write
    await this.#both(
      this.#record(flag, offset, length, (at) => this.#log.writeZeroes(at, length, plainZeroIo)),
      this.next.writeZeroes(offset, this.#inside(offset, length), io),
    )
  }

  override async discard(offset: number, length: number, io: Io): Promise<void> {
    await this.#both(
      this.#record(flags.discard, offset, length),
      this.next.discard(offset, this.#inside(offset, length), io),
    )
  }

  override async flush(io: FlushIo): Promise<void> {
    if (io.forWrite === 'first') return await this.next.flush(io)
    await this.#both(this.#record(flags.flush, 0, 0), this.next.flush(io))
    this.#unflushed = io.forWrite !== undefined
  }

  childPermissions(role: ChildRole, needs: Permissions): Permissions | undefined {
    if (role === 'filtered') return needs
    const shares = new Set(needs.shares)
    shares.delete('write')
    shares.delete('resize')
    // Of a node that is read-only nothing is logged.
    const uses: Permission[] = this.#readOnly ? [] : ['write', 'resize']
    return { uses: new Set<Permission>([...needs.uses, 'consistentRead', ...uses]), shares }
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    if (this.#unflushed) await this.flush(plainIo)
  }

  #inside(offset: number, length: number): number {
    return Math.min(length, Math.max(0, this.next.size - offset))
  }

  /** The log's failure comes first, as an incomplete log is worth nothing. */
  async #both(...work: readonly Completion[]): Promise<void> {
    for (const result of await Promise.allSettled(work)) {
      if (result.status === 'rejected') throw result.reason
    }
  }

  /** Takes the next place of the log at once, so that entries stand in the order of requests. */
  async #record(
    flag: number,
    offset: number,
    length: number,
    writeData?: (at: number) => Completion,
  ): Promise<void> {
    const at = this.#next * this.#sectorSize
    const dataLength = writeData ? length : 0
    this.#next += 1 + dataLength / this.#sectorSize
    this.#entries++
    this.#unflushed = true
    const header = new Uint8Array(this.#sectorSize)
    header.set(
      entryHeader.encode({
        sector: offset / this.#sectorSize,
        sectors: length / this.#sectorSize,
        flags: flag,
        dataLength: 0,
      }),
    )
    const end = this.#next * this.#sectorSize
    await this.#reserve(end)
    await this.#log.write(at, header, plainWriteIo)
    await writeData?.(at + this.#sectorSize)
    const due = this.#entries % this.#superInterval === 0
    if (flag === flags.flush || due) await this.#writeSuperblock()
  }

  #growing: Promise<void> = Promise.resolve()

  #reserve(end: number): Promise<void> {
    this.#growing = this.#growing.then(async () => {
      if (end > this.#log.size) await this.#log.truncate(end, plainIo)
    })
    return this.#growing
  }

  async #writeSuperblock(): Promise<void> {
    const bytes = new Uint8Array(this.#sectorSize)
    const [entries, sectorSize] = [this.#entries, this.#sectorSize]
    bytes.set(superblock.encode({ magic: logMagic, version: logVersion, entries, sectorSize }))
    await this.#reserve(bytes.length)
    await this.#log.write(0, bytes, plainWriteIo)
    await this.#log.flush(plainIo)
  }
}

interface LogState {
  readonly sectorSize: number
  readonly next: number
  readonly entries: number
}

function inSectors(below: Limits, sectorSize: number): Limits {
  const alignment = Math.max(sectorSize, below.alignment)
  return {
    ...below,
    alignment,
    zeroAlignment: alignUp(below.zeroAlignment, alignment),
    discardAlignment: alignUp(below.discardAlignment, alignment),
    maxTransfer: alignDown(below.maxTransfer, alignment),
  }
}

/** Reads where an existing log ends; an empty one is a new one. */
async function findEnd(log: BlockLayer, io: Io): Promise<LogState> {
  if (log.size < superblock.size) return { sectorSize: defaultSectorSize, next: 1, entries: 0 }
  const head = new Uint8Array(superblock.size)
  await log.read(0, head, io)
  const { magic, version, entries, sectorSize } = decodeSuperblock(head)
  if (magic !== logMagic) throw invalid('Invalid log superblock magic')
  if (version !== logVersion) throw invalid(`Unsupported log version ${version}`)
  if (!isSectorSize(sectorSize)) throw invalid(`Invalid log sector size ${sectorSize}`)
  const bytes = new Uint8Array(entryHeader.size)
  let next = 1
  for (let entry = 0; entry < entries; entry++) {
    const at = next * sectorSize
    if (at + bytes.length > log.size) throw invalid('the log ends before its last entry')
    await log.read(at, bytes, io)
    const { sectors, flags: flag } = entryHeader.decode(bytes)
    next += 1 + (flag === flags.discard ? 0 : sectors)
  }
  return { sectorSize, next, entries }
}

function decodeSuperblock(head: Uint8Array): ReturnType<typeof superblock.decode> {
  try {
    return superblock.decode(head)
  } catch (cause) {
    throw new BlockError('CORRUPT_IMAGE', 'Invalid log superblock', { errno: 'EINVAL', cause })
  }
}

function isSectorSize(size: number): boolean {
  return isPowerOfTwo(size) && size >= superblock.size && size <= largestSectorSize
}

export const blklogwrites: BlockDriver<LogOptions> = {
  name: 'blklogwrites',
  kind: 'filter',
  naming: { strong: ['log-sector-size', 'log-append'], plain: 'none' },
  parse(options) {
    const reader = new OptionReader(options)
    const parsed = {
      file: takeFile(reader),
      log: takeFile(reader, 'log'),
      append: reader.boolean('log-append') ?? false,
      sectorSize: reader.bytes('log-sector-size'),
      superInterval: reader.integer('log-super-update-interval') ?? defaultInterval,
    }
    if (parsed.append && parsed.sectorSize !== undefined) {
      throw invalid('log-append and log-sector-size are mutually exclusive')
    }
    if (parsed.sectorSize !== undefined && !isSectorSize(parsed.sectorSize)) {
      throw invalid(`Invalid log sector size ${parsed.sectorSize}`)
    }
    if (parsed.superInterval <= 0) {
      throw invalid(`Invalid log superblock update interval ${parsed.superInterval}`)
    }
    reader.finish()
    return parsed
  },
  async open(options, context) {
    const file = await context.child('filtered', options.file)
    const log = await context.child('data-file', options.log, 'log')
    const fresh = { sectorSize: options.sectorSize ?? defaultSectorSize, next: 1, entries: 0 }
    const state = options.append ? await findEnd(log, context) : fresh
    const { readOnly } = context.flags
    return new LogWrites(file, log, state, { interval: options.superInterval, readOnly })
  },
}
