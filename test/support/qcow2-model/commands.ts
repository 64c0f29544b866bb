/**
 * What a random test does to a qcow2 image, as commands of fast-check: each knows when both
 * programs can do it, tells the reference, and has both hands do it. Places are parts of the disk's
 * size, which is known only when the command runs.
 */
import fc from 'fast-check'
import { SeededRandom } from '../../../src/bytes/seeded-random.ts'
import { type Hand, type OurHand, stateUnit, type TheirHand, type Tuning } from './hands.ts'
import { judge } from './judge.ts'
import { sectorsAt } from './kind.ts'
import { type Fill, type Reference, ReferenceBitmap, type Request } from './reference.ts'

/** The two at work. */
export interface Workshop {
  readonly ours: OurHand
  readonly theirs: TheirHand
  /** For what the judge compares with. */
  readonly folder: string
}

type Command = fc.AsyncCommand<Reference, Workshop>

interface Steps {
  readonly title: string
  can?(reference: Reference): boolean
  run(reference: Reference, workshop: Workshop): Promise<void>
}

function command({ title, can = () => true, run }: Steps): Command {
  return { check: can, run, toString: () => title }
}

async function both({ ours, theirs }: Workshop, work: (hand: Hand) => Promise<void>) {
  await work(ours)
  await work(theirs)
}

const part = fc.integer({ min: 0, max: 9999 }).map((count) => count / 10_000)
/** Lengths: short ones as often as long ones. */
const share = part.map((value) => value ** 4)
const fill: fc.Arbitrary<Fill & { text: string }> = fc.oneof(
  fc.integer({ min: 0, max: 255 }).map((pattern) => ({ pattern, text: `${pattern}` })),
  fc.integer({ min: 0, max: 999 }).map((seed) => ({ noise: noise(seed), text: `noise ${seed}` })),
)

const noiseLength = 256 * 1024

function noise(seed: number): Buffer {
  const random = new SeededRandom(seed)
  const words = Uint32Array.from({ length: noiseLength / 4 }, () => random.below(2 ** 32))
  return Buffer.from(words.buffer)
}

/** Aligned to sectors at both ends. */
function rangeAt({ size }: Reference, at: number, long: number, most = noiseLength) {
  const length = sectorsAt(long, Math.min(512, size), Math.min(size, most))
  return { offset: sectorsAt(at, 0, size - length), length }
}

const writes = fc.record({ at: part, long: share, fill }).map(({ at, long, fill }) =>
  command({
    title: `write ${fill.text} at ${at} for ${long}`,
    async run(reference, workshop) {
      const request: Request = { verb: 'write', ...rangeAt(reference, at, long), fill }
      reference.apply(request)
      await both(workshop, (hand) => hand.request(request))
    },
  }),
)

const zeroes = fc
  .record({ at: part, long: share, unmap: fc.boolean() })
  .map(({ at, long, unmap }) =>
    command({
      title: `${unmap ? 'unmap' : 'zero'} at ${at} for ${long}`,
      async run(reference, workshop) {
        const range = rangeAt(reference, at, long, reference.size)
        const request: Request = { verb: 'zero', ...range, unmap }
        reference.apply(request)
        await both(workshop, (hand) => hand.request(request))
      },
    }),
  )

const discards = fc.record({ at: part, long: share }).map(({ at, long }) =>
  command({
    title: `discard at ${at} for ${long}`,
    async run(reference, workshop) {
      const request: Request = { verb: 'discard', ...rangeAt(reference, at, long, reference.size) }
      reference.apply(request)
      await both(workshop, (hand) => hand.request(request))
    },
  }),
)

const compressed = fc.record({ at: part, fill }).map(({ at, fill }) =>
  command({
    title: `compress ${fill.text} at ${at}`,
    can: ({ kind, refcountBits, snapshots }) =>
      kind.encryption === 'none' &&
      kind.dataFile === 'none' &&
      // Clusters that share a place need room in its count.
      (refcountBits >= 16 || snapshots.size === 0),
    async run(reference, workshop) {
      const { size } = reference
      const { clusterSize } = reference.kind
      const offset = Math.floor((at * size) / clusterSize) * clusterSize
      const range = { offset, length: Math.min(clusterSize, size - offset) }
      const plain: Request = { verb: 'write', ...range, fill }
      const request: Request = { ...plain, verb: 'compressed' }
      const fresh = reference.untouched(range)
      reference.apply(request)
      reference.compressed = true
      await workshop.ours.request(request)
      // qemu-io refuses where something is allocated.
      await workshop.theirs.request(fresh ? request : plain)
    },
  }),
)

