import { describe, expect, it } from 'vitest'
import { featureNames } from './extensions.ts'
import { Faults } from './faults.ts'
import {
  additionalFields,
  autoclear,
  backingFormat,
  decodeHeader,
  encodeHead,
  type Header,
  headerV2,
  headerV3,
  incompatible,
  isQcow2,
  setBackingFormat,
} from './header.ts'
import { checkHeader } from './header-check.ts'
import { refuseLostTables } from './header-tables.ts'

const faults = new Faults('disk0', '/images/a.qcow2')
const fileSize = 4 * 65536

function judge(header: Header): void {
  checkHeader(header, faults)
  refuseLostTables(header, fileSize, faults, { readOnly: false })
}

function sample(changes: Partial<Header> = {}): Header {
  return {
    version: 3,
    backingFileOffset: 0,
    backingFileSize: 0,
    clusterBits: 16,
    size: 64 * 1024 * 1024,
    cryptMethod: 0,
    l1Size: 1,
    l1TableOffset: 3 * 65536,
    refcountTableOffset: 65536,
    refcountTableClusters: 1,
    nbSnapshots: 0,
    snapshotsOffset: 0,
    incompatibleFeatures: 0n,
    compatibleFeatures: 0n,
    autoclearFeatures: 0n,
    refcountOrder: 4,
    headerLength: 112,
    compressionType: 0,
    unknownFields: new Uint8Array(0),
    extensions: [featureNames()],
    backingFile: undefined,
    ...changes,
  }
}

function padded(header: Header): Uint8Array {
  const head = new Uint8Array(65536)
  head.set(encodeHead(header, faults))
  return head
}

describe('the structures', () => {
  it('have the sizes and offsets of the specification', () => {
    expect(headerV2.size).toBe(72)
    expect(headerV2.offsets.l1TableOffset).toBe(40)
    expect(headerV2.offsets.snapshotsOffset).toBe(64)
    expect(headerV3.size).toBe(104)
    expect(headerV3.offsets.incompatibleFeatures).toBe(72)
    expect(headerV3.offsets.headerLength).toBe(100)
    expect(additionalFields.size).toBe(8)
  })
})

describe('a header', () => {
  it('comes back as it was written, unknown fields and extensions included', () => {
    const header = sample({
      unknownFields: new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]),
      extensions: [{ type: 0x12345678, data: new Uint8Array([9, 8, 7]) }, featureNames()],
      backingFile: 'base.raw',
    })
    setBackingFormat(header, 'raw')
    const again = decodeHeader(padded(header), faults)
    expect(padded(again)).toEqual(padded(header))
    expect(again.extensions.map(({ type }) => type)).toEqual([0xe2792aca, 0x12345678, 0x6803f857])
    expect(again.backingFile).toBe('base.raw')
    expect(backingFormat(again)).toBe('raw')
    judge(again)
  })

  it('of version 2 has no features and 16-bit refcounts', () => {
    const again = decodeHeader(padded(sample({ version: 2, extensions: [] })), faults)
    expect(again).toMatchObject({ version: 2, refcountOrder: 4, headerLength: 72 })
  })

  it('is recognised by its first bytes', () => {
    expect(isQcow2(padded(sample()))).toBe(true)
    expect(isQcow2(new Uint8Array(512))).toBe(false)
    expect(isQcow2(new Uint8Array(3))).toBe(false)
  })
})

