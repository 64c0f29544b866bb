/** Damage of every kind for qcow2 images, and what of the guest's it may cost. */
import type { Anatomy, EntryPlace, TablePlace } from './qcow2-anatomy.ts'
import type { Random } from './random.ts'

/** What an image has to have for a damage to be planted. */
export type Need =
  | 'blocks'
  | 'bitmaps'
  | 'compressed'
  | 'data-file'
  | 'extended'
  | 'snapshots'
  | 'version 3'
  | 'wide refcounts'
  | 'large clusters'
  | 'zero entries'

export interface Loss {
  readonly offset: number
  readonly length: number
}

export interface Damage {
  readonly title: string
  readonly needs: readonly Need[]
  /** Changes the bytes. Returns the ranges of the disk whose content may be another afterwards. */
  plant(image: Anatomy, random: Random): readonly Loss[]
}

const own = 1n << 63n
const compressedFlag = 1n << 62n

/** Far behind the end of the file, aligned; 2^38 fits every descriptor of compressed data. */
const farAway = 2n ** 38n

function damage(title: string, needs: readonly Need[], plant: Damage['plant']): Damage {
  return { title, needs, plant }
}

/** One that changes an entry of the active L2 tables; its cluster may be lost. */
function onEntry(
  title: string,
  needs: readonly Need[],
  change: (image: Anatomy, entry: EntryPlace, random: Random) => bigint,
  fits: (entry: EntryPlace) => boolean = ({ offset }) => offset > 0,
  kept = false,
): Damage {
  return damage(title, needs, (image, random) => {
    const fitting = image.l2Entries().filter(fits)
    if (fitting.length === 0) return []
    const entry = random.pick(fitting)
    image.setWord(entry.at, change(image, entry, random))
    return kept ? [] : [{ offset: entry.guestOffset, length: image.clusterSize }]
  })
}

function onL1(
  title: string,
  needs: readonly Need[],
  change: (image: Anatomy, entry: TablePlace, random: Random) => bigint,
  kept = false,
): Damage {
  return damage(title, needs, (image, random) => {
    const entry = random.pick(image.l1Entries())
    image.setWord(entry.at, change(image, entry, random))
    return kept ? [] : [{ offset: entry.index * image.coverage, length: image.coverage }]
  })
}

const named = {
  'the header': () => 0,
  'the L1 table': (image: Anatomy) => image.l1,
  'the refcount table': (image: Anatomy) => image.refcountTable,
  'a refcount block': (image: Anatomy) => image.refcountBlocks()[0].offset,
} as const

const plain = ({ offset, word }: EntryPlace) => offset > 0 && (word & 1n) === 0n

