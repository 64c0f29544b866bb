/**
 * Lets requests fail, wait, or be cut smaller, by rules: for testing what is above. Data passes
 * unchanged. `docs/drivers/blkdebug.md` has the rules; `rule-book.ts` follows them.
 */
import diagnostics from 'node:diagnostics_channel'
import { constants } from 'node:os'
import { setImmediate } from 'node:timers/promises'
import type { DebugEvent } from '../../block/debug.ts'
import type { BlockDriver, NodeOptions } from '../../block/driver.ts'
import { Filter } from '../../block/filter.ts'
import type {
  BlockLayer,
  Completion,
  Extent,
  FlushIo,
  Io,
  Limits,
  WriteIo,
  ZeroIo,
} from '../../block/layer.ts'
import type { ChildRole, Permissions } from '../../block/permission.ts'
import { alignDown, alignUp } from '../../bytes/range.ts'
import { zeroes } from '../../bytes/zero.ts'
import { BlockError, strerror, systemError } from '../../errors.ts'
import { readConfig } from './config-file.ts'
import {
  type BlkdebugOptions,
  checkLimits,
  type LimitOverrides,
  parseBlkdebugFilename,
  parseBlkdebugOptions,
} from './options.ts'
import { RuleBook } from './rule-book.ts'
import { type InjectError, type IoType, parseRule } from './rule-options.ts'

/** Told when a request stops at a breakpoint and when it goes on: `{ node, kind, tag }`. */
export const breakpointChannel = diagnostics.channel('blkdebug:breakpoint')

class Blkdebug extends Filter {
  readonly breakpoints: RuleBook
  readonly debugEvent: (event: DebugEvent) => Completion
  readonly #name: string
  readonly #options: BlkdebugOptions
  /** Limits of the child, and what became of them. */
  #limits: { readonly below: Limits; readonly own: Limits } | undefined

  constructor(next: BlockLayer, options: BlkdebugOptions, name: string) {
    super(next)
    this.#name = name
    this.#options = options
    this.breakpoints = new RuleBook(options.rules, (news) =>
      breakpointChannel.publish({ node: name, ...news }),
    )
    this.debugEvent = (event) => this.breakpoints.happened(event)
  }

  override get limits(): Limits {
    const below = this.next.limits
    if (this.#limits?.below !== below) {
      this.#limits = { below, own: overridden(below, this.#options.limits) }
    }
    return this.#limits.own
  }

  override async read(offset: number, target: Uint8Array, io: Io): Promise<void> {
    await this.#check('read', offset, target.length)
    // The alignment may reach behind the end of a child with a smaller one.
    const inside = this.#inside(offset, target.length)
    target.fill(0, inside)
    if (inside > 0) await this.next.read(offset, target.subarray(0, inside), io)
  }

  override async write(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    await this.debugEvent('pwritev')
    try {
      await this.#write(offset, source, io)
    } finally {
      await this.debugEvent('pwritev_done')
    }
  }

  /** What is not aligned to `opt-write-zero` is written as bytes, the rest in pieces. */
  override async writeZeroes(offset: number, length: number, io: ZeroIo): Promise<void> {
    await this.debugEvent('pwritev_zero')
    try {
      const { optWriteZero, maxWriteZero } = this.#options.limits
      const unit = Math.max(optWriteZero, this.limits.alignment)
      const end = offset + length
      const middle = Math.min(end, alignUp(offset, unit))
      const middleEnd = Math.max(middle, alignDown(end, unit))
      if (io.fastOnly && (middle > offset || end > middleEnd)) throw this.#slow(offset, length)
      await this.#zeroBytes(offset, middle, io)
      for (const [at, part] of pieces(middle, middleEnd, maxWriteZero)) {
        await this.#check('write-zeroes', at, part)
        const inside = this.#inside(at, part)
        if (inside > 0) await this.next.writeZeroes(at, inside, io)
      }
      await this.#zeroBytes(middleEnd, end, io)
    } finally {
      await this.debugEvent('pwritev_done')
    }
  }

  override async discard(offset: number, length: number, io: Io): Promise<void> {
    const { maxDiscard } = this.#options.limits
    for (const [at, part] of pieces(offset, offset + length, maxDiscard)) {
      await this.#check('discard', at, part)
      const inside = this.#inside(at, part)
      if (inside > 0) await this.next.discard(at, inside, io)
    }
  }

