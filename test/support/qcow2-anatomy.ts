/**
 * Where a qcow2 image has what, for planting damage: offsets in bytes of the file, entries as words
 * of 64 bits. It believes the image, so it is made before anything is damaged.
 */
import { headerV3 } from '../../src/format/qcow2/header.ts'

const offsetMask = (1n << 56n) - 512n
const bitmapsExtension = 0x23852875
const incompatibleDataFile = 4n
const incompatibleExtended = 16n

/** An entry of an L1 or refcount table, and what it names. */
export interface TablePlace {
  readonly at: number
  readonly index: number
  readonly offset: number
}

/** An L2 entry that is used, and the range of the disk that it describes. */
export interface EntryPlace {
  readonly at: number
  readonly word: bigint
  readonly compressed: boolean
  /** Of plain data; 0 for compressed clusters and zeroes without a place. */
  readonly offset: number
  readonly guestOffset: number
}

export interface SnapshotPlace {
  readonly at: number
  readonly l1: number
  readonly l1Size: number
  readonly extraLength: number
}

export interface BitmapPlace {
  readonly at: number
  readonly table: number
  readonly tableSize: number
}

export class Anatomy {
  readonly bytes: Buffer
  readonly version: number
  readonly clusterSize: number
  readonly extended: boolean
  readonly external: boolean
  readonly l1: number
  readonly l1Size: number
  readonly size: number
  readonly refcountTable: number
  readonly refcountTableClusters: number
  readonly refcountBits: number
  readonly snapshotTable: number
  readonly snapshotCount: number

  constructor(bytes: Buffer) {
    this.bytes = bytes
    const { offsets } = headerV3
    const long = (name: keyof typeof offsets) => Number(bytes.readBigUInt64BE(offsets[name]))
    const short = (name: keyof typeof offsets) => bytes.readUInt32BE(offsets[name])
    this.version = short('version')
    const features = this.version < 3 ? 0n : this.word(offsets.incompatibleFeatures)
    this.clusterSize = 2 ** short('clusterBits')
    this.extended = (features & incompatibleExtended) !== 0n
    this.external = (features & incompatibleDataFile) !== 0n
    this.size = long('size')
    this.l1 = long('l1TableOffset')
    this.l1Size = short('l1Size')
    this.refcountTable = long('refcountTableOffset')
    this.refcountTableClusters = short('refcountTableClusters')
    this.refcountBits = this.version < 3 ? 16 : 2 ** short('refcountOrder')
    this.snapshotTable = long('snapshotsOffset')
    this.snapshotCount = short('nbSnapshots')
  }

  word(at: number): bigint {
    return this.bytes.readBigUInt64BE(at)
  }

  setWord(at: number, value: bigint): void {
    this.bytes.writeBigUInt64BE(value & (2n ** 64n - 1n), at)
  }

  get clusters(): number {
    return Math.ceil(this.bytes.length / this.clusterSize)
  }

  /** Bytes of one L2 entry. */
  get entryBytes(): number {
    return this.extended ? 16 : 8
  }

  /** Bytes of the disk that one L2 table describes. */
  get coverage(): number {
    return (this.clusterSize / this.entryBytes) * this.clusterSize
  }

  refcountBlocks(): TablePlace[] {
    const entries = (this.refcountTableClusters * this.clusterSize) / 8
    return this.#table(this.refcountTable, entries)
  }

  l1Entries(): TablePlace[] {
    return this.#table(this.l1, this.l1Size)
  }

  /** Of the active disk, or of another L1 table. */
  l2Entries(tables: readonly TablePlace[] = this.l1Entries()): EntryPlace[] {
    const found: EntryPlace[] = []
    for (const { index, offset: table } of tables) {
      for (let entry = 0; entry < this.clusterSize / this.entryBytes; entry++) {
        const at = table + entry * this.entryBytes
        const word = this.word(at)
        if (word === 0n) continue
        const compressed = (word & (1n << 62n)) !== 0n
        const offset = compressed ? 0 : Number(word & offsetMask)
        const guestOffset = index * this.coverage + entry * this.clusterSize
        found.push({ at, word, compressed, offset, guestOffset })
      }
    }
    return found
  }

