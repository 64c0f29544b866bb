/**
 * Keeps a disk on several children and believes what enough of them say: reads are compared and
 * voted on, writes go to all. A child that fails or differs is reported, and can be put right.
 */
import { createHash } from 'node:crypto'
import diagnostics from 'node:diagnostics_channel'
import type { ChildList } from '../block/abilities.ts'
import type { BlockDriver, NodeReference } from '../block/driver.ts'
import {
  type BlockLayer,
  type Capabilities,
  type Completion,
  type Extent,
  type Io,
  type Limits,
  plainWriteIo,
  type WriteIo,
  type ZeroIo,
} from '../block/layer.ts'
import { OptionReader } from '../block/options.ts'
import {
  type ChildRole,
  noPermission,
  type Permission,
  type Permissions,
  permissionSet,
} from '../block/permission.ts'
import { BlockError, errnoOf, invalid, strerror } from '../errors.ts'

export const readPatterns = ['quorum', 'fifo'] as const

interface QuorumOptions {
  readonly children: readonly NodeReference[]
  /** How many must agree. */
  readonly threshold: number
  /** Two children that must agree always; for finding faults. */
  readonly verify: boolean
  /** Write the winner of a vote to the losers. */
  readonly rewrite: boolean
  /** `fifo`: read from the first child that can. */
  readonly readPattern: (typeof readPatterns)[number]
}

/** `{ node, child, type, error?, offset, length }`: a child failed or was outvoted. */
export const badChildChannel = diagnostics.channel('quorum:bad')
/** `{ node, offset, length }`: too few agreed. */
export const quorumFailureChannel = diagnostics.channel('quorum:failure')

interface Member {
  /** `children.0` */
  readonly name: string
  readonly layer: BlockLayer
}

type Verb = 'read' | 'write' | 'flush'

class Quorum implements BlockLayer {
  readonly #name: string
  readonly #options: QuorumOptions
  #members: readonly Member[]
  #nextIndex: number
  #limits: { readonly of: readonly Limits[]; readonly own: Limits } | undefined

  constructor(members: readonly Member[], options: QuorumOptions, name: string) {
    this.#members = members
    this.#nextIndex = members.length
    this.#options = options
    this.#name = name
  }

  get size(): number {
    return this.#members[0].layer.size
  }

  get capabilities(): Capabilities {
    const all = this.#members.map(({ layer }) => layer.capabilities)
    return {
      write: all.every(({ write }) => write),
      resize: all.every(({ resize }) => resize),
      backing: false,
      fua: all.every(({ fua }) => fua === 'native') ? 'native' : 'emulated',
      writeZeroes: all.every(({ writeZeroes }) => writeZeroes === 'native') ? 'native' : 'emulated',
      discard: 'none',
      extents: 'native',
      zeroInit: all.every(({ zeroInit }) => zeroInit),
    }
  }

  get limits(): Limits {
    const of = this.#members.map(({ layer }) => layer.limits)
    if (of.some((limits, index) => limits !== this.#limits?.of[index])) {
      this.#limits = { of, own: commonLimits(of) }
    }
    return this.#limits?.own ?? commonLimits(of)
  }

  async read(offset: number, target: Uint8Array, io: Io): Promise<void> {
    if (this.#options.readPattern === 'fifo') return await this.#readFirst(offset, target, io)
    const versions = this.#members.map((_, index) =>
      index === 0 ? target : Buffer.allocUnsafe(target.length),
    )
    const { good, error } = await this.#askAll('read', offset, target.length, (layer, index) =>
      layer.read(offset, versions[index], io),
    )
    if (error !== undefined) throw error
    const read = good.map((index): Version => ({ index, bytes: versions[index] }))
    const winner = this.#options.verify
      ? this.#verified(offset, read)
      : await this.#vote(offset, read)
    if (winner !== target) target.set(winner)
  }

  async write(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    await this.#writeAll(offset, source.length, (layer) => layer.write(offset, source, io))
  }

  async writeZeroes(offset: number, length: number, io: ZeroIo): Promise<void> {
    await this.#writeAll(offset, length, (layer) => layer.writeZeroes(offset, length, io))
  }

  discard(): void {}

  async flush(io: Io): Promise<void> {
    const { error } = await this.#askAll('flush', 0, 0, (layer) => layer.flush(io))
    if (error !== undefined) throw error
  }