const resizes = fc.record({ to: part, grow: fc.boolean() }).map(({ to, grow }) =>
  command({
    title: `resize ${grow ? 'up' : 'down'} to ${to}`,
    // What a raw data file gains is nothing but zeroes, which deciphered are noise, in QEMU as well.
    can: ({ version, snapshots, stateWritten, kind }) =>
      (version === 3 || snapshots.size === 0) &&
      !stateWritten &&
      !(grow && kind.dataFile === 'raw' && kind.encryption !== 'none'),
    async run(reference, workshop) {
      const { size, kind } = reference
      const most = Math.min(size * 4, Math.max(kind.size, 6 * 1024 * 1024))
      // What QEMU has cut off is zeroed by hand, which bitmaps would tell.
      if (grow && workshop.theirs.image.cutOff && reference.bitmaps.size > 0) return
      const wanted = grow ? sectorsAt(to, size, Math.max(most, size)) : sectorsAt(to, 512, size)
      reference.resize(wanted)
      await both(workshop, (hand) => hand.resize(wanted, size))
    },
  }),
)

const states = fc
  .record({ at: fc.integer({ min: 0, max: 400 }), count: fc.integer({ min: 1, max: 40 }) })
  .chain(({ at, count }) =>
    fc.integer({ min: 1, max: 255 }).map((pattern) =>
      command({
        title: `state ${pattern} at ${at} for ${count}`,
        can: ({ kind }) => kind.dataFile === 'none',
        async run(reference, workshop) {
          reference.stateWritten = true
          await both(workshop, async (hand) => {
            await hand.writeState(at * stateUnit, count * stateUnit, pattern)
            for (let unit = at; unit < at + count; unit++) {
              hand.image.state.set(unit * stateUnit, pattern)
            }
          })
        },
      }),
    ),
  )

/** More would only take longer. */
const mostSnapshots = 4

const newSnapshots = fc.integer({ min: 0, max: 9 }).map((number) =>
  command({
    title: `snapshot s${number}`,
    can: ({ kind, snapshots, refcountBits, compressed }) =>
      kind.dataFile === 'none' &&
      !snapshots.has(`s${number}`) &&
      snapshots.size < Math.min(mostSnapshots, 2 ** refcountBits - 2) &&
      (refcountBits >= 16 || !compressed),
    async run(reference, workshop) {
      reference.createSnapshot(`s${number}`)
      await both(workshop, (hand) => hand.snapshot('create', `s${number}`))
    },
  }),
)

const oldSnapshots = fc
  .record({ verb: fc.constantFrom('apply' as const, 'delete' as const), which: part })
  .map(({ verb, which }) =>
    command({
      title: `${verb} snapshot ${which}`,
      can: (reference) => {
        const name = oneOf(reference.snapshots, which)
        if (name === undefined || verb === 'delete') return name !== undefined
        const { size, bitmaps, snapshots, stateWritten } = reference
        // qemu-img leaks the state where the size changes.
        return bitmaps.size === 0 && (!stateWritten || snapshots.get(name)?.length === size)
      },
      async run(reference, workshop) {
        const name = oneOf(reference.snapshots, which)!
        if (verb === 'apply') reference.applySnapshot(name)
        else reference.snapshots.delete(name)
        await both(workshop, (hand) => hand.snapshot(verb, name))
      },
    }),
  )

const newBitmaps = fc
  .record({ number: fc.integer({ min: 0, max: 5 }), order: fc.integer({ min: 9, max: 22 }) })
  .map(({ number, order }) =>
    command({
      title: `bitmap b${number} of 2^${order}`,
      can: ({ version, bitmaps }) => version === 3 && !bitmaps.has(`b${number}`),
      async run(reference, workshop) {
        const granularity = 2 ** order
        reference.bitmaps.set(`b${number}`, new ReferenceBitmap(granularity, reference.size))
        await both(workshop, (hand) => hand.bitmap(`b${number}`, { verb: 'add', granularity }))
      },
    }),
  )

const oldBitmaps = fc
  .record({
    verb: fc.constantFrom(
      'remove' as const,
      'clear' as const,
      'enable' as const,
      'disable' as const,
    ),
    which: part,
  })
  .map(({ verb, which }) =>
    command({
      title: `${verb} bitmap ${which}`,
      can: ({ bitmaps }) => bitmaps.size > 0,
      async run({ bitmaps }, workshop) {
        const name = oneOf(bitmaps, which)!
        const bitmap = bitmaps.get(name)!
        if (verb === 'remove') bitmaps.delete(name)
        else if (verb === 'clear') bitmap.bits.fill(0)
        else bitmap.enabled = verb === 'enable'
        await both(workshop, (hand) => hand.bitmap(name, { verb }))
      },
    }),
  )

const merges = fc.record({ from: part, into: part }).map(({ from, into }) =>
  command({
    title: `merge bitmap ${from} into ${into}`,
    can: ({ bitmaps }) => bitmaps.size > 1,
    async run({ bitmaps }, workshop) {
      const [source, target] = [oneOf(bitmaps, from)!, oneOf(bitmaps, into)!]
      bitmaps.get(target)!.merge(bitmaps.get(source)!)
      await both(workshop, (hand) => hand.bitmap(target, { verb: 'merge', from: source }))
    },
  }),
)