const refcountDamages: readonly Damage[] = [
  damage('a refcount of zero', [], (image, random) => {
    const used = image.l2Entries().filter(({ offset }) => offset > 0)
    const offset = image.external ? image.l1 : random.pick(used).offset
    image.setRefcount(offset / image.clusterSize, 0)
    return []
  }),
  damage('a refcount that is too low', ['snapshots', 'wide refcounts'], (image, random) => {
    const shared = image.l2Entries().filter(({ offset }) => offset > 0)
    for (const { offset } of random.shuffled(shared)) {
      const count = image.refcount(offset / image.clusterSize)
      if (count < 2) continue
      image.setRefcount(offset / image.clusterSize, count - 1)
      break
    }
    return []
  }),
  damage('a refcount that is too high', ['wide refcounts'], (image, random) => {
    const cluster = random.below(image.clusters)
    image.setRefcount(cluster, image.refcount(cluster) + 1)
    return []
  }),
  damage('a cluster that leaks', [], (image) => {
    for (let cluster = image.clusters; cluster < image.clusters + 3; cluster++) {
      image.setRefcount(cluster, 1)
    }
    return []
  }),
  damage('a refcount block full of noise', [], (image, random) => {
    const { offset } = random.pick(image.refcountBlocks())
    image.bytes.set(random.bytes(image.clusterSize), offset)
    return []
  }),
  damage('a refcount table entry that is not aligned', ['large clusters'], (image, random) => {
    const { at } = random.pick(image.refcountBlocks())
    image.setWord(at, image.word(at) + 512n)
    return []
  }),
  damage('a refcount table entry with reserved bits', [], (image, random) => {
    const { at } = random.pick(image.refcountBlocks())
    image.setWord(at, image.word(at) + 3n)
    return []
  }),
  damage('a refcount table entry behind the end of the file', [], (image, random) => {
    image.setWord(random.pick(image.refcountBlocks()).at, farAway)
    return []
  }),
  damage('an unused refcount table entry behind the end of the file', [], (image) => {
    const entries = (image.refcountTableClusters * image.clusterSize) / 8
    image.setWord(image.refcountTable + 8 * (entries - 1), farAway)
    return []
  }),
  damage('refcount table entries that name one block', [], (image, random) => {
    const block = image.refcountBlocks()[0].offset
    const entries = (image.refcountTableClusters * image.clusterSize) / 8
    for (let index = random.below(3); index < entries; index++) {
      image.setWord(image.refcountTable + 8 * index, BigInt(block))
    }
    return []
  }),
  damage('a refcount table entry that names the L1 table', [], (image, random) => {
    image.setWord(random.pick(image.refcountBlocks()).at, BigInt(image.l1))
    return []
  }),
  damage('a refcount table entry that names data', [], (image, random) => {
    const used = image.l2Entries().filter(plain)
    const place = image.external ? image.l1Entries()[0] : random.pick(used)
    image.setWord(random.pick(image.refcountBlocks()).at, BigInt(place.offset))
    return []
  }),
  damage('a refcount table that is lost', [], (image) => {
    const length = image.refcountTableClusters * image.clusterSize
    image.bytes.fill(0, image.refcountTable, image.refcountTable + length)
    return []
  }),
  damage('a refcount table full of noise', [], (image, random) => {
    const length = image.refcountTableClusters * image.clusterSize
    image.bytes.set(random.bytes(length), image.refcountTable)
    return []
  }),
  damage('a refcount table that is said to be elsewhere', [], (image) => {
    image.setWord(48, BigInt(image.l1Entries()[0].offset))
    return []
  }),
]

const l1Damages: readonly Damage[] = [
  onL1(
    'an L1 entry with reserved bits',
    [],
    (image, { at }) => image.word(at) | (0x41n << 56n) | 16n,
    true,
  ),
  onL1('an L1 entry without its mark', [], (image, { at }) => image.word(at) & ~own, true),
  onL1('an L1 entry behind the end of the file', [], () => own | farAway),
  onL1(
    'an L1 entry that is not aligned',
    ['large clusters'],
    (image, { at }) => image.word(at) + 512n,
  ),
  onL1(
    'an L1 entry that names noise',
    [],
    (image, _, random) => BigInt(random.below(image.clusters) * image.clusterSize) | own,
  ),
  ...Object.entries(named).map(([what, place]) =>
    onL1(`an L1 entry that names ${what}`, [], (image) => own | BigInt(place(image))),
  ),
  damage('two L1 entries that name one table', ['blocks'], (image, random) => {
    const [one, other] = random.shuffled(image.l1Entries())
    image.setWord(one.at, image.word(other.at))
    return [{ offset: one.index * image.coverage, length: image.coverage }]
  }),
]