  async truncate(size: number, io: Io): Promise<void> {
    for (const { layer } of this.#members) await layer.truncate(size, io)
  }

  /** Zeroes only where all agree on that. */
  async extentAt(offset: number, length: number, io: Io): Promise<Extent> {
    let shortest = length
    for (const { layer } of this.#members) {
      const run = await layer.extentAt(offset, shortest, io)
      if (run.kind !== 'zero')
        return { kind: 'data', offset, length: Math.min(run.length, shortest) }
      shortest = Math.min(shortest, run.length)
    }
    return { kind: 'zero', offset, length: shortest, allocated: true }
  }

  readonly members: ChildList = {
    get: () => this.#members.map(({ name }) => name),
    nextName: () => `children.${this.#nextIndex}`,
    add: (layer) => {
      this.#members = [...this.#members, { name: `children.${this.#nextIndex++}`, layer }]
    },
    checkRemove: () => {
      if (this.#members.length > this.#options.threshold) return
      throw invalid(
        `The number of children cannot be lower than the vote threshold ${this.#options.threshold}`,
      )
    },
    remove: (name) => {
      this.#members = this.#members.filter((member) => member.name !== name)
      if (name === `children.${this.#nextIndex - 1}`) this.#nextIndex--
    },
  }

  /** Others must not write or resize: the children would differ from each other. */
  childPermissions(_role: ChildRole, needs: Permissions): Permissions {
    const uses = new Set<Permission>(needs.uses)
    uses.delete('writeUnchanged')
    if (this.#options.rewrite) uses.add('write')
    const shares = new Set<Permission>(['writeUnchanged'])
    if (needs.shares.has('consistentRead')) shares.add('consistentRead')
    return { uses, shares }
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  async #readFirst(offset: number, target: Uint8Array, io: Io): Promise<void> {
    let failure: unknown
    for (const { layer, name } of this.#members) {
      try {
        return await layer.read(offset, target, io)
      } catch (error) {
        if (!(error instanceof BlockError)) throw error
        failure = error
        this.#reportBad('read', name, offset, target.length, error)
      }
    }
    throw failure
  }

  async #writeAll(
    offset: number,
    length: number,
    work: (layer: BlockLayer) => Completion,
  ): Promise<void> {
    const { error } = await this.#askAll('write', offset, length, work)
    if (error !== undefined) throw error
  }

  /** Who could, and, where those are too few, the error that most of the others had. */
  async #askAll(
    verb: Verb,
    offset: number,
    length: number,
    work: (layer: BlockLayer, index: number) => Completion,
  ): Promise<{ readonly good: readonly number[]; readonly error?: unknown }> {
    const members = this.#members
    const results = await Promise.allSettled(
      members.map(async ({ layer }, index) => await work(layer, index)),
    )
    const good: number[] = []
    const errors: unknown[] = []
    for (const [index, result] of results.entries()) {
      if (result.status === 'fulfilled') {
        good.push(index)
        continue
      }
      if (!(result.reason instanceof BlockError)) throw result.reason
      errors.push(result.reason)
      this.#reportBad(verb, members[index].name, offset, length, result.reason)
    }
    if (good.length >= this.#options.threshold) return { good }
    if (verb !== 'flush') this.#reportFailure(offset, length)
    return { good, error: mostCommon(errors) }
  }

  /** Both must be the same. */
  #verified(offset: number, versions: readonly Version[]): Uint8Array {
    const [one, other] = versions
    if (equal(one.bytes, other.bytes)) return one.bytes
    const at = one.bytes.findIndex((byte, index) => byte !== other.bytes[index])
    throw new BlockError(
      'IO',
      `quorum: offset=${offset} bytes=${one.bytes.length} contents mismatch at offset ${offset + at}`,
      { node: this.#name, offset: offset + at, errno: 'EIO' },
    )
  }

  async #vote(offset: number, versions: readonly Version[]): Promise<Uint8Array> {
    const [first] = versions
    const { length } = first.bytes
    if (versions.every(({ bytes }) => equal(bytes, first.bytes))) return first.bytes
    const ballots = new Map<string, Version[]>()
    for (const version of versions) {
      const hash = createHash('sha256').update(version.bytes).digest('hex')
      ballots.set(hash, [...(ballots.get(hash) ?? []), version])
    }
    const winners = [...ballots.values()].reduce((best, each) =>
      each.length > best.length ? each : best,
    )
    if (winners.length < this.#options.threshold) {
      this.#reportFailure(offset, length)
      throw new BlockError('IO', `${this.#name}: too few children agree on ${offset}+${length}`, {
        node: this.#name,
        offset,
        errno: 'EIO',
      })
    }
    const losers = versions.filter((version) => !winners.includes(version))
    const members = this.#members
    for (const { index } of losers) this.#reportBad('read', members[index].name, offset, length)
    if (this.#options.rewrite) {
      const mend = losers.map(async ({ index }) => {
        await members[index].layer.write(offset, winners[0].bytes, plainWriteIo)
      })
      // Who cannot be put right will be outvoted again.
      await Promise.allSettled(mend)
    }
    return winners[0].bytes
  }

  #reportBad(type: Verb, child: string, offset: number, length: number, error?: unknown): void {
    const reason = error === undefined ? undefined : strerror(errnoOf(error) ?? 'EIO')
    const message = { node: this.#name, child, type, error: reason, offset, length }
    badChildChannel.publish(message)
  }

  #reportFailure(offset: number, length: number): void {
    quorumFailureChannel.publish({ node: this.#name, offset, length })
  }
}

/** What one child has read. */
interface Version {
  readonly index: number
  readonly bytes: Uint8Array
}

function equal(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0
}

function mostCommon(errors: readonly unknown[]): unknown {
  const count = (error: unknown) =>
    errors.filter((other) => errnoOf(other) === errnoOf(error)).length
  return errors.reduce((best, error) => (count(error) > count(best) ? error : best))
}

/** What suits all children. */
function commonLimits(all: readonly Limits[]): Limits {
  const most = (pick: (limits: Limits) => number) => Math.max(...all.map(pick))
  const alignment = most((limits) => limits.alignment)
  const longest = Math.min(...all.map(({ maxTransfer }) => maxTransfer))
  return {
    alignment,
    memoryAlignment: most((limits) => limits.memoryAlignment),
    zeroAlignment: most((limits) => limits.zeroAlignment),
    discardAlignment: most((limits) => limits.discardAlignment),
    preferredLength: most((limits) => limits.preferredLength),
    maxTransfer: longest - (longest % alignment),
  }
}

export const quorum: BlockDriver<QuorumOptions> = {
  name: 'quorum',
  kind: 'filter',
  opening: { uses: noPermission, shares: permissionSet('consistentRead', 'writeUnchanged') },
  naming: {
    strong: ['vote-threshold', 'blkverify', 'rewrite-corrupted', 'read-pattern'],
    plain: 'none',
  },
  parse(options) {
    const reader = new OptionReader(options)
    const children = (reader.list('children') ?? []) as readonly NodeReference[]
    const threshold = reader.integer('vote-threshold') ?? 0
    const readPattern = reader.string('read-pattern') ?? 'quorum'
    const verify = reader.boolean('blkverify') ?? false
    const rewrite = reader.boolean('rewrite-corrupted') ?? false
    if (children.length < 1) throw invalid('Number of provided children must be 1 or more')
    if (threshold < 1) throw invalid("Parameter 'vote-threshold' expects a value >= 1")
    if (threshold > children.length) throw invalid('threshold may not exceed children count')
    const pattern = readPatterns.find((each) => each === readPattern)
    if (!pattern) throw invalid('Please set read-pattern as fifo or quorum')
    if (pattern === 'quorum' && verify && (children.length !== 2 || threshold !== 2)) {
      throw invalid(
        'blkverify=on can only be set if there are exactly two files and vote-threshold is 2',
      )
    }
    if (pattern === 'quorum' && verify && rewrite) {
      throw invalid('rewrite-corrupted=on cannot be used with blkverify=on')
    }
    reader.finish()
    return { children, threshold, readPattern: pattern, verify, rewrite }
  },
  async open(options, context) {
    const members: Member[] = []
    for (const [index, reference] of options.children.entries()) {
      const name = `children.${index}`
      members.push({ name, layer: await context.child('data', reference, name) })
    }
    const sizes = new Set(members.map(({ layer }) => layer.size))
    if (sizes.size > 1) throw invalid('Could not refresh total sector count: Input/output error')
    return new Quorum(members, options, context.name)
  },
}