const amendments = fc
  .constantFrom('version', 'lazy_refcounts', 'refcount_bits')
  .chain((option) => fc.integer({ min: 0, max: 6 }).map((order) => amendment(option, 2 ** order)))

function amendment(option: string, bits: number): Command {
  const amend = (workshop: Workshop, text: string) =>
    both(workshop, (hand) => hand.command('amend', ['-o', text]))
  if (option === 'lazy_refcounts') {
    return command({
      title: 'amend lazy_refcounts',
      can: ({ version }) => version === 3,
      async run(reference, workshop) {
        reference.lazyRefcounts = !reference.lazyRefcounts
        await amend(workshop, `lazy_refcounts=${reference.lazyRefcounts ? 'on' : 'off'}`)
      },
    })
  }
  if (option === 'refcount_bits') {
    return command({
      title: `amend refcount_bits=${bits}`,
      can: ({ kind, version, snapshots, compressed }) =>
        // In large clusters it takes qemu-img a minute.
        version === 3 &&
        kind.clusterSize <= 65_536 &&
        (bits >= 16 || (snapshots.size === 0 && !compressed)),
      async run(reference, workshop) {
        reference.refcountBits = bits
        await amend(workshop, `refcount_bits=${bits}`)
      },
    })
  }
  return command({
    title: 'amend to the other version',
    can: (reference) => reference.version === 2 || fitsVersion2(reference),
    async run(reference, workshop) {
      reference.version = reference.version === 2 ? 3 : 2
      if (reference.version === 2) reference.lazyRefcounts = false
      await amend(workshop, `compat=v${reference.version}`)
    },
  })
}

/** qemu-img 7.2 may change what snapshots show, so there must be none. */
function fitsVersion2({ kind, refcountBits, snapshots, bitmaps }: Reference): boolean {
  return (
    refcountBits === 16 &&
    snapshots.size === 0 &&
    bitmaps.size === 0 &&
    !kind.extendedL2 &&
    kind.compression === 'zlib' &&
    kind.dataFile === 'none' &&
    kind.encryption === 'none'
  )
}

const commits = fc.constant(
  command({
    title: 'commit',
    can: ({ base, snapshots, stateWritten }) =>
      base !== undefined && snapshots.size === 0 && !stateWritten,
    async run(reference, workshop) {
      reference.commit()
      await both(workshop, (hand) => hand.command('commit', ['-q']))
    },
  }),
)

const rebases = fc.option(part, { nil: undefined }).map((size) =>
  command({
    title: size === undefined ? 'rebase to nothing' : `rebase to another of ${size}`,
    can: ({ base, snapshots, bitmaps }) =>
      base !== undefined && snapshots.size === 0 && bitmaps.size === 0,
    async run(reference, workshop) {
      const length = size === undefined ? 0 : sectorsAt(size, 512, 2 * reference.size)
      const base = size === undefined ? undefined : noise(length % 99).subarray(0, length)
      reference.base = base && Buffer.concat([base], length)
      await both(workshop, async (hand) => {
        const { folder, kind } = hand.image
        // QEMU has a relative name only where the image's own is one that needs no options.
        const name = `${kind.encryption === 'none' ? '' : `${folder}/`}base-${length}`
        if (reference.base) hand.image.store(`base-${length}`, reference.base)
        await hand.command('rebase', base ? ['-b', name, '-F', 'raw'] : ['-b', ''])
      })
    },
  }),
)

const tunings: fc.Arbitrary<Tuning> = fc.record(
  {
    'l2-cache-size': fc.constantFrom('1k', '8k', '1M'),
    'refcount-cache-size': fc.constantFrom('2k', '64k'),
    'overlap-check': fc.constantFrom('none', 'constant', 'cached', 'all'),
    'pass-discard-other': fc.boolean(),
  },
  { requiredKeys: [] },
)

const reopenings = tunings.map((tuning) =>
  command({
    title: `reopen ${JSON.stringify(tuning)}`,
    async run(_, { ours }) {
      await ours.close()
      ours.tuning = tuning
    },
  }),
)

const exchanges = fc.constant(
  command({
    title: 'change images',
    async run(_, { ours, theirs }) {
      await ours.close()
      await theirs.close()
      const { image } = ours
      ours.image = theirs.image
      theirs.image = image
    },
  }),
)

const judgements = fc.constant(command({ title: 'judge', run: judge }))

function oneOf(names: ReadonlyMap<string, unknown>, which: number): string | undefined {
  return [...names.keys()][Math.floor(which * names.size)]
}

/** Those that come often stand here often. */
export const modelCommands: fc.Arbitrary<Command>[] = [
  writes,
  writes,
  writes,
  writes,
  zeroes,
  zeroes,
  discards,
  compressed,
  compressed,
  resizes,
  states,
  newSnapshots,
  newSnapshots,
  oldSnapshots,
  newBitmaps,
  oldBitmaps,
  merges,
  amendments,
  commits,
  rebases,
  reopenings,
  exchanges,
  judgements,
]