describe('a header is refused', () => {
  const refused: readonly [string, Partial<Header>, string, string][] = [
    ['cluster size', { clusterBits: 22 }, 'UNSUPPORTED', 'Unsupported cluster size: 2^22'],
    ['disk beyond 2^53', { size: 2 ** 53 - 512 }, 'UNSUPPORTED', 'Image is too big'],
    ['missing L1 entries', { size: 2 ** 40 }, 'CORRUPT_IMAGE', 'L1 table is too small'],
    ['L1 size', { l1Size: 2 ** 28 }, 'CORRUPT_IMAGE', 'Active L1 table too large'],
    ['L1 place', { l1TableOffset: 512 }, 'CORRUPT_IMAGE', 'Active L1 table offset invalid'],
    ['L1 in the header', { l1TableOffset: 0 }, 'CORRUPT_IMAGE', 'Active L1 table offset invalid'],
    [
      'L1 behind the end',
      { l1TableOffset: 2 ** 40 },
      'CORRUPT_IMAGE',
      'Active L1 table offset invalid',
    ],
    [
      'no refcounts',
      { refcountTableClusters: 0 },
      'CORRUPT_IMAGE',
      'Image does not contain a reference count table',
    ],
    [
      'refcount table size',
      { refcountTableClusters: 129 },
      'CORRUPT_IMAGE',
      'Reference count table too large',
    ],
    [
      'refcount table place',
      { refcountTableOffset: 65537 },
      'CORRUPT_IMAGE',
      'Reference count table offset invalid',
    ],
    ['snapshots', { nbSnapshots: 65537 }, 'CORRUPT_IMAGE', 'Snapshot table too large'],
    [
      'refcount width',
      { refcountOrder: 7 },
      'CORRUPT_IMAGE',
      'Reference count entry width too large; may not exceed 64 bits',
    ],
    ['unknown encryption', { cryptMethod: 3 }, 'UNSUPPORTED', 'Unsupported encryption method 3'],
    ['compression', { compressionType: 2 }, 'UNSUPPORTED', 'qcow2: unknown compression type: 2'],
    [
      'compression without its bit',
      { compressionType: 1 },
      'CORRUPT_IMAGE',
      'qcow2: Compression type incompatible feature bit must be set',
    ],
    [
      'raw external data file',
      { autoclearFeatures: autoclear.rawExternalData },
      'CORRUPT_IMAGE',
      'data-file-raw requires a data file',
    ],
    [
      'extended L2',
      { incompatibleFeatures: incompatible.extendedL2, clusterBits: 13, refcountTableOffset: 8192 },
      'CORRUPT_IMAGE',
      'Extended L2 entries need clusters of at least 16384 bytes',
    ],
    [
      'nameless features',
      { incompatibleFeatures: 1n << 63n },
      'UNSUPPORTED',
      'Unsupported qcow2 feature(s): Unknown incompatible feature: 8000000000000000',
    ],
  ]
  for (const [title, changes, code, message] of refused) {
    it(`for its ${title}`, () => {
      const head = padded(sample(changes))
      const check = () => judge(decodeHeader(head, faults))
      expect(check).toThrowError(expect.objectContaining({ code, message }))
    })
  }

  it('by the names that its own table has for unknown features', () => {
    const entry = new Uint8Array(48)
    entry.set([0, 9])
    entry.set(Buffer.from('time travel\u001b'), 2)
    const header = sample({
      incompatibleFeatures: 1n << 9n,
      extensions: [{ type: 0x6803f857, data: entry }],
    })
    expect(() => judge(header)).toThrowError('Unsupported qcow2 feature(s): time travel?')
  })

  it('when it is cut off at any byte, or of another format', () => {
    const head = padded(sample())
    for (const length of [0, 3, 7, 8, 71, 72, 103, 111]) {
      expect(() => decodeHeader(head.subarray(0, length), faults)).toThrowError(
        expect.objectContaining({ name: 'BlockError' }),
      )
    }
    expect(() => decodeHeader(new Uint8Array(512), faults)).toThrowError(
      expect.objectContaining({ code: 'NOT_RECOGNISED' }),
    )
  })

  it('when extensions reach out of the header or come twice', () => {
    const long = padded(sample())
    long.set([0x7f], 112 + 4)
    expect(() => decodeHeader(long, faults)).toThrowError('Header extension too large')
    const twice = padded(sample({ extensions: [featureNames(), featureNames()] }))
    expect(() => decodeHeader(twice, faults)).toThrowError('appears twice')
  })
})