const l2Damages: readonly Damage[] = [
  onEntry('an L2 entry behind the end of the file', [], () => own | farAway),
  onEntry('an L2 entry beyond 2^53', [], () => own | (3n << 54n)),
  onEntry('an L2 entry that is not aligned', ['large clusters'], (_, { word }) => word + 512n),
  onEntry(
    'an L2 entry with reserved bits',
    [],
    (_, { word }) => word | (0x21n << 56n),
    plain,
    true,
  ),
  onEntry('an L2 entry with low reserved bits', [], (_, { word }) => word | 0x14n, plain, true),
  onEntry(
    'an L2 entry with a wrong mark',
    [],
    (_, { word }) => word ^ own,
    ({ offset }) => offset > 0,
    true,
  ),
  onEntry('an L2 entry that is marked as zero', ['version 3'], (_, { word }) => word | 1n, plain),
  onEntry(
    'a zero entry that is not aligned',
    ['zero entries', 'large clusters'],
    (_, { word }) => word + 512n,
    ({ offset, word }) => offset > 0 && (word & 1n) !== 0n,
  ),
  onEntry('an L2 entry without a place, but marked', [], () => own),
  damage('two L2 entries that name one cluster', [], (image, random) => {
    const [one, other] = random.shuffled(image.l2Entries().filter(plain))
    image.setWord(one.at, other.word)
    return [{ offset: one.guestOffset, length: image.clusterSize }]
  }),
  damage('several L2 entries that name one cluster', [], (image, random) => {
    const [other, ...ones] = random.shuffled(image.l2Entries().filter(plain)).slice(0, 5)
    for (const { at } of ones) image.setWord(at, other.word)
    return ones.map(({ guestOffset }) => ({ offset: guestOffset, length: image.clusterSize }))
  }),
  ...Object.entries(named).map(([what, place]) =>
    onEntry(`an L2 entry that names ${what}`, [], (image) => own | BigInt(place(image))),
  ),
  onEntry(
    'an L2 entry that names an L2 table',
    [],
    (image, _, random) => own | BigInt(random.pick(image.l1Entries()).offset),
  ),
  onEntry('an L2 entry of noise', [], (_, __, random) =>
    random.bytes(8).reduce((sum, byte) => sum * 256n + BigInt(byte), 0n),
  ),
  damage('an L2 table of noise', [], (image, random) => {
    const { offset, index } = random.pick(image.l1Entries())
    image.bytes.set(random.bytes(image.clusterSize), offset)
    return [{ offset: index * image.coverage, length: image.coverage }]
  }),
  onEntry(
    'a compressed entry behind the end of the file',
    ['compressed'],
    () => compressedFlag | farAway,
    ({ compressed }) => compressed,
  ),
  onEntry(
    'a compressed entry that is marked',
    ['compressed'],
    (_, { word }) => word | own,
    ({ compressed }) => compressed,
    true,
  ),
  onEntry(
    'a compressed entry in the header',
    ['compressed'],
    () => compressedFlag | 512n,
    ({ compressed }) => compressed,
  ),
  onEntry(
    'a compressed entry on the L1 table',
    ['compressed'],
    (image) => compressedFlag | BigInt(image.l1),
    ({ compressed }) => compressed,
  ),
  damage('a compressed entry that names another one’s data', ['compressed'], (image, random) => {
    const [one, other] = random.shuffled(image.l2Entries().filter(({ compressed }) => compressed))
    if (!other) return []
    image.setWord(one.at, other.word)
    return [{ offset: one.guestOffset, length: image.clusterSize }]
  }),
]

const subclusterDamages: readonly Damage[] = [
  damage('subclusters that are allocated and zero at once', ['extended'], (image, random) => {
    const entry = random.pick(image.l2Entries().filter(plain))
    image.setWord(entry.at + 8, 2n ** 64n - 1n)
    return [{ offset: entry.guestOffset, length: image.clusterSize }]
  }),
  damage('allocated subclusters of no cluster', ['extended'], (image, random) => {
    const entry = random.pick(image.l2Entries().filter(plain))
    image.setWord(entry.at, 0n)
    image.setWord(entry.at + 8, 0xffn)
    return [{ offset: entry.guestOffset, length: image.clusterSize }]
  }),
  damage('subclusters of compressed data', ['extended', 'compressed'], (image, random) => {
    const entry = random.pick(image.l2Entries().filter(({ compressed }) => compressed))
    image.setWord(entry.at + 8, 0x0fn)
    return []
  }),
]

const dataFileDamages: readonly Damage[] = [
  onEntry(
    'an entry of a data file that points elsewhere',
    ['data-file'],
    (image, { word }) => word + BigInt(image.clusterSize),
  ),
  onEntry('an entry of a data file far away', ['data-file'], () => own | farAway),
  onEntry(
    'a compressed entry with a data file',
    ['data-file'],
    (_, { word }) => word | compressedFlag,
  ),
]

