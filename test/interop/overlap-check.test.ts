/** Images with planted damage, written to by `varve io` and by the real qemu-io: both notice alike. */
import { closeSync, copyFileSync, openSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { realIo, varveIo } from '../support/io-tools.ts'

const qemu = peer('qemu-img', 'qemu-io')

const cluster = 65536

/** What a new image of 1 MiB looks like, once two clusters are written and a snapshot is taken. */
interface Places {
  readonly refcountTable: number
  readonly refcountBlock: number
  readonly l1: number
  readonly l2: number
  readonly snapshotTable: number
  readonly snapshotL1: number
  readonly snapshotL2: number
}

interface Damage {
  readonly title: string
  /** Writes 64-bit words over those of the file. */
  plant(places: Places): readonly (readonly [offset: number, word: bigint])[]
  /** What is asked for; the last of it meets the damage. */
  readonly commands: readonly string[]
  readonly options?: string
}

const own = 1n << 63n
const entry = (offset: number) => own | BigInt(offset)

/** Points the first cluster of the disk at a table. */
const dataOn = (title: string, place: keyof Places, options?: string): Damage => ({
  title: `data on the ${title}`,
  plant: (places) => [[places.l2, entry(places[place])]],
  commands: ['write -P 3 0 64k'],
  options,
})

/** Says that a cluster is free which is not. */
function freed(title: string, place: keyof Places, options?: string): Damage {
  return {
    title: `the ${title}, which the refcounts call free`,
    // Refcounts have 16 bits; the four of the word are all cleared but for those in front.
    plant: (places) => {
      const index = places[place] / cluster
      const at = places.refcountBlock + index * 2
      return [[at, 0n]]
    },
    commands: ['write -P 3 512k 64k', 'write -P 3 640k 64k', 'write -P 3 768k 64k'],
    options,
  }
}

const damages: readonly Damage[] = [
  dataOn('refcount table', 'refcountTable'),
  dataOn('refcount block', 'refcountBlock'),
  dataOn('active L1 table', 'l1'),
  dataOn('active L2 table', 'l2'),
  dataOn('snapshot table', 'snapshotTable'),
  dataOn("snapshot's L1 table", 'snapshotL1'),
  dataOn("snapshot's L2 table, with all checks", 'snapshotL2', 'overlap-check=all'),
  dataOn('refcount block, which nobody checks', 'refcountBlock', 'overlap-check=none'),
  dataOn('active L2 table, with constant checks', 'l2', 'overlap-check=constant'),
  dataOn("snapshot's L2 table, with cached checks", 'snapshotL2', 'overlap-check=cached'),
  dataOn(
    'active L1 table, of which alone nothing is known',
    'l1',
    'overlap-check.template=cached,overlap-check.active-l1=off',
  ),
  {
    title: 'an L2 table on the active L1 table',
    plant: (places) => [[places.l1, entry(places.l1)]],
    commands: ['write -P 3 128k 64k'],
  },
  {
    title: 'a discard of what is no data',
    plant: (places) => [[places.l2, entry(places.refcountTable)]],
    commands: ['write -P 3 0 4k'],
  },
  {
    title: 'data that is not aligned, read',
    plant: (places) => [[places.l2, entry(places.l2 + 512)]],
    commands: ['read 0 4k'],
  },
  {
    title: 'an L2 table that is not aligned, read',
    plant: (places) => [[places.l1, entry(places.l2 + 512)]],
    commands: ['read 0 4k'],
  },
  {
    title: 'an L2 table that is not aligned, written',
    plant: (places) => [[places.l1, entry(places.l2 + 512)]],
    commands: ['write 512k 4k'],
  },
  {
    title: 'a refcount block that is not aligned',
    plant: (places) => [[places.refcountTable, BigInt(places.refcountBlock + 512)]],
    commands: ['write 512k 4k'],
  },
  freed('refcount table', 'refcountTable'),
  freed('active L1 table', 'l1'),
]

qemu.describe('an image with planted damage', () => {
  const folder = scratchFolder('overlap')

  for (const { title, plant, commands, options } of damages) {
    qemu.it(`${title} ${options ?? ''}`, async () => {
      const image = join(folder, 'a.qcow2')
      const places = await prepared(image)
      for (const [offset, word] of plant(places)) overwrite(image, offset, word)
      const outcomes = []
      for (const run of [varveIo, realIo]) {
        const copy = join(folder, 'copy.qcow2')
        copyFileSync(image, copy)
        const open = options === undefined ? `open ${copy}` : `open -o ${options} ${copy}`
        const words = [open, ...commands].flatMap((command) => ['-c', command])
        outcomes.push({ ...(await run(words)), corrupt: isCorrupt(copy) })
      }
      expect(outcomes[0]).toEqual(outcomes[1])
    })
  }
})

async function prepared(image: string): Promise<Places> {
  await qemu.run('create', '-q', '-f', 'qcow2', image, '1M')
  await realIo(['-c', 'write -P 1 0 128k', image])
  await qemu.run('snapshot', '-c', 'one', image)
  // The disk gets tables and clusters of its own.
  await realIo(['-c', 'write -P 2 0 128k', image])
  const word = (offset: number) => Number(wordAt(image, offset) % (1n << 56n))
  const l1 = word(40)
  const refcountTable = word(48)
  const snapshotTable = word(64)
  const snapshotL1 = word(snapshotTable)
  return {
    refcountTable,
    refcountBlock: word(refcountTable),
    l1,
    l2: word(l1),
    snapshotTable,
    snapshotL1,
    snapshotL2: word(snapshotL1),
  }
}

function isCorrupt(image: string): boolean {
  return (wordAt(image, 72) & 2n) !== 0n
}

function wordAt(image: string, offset: number): bigint {
  const fd = openSync(image, 'r')
  const bytes = Buffer.alloc(8)
  readSync(fd, bytes, 0, 8, offset)
  closeSync(fd)
  return bytes.readBigUInt64BE()
}

function overwrite(image: string, offset: number, word: bigint): void {
  const fd = openSync(image, 'r+')
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(word)
  writeSync(fd, bytes, 0, 8, offset)
  closeSync(fd)
}
