/**
 * The header as the tables in memory want it (`current`) and as it is on disk. They are brought
 * together by writes of one sector, at the two moments that the order of metadata allows.
 */
import { encodeFields, type Header, headerV3, incompatible } from './header.ts'
import type { ImageFile } from './image-file.ts'

/** Fields that may, and have to, be on disk before anything refers to newly counted clusters. */
const earlyFields = [
  'refcountTableOffset',
  'refcountTableClusters',
  'incompatibleFeatures',
  'autoclearFeatures',
] as const

export class HeaderState {
  readonly current: Header
  #stored: Header

  constructor(header: Header) {
    this.current = header
    this.#stored = { ...header }
  }

  /** What is on disk. */
  get stored(): Readonly<Header> {
    return this.#stored
  }

  /** Somebody else has written it. */
  reread(header: Header): void {
    Object.assign(this.current, header)
    this.#stored = { ...header }
  }

  /** The header with everything behind it was written anew. */
  replaceHead(head: Header): void {
    const { backingFile, backingFileOffset, backingFileSize, extensions, headerLength } = head
    const own = { backingFile, backingFileOffset, backingFileSize, extensions, headerLength }
    Object.assign(this.current, own)
    this.#stored = head
  }

  get dirtyBit(): boolean {
    return (this.current.incompatibleFeatures & incompatible.dirty) !== 0n
  }

  get corruptBit(): boolean {
    return (this.current.incompatibleFeatures & incompatible.corrupt) !== 0n
  }

  set dirtyBit(value: boolean) {
    const others = this.current.incompatibleFeatures & ~incompatible.dirty
    this.current.incompatibleFeatures = value ? others | incompatible.dirty : others
  }

  get changed(): boolean {
    return !sameFields(this.current, this.#stored)
  }

  /** What to write before new references; undefined where nothing changes. */
  earlyChanges(): Header | undefined {
    const early = this.#early()
    return sameFields(early, this.#stored) ? undefined : early
  }

  /** What to write together with new references, after the early changes. */
  lateChanges(): Header | undefined {
    return sameFields(this.current, this.#early()) ? undefined : { ...this.current }
  }

  /** Writes a header that was given by the above; it is not on stable storage before a flush. */
  async write(header: Header, file: ImageFile): Promise<void> {
    await file.write(0, encodeFields(header))
    this.#stored = header
  }

  #early(): Header {
    const early = { ...this.#stored }
    for (const field of earlyFields) copyField(early, this.current, field)
    return early
  }
}

const fieldNames = Object.keys(headerV3.offsets) as (keyof typeof headerV3.offsets)[]

function copyField<K extends keyof Header>(to: Header, from: Header, field: K): void {
  to[field] = from[field]
}

function sameFields(a: Header, b: Header): boolean {
  return fieldNames.every((name) => name === 'magic' || a[name] === b[name])
}