const snapshotDamages: readonly Damage[] = [
  ...(
    [
      [
        'that is not aligned',
        (image: Anatomy, l1: number) => BigInt(l1 + (image.clusterSize > 512 ? 512 : 8)),
      ],
      ['behind the end of the file', () => farAway],
      ['in place of the header', () => 0n],
      ['in place of the active L1 table', (image: Anatomy) => BigInt(image.l1)],
      ['in place of data', (image: Anatomy) => BigInt(image.l2Entries().filter(plain)[0].offset)],
    ] as const
  ).map(([what, place]) =>
    damage(`an L1 table of a snapshot ${what}`, ['snapshots'], (image, random) => {
      const { at, l1 } = random.pick(image.snapshots())
      image.setWord(at, place(image, l1))
      return []
    }),
  ),
  damage('an L1 table of a snapshot that is too large', ['snapshots'], (image, random) => {
    image.bytes.writeUInt32BE(0x7fffffff, random.pick(image.snapshots()).at + 8)
    return []
  }),
  damage('a snapshot without what version 3 has', ['snapshots', 'version 3'], (image) => {
    const snapshots = image.snapshots()
    const { at, extraLength } = snapshots[snapshots.length - 1]
    const end = at + 40 + extraLength + 64
    image.bytes.writeUInt32BE(8, at + 36)
    image.bytes.copy(image.bytes, at + 48, at + 40 + extraLength, end)
    return []
  }),
  damage('a snapshot with too much extra data', ['snapshots'], (image, random) => {
    image.bytes.writeUInt32BE(3000, random.pick(image.snapshots()).at + 36)
    return []
  }),
  damage('more snapshots than there are', ['snapshots'], (image) => {
    image.bytes.writeUInt32BE(image.snapshotCount + 3, 60)
    return []
  }),
  damage('a snapshot table in place of the L1 table', ['snapshots'], (image) => {
    image.setWord(64, BigInt(image.l1))
    return []
  }),
  ...(
    [
      ['behind the end of the file', (_: Anatomy, __: bigint) => farAway],
      [
        'that is not aligned',
        (image: Anatomy, word: bigint) => word + (image.clusterSize > 512 ? 512n : 2n),
      ],
      ['with reserved bits', (_: Anatomy, word: bigint) => word | (1n << 60n)],
      ['that names the active L1 table', (image: Anatomy) => BigInt(image.l1)],
    ] as const
  ).map(([what, change]) =>
    damage(`an L1 entry of a snapshot ${what}`, ['snapshots'], (image, random) => {
      const { at } = random.pick(image.snapshotL1Entries(random.pick(image.snapshots())))
      image.setWord(at, change(image, image.word(at)))
      return []
    }),
  ),
]

const bitmapDamages: readonly Damage[] = [
  ...(
    [
      [
        'that is not aligned',
        16,
        (image: Anatomy, word: bigint) => word + (image.clusterSize > 512 ? 512n : 8n),
      ],
      ['behind the end of the file', 16, () => farAway],
      ['in place of the L1 table', 16, (image: Anatomy) => BigInt(image.l1)],
      [
        'in place of data',
        16,
        (image: Anatomy) => BigInt(image.l2Entries().filter(plain)[0].offset),
      ],
      ['that is cut off', 8, (_: Anatomy, word: bigint) => word - 8n],
      ['that is too long', 8, (_: Anatomy, word: bigint) => word + 64n],
      ['that is much too long', 8, () => 1n << 40n],
      ['with fewer bitmaps than it says', 0, (_: Anatomy, word: bigint) => word + (1n << 32n)],
      ['with more bitmaps than it says', 0, (_: Anatomy, word: bigint) => word - (1n << 32n)],
      ['with a reserved field', 0, (_: Anatomy, word: bigint) => word + 1n],
    ] as const
  ).map(([what, at, change]) =>
    damage(`a bitmap directory ${what}`, ['bitmaps'], (image) => {
      const place = image.bitmapsExtension! + at
      image.setWord(place, change(image, image.word(place)))
      return []
    }),
  ),
  damage('a bitmap directory of noise', ['bitmaps'], (image, random) => {
    image.bytes.set(random.bytes(64), image.bitmapDirectory)
    return []
  }),
  ...(
    [
      ['behind the end of the file', () => farAway],
      [
        'that is not aligned',
        (image: Anatomy, word: bigint) => word + (image.clusterSize > 512 ? 512n : 8n),
      ],
      ['in the header', () => 0n],
      ['on the active L1 table', (image: Anatomy) => BigInt(image.l1)],
      ['on data', (image: Anatomy) => BigInt(image.l2Entries().filter(plain)[0].offset)],
    ] as const
  ).map(([what, change]) =>
    damage(`a bitmap table ${what}`, ['bitmaps'], (image, random) => {
      const { at } = random.pick(image.bitmaps())
      image.setWord(at, change(image, image.word(at)))
      return []
    }),
  ),
  ...(
    [
      ['of the wrong size', (bytes: Buffer) => bytes.writeUInt32BE(bytes.readUInt32BE(8) + 1, 8)],
      ['of a size beyond reason', (bytes: Buffer) => bytes.writeUInt32BE(0x7fffffff, 8)],
      ['with unknown flags', (bytes: Buffer) => bytes.writeUInt32BE(0x40, 12)],
      ['of an unknown type', (bytes: Buffer) => bytes.writeUInt8(9, 16)],
      ['of an impossible granularity', (bytes: Buffer) => bytes.writeUInt8(60, 17)],
      ['with extra data that nobody knows', (bytes: Buffer) => bytes.writeUInt32BE(8, 20)],
    ] as const
  ).map(([what, change]) =>
    damage(`a bitmap ${what}`, ['bitmaps'], (image, random) => {
      const { at } = random.pick(image.bitmaps())
      change(image.bytes.subarray(at))
      return []
    }),
  ),
  ...(
    [
      ['behind the end of the file', () => farAway],
      [
        'that is not aligned',
        (image: Anatomy) => BigInt(image.l1 + (image.clusterSize > 512 ? 512 : 8)),
      ],
      ['with reserved bits', () => 1n << 60n],
      ['with low reserved bits', () => 2n],
      ['that names the header', () => 512n],
      ['that names the L1 table', (image: Anatomy) => BigInt(image.l1)],
      ['that names data', (image: Anatomy) => BigInt(image.l2Entries().filter(plain)[0].offset)],
      ['that names the refcount table', (image: Anatomy) => BigInt(image.refcountTable)],
    ] as const
  ).map(([what, change]) =>
    damage(`a bitmap table entry ${what}`, ['bitmaps'], (image, random) => {
      const { table } = random.pick(image.bitmaps())
      image.setWord(table, change(image))
      return []
    }),
  ),
]