  override async flush(io: FlushIo): Promise<void> {
    if (io.forWrite !== 'first') await this.#check('flush', 0, 0)
    await this.next.flush(io)
  }

  override async extentAt(offset: number, length: number, io: Io): Promise<Extent> {
    await this.#check('block-status', offset, length)
    return await this.next.extentAt(offset, length, io)
  }

  childPermissions(_role: ChildRole, needs: Permissions): Permissions {
    const { takePermissions, unsharePermissions } = this.#options
    const uses = new Set([...needs.uses, ...takePermissions])
    const shares = new Set(needs.shares)
    for (const permission of unsharePermissions) shares.delete(permission)
    return { uses, shares }
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    this.breakpoints.resumeAll()
  }

  async #write(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    await this.#check('write', offset, source.length)
    const inside = this.#inside(offset, source.length)
    if (inside > 0) await this.next.write(offset, source.subarray(0, inside), io)
  }

  async #zeroBytes(start: number, end: number, io: ZeroIo): Promise<void> {
    for (const [at, part] of pieces(start, end, zeroes.length)) {
      await this.#write(at, zeroes.subarray(0, part), io)
    }
  }

  #inside(offset: number, length: number): number {
    return Math.min(length, Math.max(0, this.next.size - offset))
  }

  /** Throws if a rule says that this request fails. */
  #check(type: IoType, offset: number, length: number): Completion {
    const rule = this.breakpoints.errorFor(type, offset, length)
    if (!rule) return
    const error = this.#injected(rule, type, offset)
    if (rule.immediately) throw error
    return setImmediate().then(() => {
      throw error
    })
  }

  #injected(rule: InjectError, type: IoType, offset: number): BlockError {
    const errno = errnoNames.get(rule.errno) ?? 'EIO'
    const what = `${this.#name}: ${type} at ${offset}: injected error`
    return systemError(new BlockError('IO', strerror(errno), { errno }), what, {
      node: this.#name,
      offset,
    })
  }

  #slow(offset: number, length: number): BlockError {
    const message = `${this.#name}: no fast way to zero ${offset}+${length}`
    return new BlockError('UNSUPPORTED', message, { node: this.#name, offset, errno: 'ENOTSUP' })
  }
}

const errnoNames: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.errno).map(([name, number]) => [number, name]),
)

/** Parts of at most `max` bytes (0: no limit), in order, as offset and length. */
function* pieces(start: number, end: number, max: number): Generator<[number, number]> {
  const step = max === 0 ? end - start : max
  for (let at = start; at < end; at += step) yield [at, Math.min(step, end - at)]
}

function overridden(below: Limits, limits: LimitOverrides): Limits {
  const alignment = Math.max(limits.align, below.alignment)
  const atLeast = (own: number) => alignUp(Math.max(own, alignment), alignment)
  const longest = alignDown(below.maxTransfer, alignment)
  return {
    ...below,
    alignment,
    maxTransfer: limits.maxTransfer === 0 ? longest : Math.min(limits.maxTransfer, longest),
    zeroAlignment: atLeast(limits.optWriteZero || below.zeroAlignment),
    discardAlignment: atLeast(limits.optDiscard || below.discardAlignment),
  }
}

const strongOptions = [
  'config',
  'inject-error',
  'set-state',
  'align',
  'max-transfer',
  'opt-write-zero',
  'max-write-zero',
  'opt-discard',
  'max-discard',
]

/** As `parseBlkdebugFilename` takes it. */
function plainName(
  { config = '', ...others }: NodeOptions,
  child: (name: string) => string | undefined,
): string | undefined {
  const image = child('image')
  if (image === undefined || Object.keys(others).length > 0) return undefined
  return `blkdebug:${config}:${image}`
}

export const blkdebug: BlockDriver<BlkdebugOptions> = {
  name: 'blkdebug',
  kind: 'filter',
  naming: { strong: strongOptions, plain: plainName },
  changeable: [],
  parse: parseBlkdebugOptions,
  parseFilename: parseBlkdebugFilename,
  async open(options, context) {
    const sections = options.config === undefined ? [] : await readConfig(options.config)
    const configured = sections.map(({ kind, section }) => parseRule(kind, section))
    const next = await context.child('filtered', options.image, 'image')
    checkLimits(options.limits, next.limits.alignment)
    const rules = [...configured, ...options.rules]
    return new Blkdebug(next, { ...options, rules }, context.name)
  },
}