  snapshots(): SnapshotPlace[] {
    const found: SnapshotPlace[] = []
    for (let at = this.snapshotTable; found.length < this.snapshotCount; ) {
      const extraLength = this.bytes.readUInt32BE(at + 36)
      const names = this.bytes.readUInt16BE(at + 12) + this.bytes.readUInt16BE(at + 14)
      const l1Size = this.bytes.readUInt32BE(at + 8)
      found.push({ at, l1: Number(this.word(at)), l1Size, extraLength })
      at += Math.ceil((40 + extraLength + names) / 8) * 8
    }
    return found
  }

  snapshotL1Entries({ l1, l1Size }: SnapshotPlace): TablePlace[] {
    return this.#table(l1, l1Size)
  }

  /** Place of the bitmaps extension's data; undefined where there is none. */
  get bitmapsExtension(): number | undefined {
    if (this.version < 3) return undefined
    let at = this.bytes.readUInt32BE(headerV3.offsets.headerLength)
    for (;;) {
      const type = this.bytes.readUInt32BE(at)
      if (type === bitmapsExtension) return at + 8
      if (type === 0) return undefined
      at += 8 + Math.ceil(this.bytes.readUInt32BE(at + 4) / 8) * 8
    }
  }

  /** Where the bitmap directory lies; only of images that have one. */
  get bitmapDirectory(): number {
    return Number(this.word(this.bitmapsExtension! + 16))
  }

  bitmaps(): BitmapPlace[] {
    const extension = this.bitmapsExtension
    if (extension === undefined) return []
    const found: BitmapPlace[] = []
    let at = this.bitmapDirectory
    for (let count = this.bytes.readUInt32BE(extension); count > 0; count--) {
      const table = Number(this.word(at))
      found.push({ at, table, tableSize: this.bytes.readUInt32BE(at + 8) })
      const names = this.bytes.readUInt16BE(at + 18) + this.bytes.readUInt32BE(at + 20)
      at += Math.ceil((24 + names) / 8) * 8
    }
    return found
  }

  refcount(cluster: number): number {
    const place = this.#refcountPlace(cluster)
    if (!place) return 0
    const { at, bits, shift } = place
    if (bits < 8) return (this.bytes[at] >>> shift) & (2 ** bits - 1)
    if (bits === 64) return Number(this.word(at))
    return this.bytes.readUIntBE(at, bits / 8)
  }

  setRefcount(cluster: number, value: number): void {
    const place = this.#refcountPlace(cluster)
    if (!place) return
    const { at, bits, shift } = place
    if (bits < 8) {
      const mask = (2 ** bits - 1) << shift
      this.bytes[at] = (this.bytes[at] & ~mask) | (value << shift)
    } else if (bits === 64) {
      this.setWord(at, BigInt(value))
    } else {
      this.bytes.writeUIntBE(value, at, bits / 8)
    }
  }

  #refcountPlace(cluster: number): { at: number; bits: number; shift: number } | undefined {
    const bits = this.refcountBits
    const entries = (this.clusterSize * 8) / bits
    const block = this.refcountBlocks().find(({ index }) => index === Math.floor(cluster / entries))
    if (!block) return undefined
    const bit = (cluster % entries) * bits
    return { at: block.offset + Math.floor(bit / 8), bits, shift: bit % 8 }
  }

  #table(start: number, entries: number): TablePlace[] {
    const found: TablePlace[] = []
    for (let index = 0; index < entries; index++) {
      const at = start + index * 8
      const offset = Number(this.word(at) & offsetMask)
      if (offset !== 0) found.push({ at, index, offset })
    }
    return found
  }
}