/** Of the fields that lead to tables. A repair finds, or makes, what they lead to no more. */
const headerDamages: readonly Damage[] = [
  ...(
    [
      ['behind the end of the file', () => farAway],
      ['beyond 2^53', () => 1n << 62n],
      ['that is not aligned', (image: Anatomy) => BigInt(image.clusterSize / 2)],
      ['in the header', () => 0n],
      ['in place of data', (image: Anatomy) => BigInt(image.l2Entries().filter(plain)[0].offset)],
      ['in place of an L2 table', (image: Anatomy) => BigInt(image.l1Entries()[0].offset)],
    ] as const
  ).flatMap(([what, place]) =>
    (
      [
        ['a refcount table', [], 48],
        ['an L1 table', [], 40],
        ['a snapshot table', ['snapshots'], 64],
      ] as const
    ).map(([table, needs, at]) =>
      damage(`${table} ${what}`, needs, (image) => {
        // In a data file the first cluster is the header's.
        const offset = place(image)
        image.setWord(at, image.external && what === 'in place of data' ? 0n : offset)
        return []
      }),
    ),
  ),
  damage('a refcount table in place of the L1 table', [], (image) => {
    image.setWord(48, BigInt(image.l1))
    return []
  }),
  damage('an L1 table in place of the refcount table', [], (image) => {
    image.setWord(40, BigInt(image.refcountTable))
    return []
  }),
  ...(
    [
      ['a refcount table of no clusters', [], 56, 0],
      ['a refcount table of too many clusters', [], 56, 0x7fffffff],
      ['a refcount table that is longer than the file', [], 56, 'longer'],
      ['refcounts of an impossible width', ['version 3'], 96, 9],
      ['an L1 table of no entries', [], 36, 0],
      ['an L1 table of too many entries', [], 36, 0x7fffffff],
      ['an L1 table that is longer than the file', [], 36, 'longer'],
      ['too many snapshots', ['snapshots'], 60, 0x7fffffff],
      ['a snapshot table that is longer than the file', ['snapshots'], 60, 65_536],
    ] as const
  ).map(([title, needs, at, value]) =>
    damage(title, needs, (image) => {
      const unit = at === 56 ? image.clusterSize : 8
      const longer = Math.ceil(image.bytes.length / unit) + 1
      image.bytes.writeUInt32BE(value === 'longer' ? longer : value, at)
      return []
    }),
  ),
]

export const damages: readonly Damage[] = [
  ...headerDamages,
  ...refcountDamages,
  ...l1Damages,
  ...l2Damages,
  ...subclusterDamages,
  ...dataFileDamages,
  ...snapshotDamages,
  ...bitmapDamages,
]
