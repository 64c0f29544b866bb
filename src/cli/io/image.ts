/** The image that a session works on, with what the tool adds to a node. */
import type { VmState } from '../../block/abilities.ts'
import {
  type Extent,
  type Preallocation,
  plainIo,
  plainWriteIo,
  type WriteIo,
  type ZeroIo,
} from '../../block/layer.ts'
import { alignUp, isAligned } from '../../bytes/range.ts'
import { drivers } from '../../drivers.ts'
import { BlockError, invalid } from '../../errors.ts'
import type { Edge } from '../../graph/edge.ts'
import type { BlockNode } from '../../graph/node.ts'
import type { NamedIo } from '../command.ts'
import { parseOptionString } from '../keyval.ts'
import { type CacheMode, cacheMode } from '../open-image.ts'
import { type Opened, openGraph } from './open-graph.ts'
import { CommandError } from './outcome.ts'
import { sectorSize } from './request.ts'

export interface ImageSettings {
  readonly filename?: string
  /** `-o`: options of the image's node, or all of the image when there is no `filename`. */
  readonly optionString?: string
  /** `filename` is an option string. */
  readonly imageOpts?: boolean
  readonly format?: string
  readonly readOnly: boolean
  /** `-s`: writes go to a temporary overlay. */
  readonly snapshot: boolean
  readonly copyOnRead: boolean
  readonly forceShare: boolean
  readonly cache: CacheMode
  readonly aio: string
  readonly unmap: boolean
}

/** What `reopen` can change. */
export interface Changes {
  readonly readOnly?: boolean
  readonly cache?: CacheMode
  readonly optionString?: string
}

/** The settings that `open` and the command line have in common, by the letters of their options. */
export function settingsFromOptions(
  options: ReadonlyMap<string, string>,
  io: NamedIo,
): ImageSettings {
  const refuse = (what: string, value: string) =>
    new CommandError(`${io.program}: Invalid ${what} option: ${value}`, 'stderr')
  const cacheName = options.get('t') ?? (options.has('n') ? 'none' : 'writethrough')
  const cache = cacheMode(cacheName)
  if (!cache) throw refuse('cache', cacheName)
  const named = options.get('i') ?? 'threads'
  if (!['threads', 'native', 'io_uring'].includes(named)) throw refuse('aio', named)
  const aio = options.has('k') ? 'native' : named
  const discard = options.get('d') ?? 'unmap'
  if (!['ignore', 'off', 'unmap', 'on'].includes(discard)) throw refuse('discard', discard)
  return {
    readOnly: options.has('r'),
    snapshot: options.has('s'),
    copyOnRead: options.has('C'),
    forceShare: options.has('U'),
    cache,
    aio,
    unmap: discard === 'unmap' || discard === 'on',
  }
}

export class OpenedImage implements AsyncDisposable {
  readonly #io: NamedIo
  #settings: ImageSettings
  #opened: Opened

  private constructor(io: NamedIo, settings: ImageSettings, opened: Opened) {
    this.#io = io
    this.#settings = settings
    this.#opened = opened
  }

  static async open(settings: ImageSettings, io: NamedIo): Promise<OpenedImage> {
    return new OpenedImage(io, settings, await openGraph(settings, io))
  }

  get node(): BlockNode {
    return this.#opened.node
  }

  get readOnly(): boolean {
    return this.node.readOnly
  }

  /** Bytes, in whole sectors: a file that ends inside one is filled up with zeroes. */
  get size(): number {
    return alignUp(this.node.size, sectorSize)
  }

  /** Throws `OUT_OF_RANGE` unless the range lies inside the disk. */
  checkRange(offset: number, length: number): void {
    if (offset + length <= this.size) return
    if (this.node.layer.medium?.wasInserted === false) {
      throw new BlockError('IO', 'no medium', { errno: 'ENOMEDIUM' })
    }
    throw new BlockError(
      'OUT_OF_RANGE',
      `${offset}+${length} reaches behind the end at ${this.size}`,
      { offset, errno: 'EIO' },
    )
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    const inside = Math.min(target.length, Math.max(0, this.node.size - offset))
    target.fill(0, inside)
    if (inside > 0 && this.#settings.copyOnRead) await this.#copyUp(offset, inside)
    if (inside > 0) await this.#edge.read(offset, target.subarray(0, inside))
  }

  async write(offset: number, source: Uint8Array, io: Pick<WriteIo, 'fua'>): Promise<void> {
    await this.#fillLastSector(offset + source.length)
    await this.#edge.write(offset, source, { fua: this.#fua(io) })
  }

  async writeZeroes(
    offset: number,
    length: number,
    io: Pick<ZeroIo, 'fua' | 'mayUnmap' | 'fastOnly'>,
  ): Promise<void> {
    await this.#fillLastSector(offset + length)
    await this.#edge.writeZeroes(offset, length, { ...io, fua: this.#fua(io) })
  }

  /** The state of a machine, behind the disk. Throws `UNSUPPORTED` where the format has no place. */
  async readState(offset: number, target: Uint8Array): Promise<void> {
    await this.#vmState.read(offset, target, plainIo)
  }

  async writeState(offset: number, source: Uint8Array): Promise<void> {
    await this.#vmState.write(offset, source, plainWriteIo)
    if (this.#fua({ fua: false })) await this.#edge.flush()
  }

  get #vmState(): VmState {
    const { vmState } = this.#edge
    if (vmState) return vmState
    const message = `${this.node.driver} keeps no state of a machine`
    throw new BlockError('UNSUPPORTED', message, { errno: 'ENOTSUP' })
  }

  /** Throws `UNSUPPORTED` where the format compresses nothing. */
  async writeCompressed(offset: number, source: Uint8Array): Promise<void> {
    const { compressed } = this.#edge
    if (!compressed) {
      throw new BlockError('UNSUPPORTED', `${this.node.driver} does not compress`, {
        errno: 'ENOTSUP',
      })
    }
    const { unit } = compressed
    const end = offset + source.length
    if (!isAligned(offset, unit) || !(isAligned(end, unit) || end === this.node.size)) {
      throw new BlockError('INVALID_ARGUMENT', `only units of ${unit} bytes can be compressed`, {
        offset,
        errno: 'EINVAL',
      })
    }
    const io = { signal: new AbortController().signal, fua: false, unchanged: false }
    for (let at = 0; at < source.length; at += unit) {
      await compressed.write(offset + at, source.subarray(at, at + unit), io)
    }
    if (this.#settings.cache.writethrough) await this.flush()
  }

  async discard(offset: number, length: number): Promise<void> {
    const inside = Math.min(length, Math.max(0, this.node.size - offset))
    if (inside > 0) await this.#edge.discard(offset, inside)
  }

  async flush(): Promise<void> {
    await this.#edge.flush()
  }

  async truncate(size: number, preallocation: Preallocation): Promise<void> {
    await this.#opened.resizing().truncate(size, { preallocation })
  }

  /** Runs of what this image has, or leaves to its backing file; neighbours of a kind joined. */
  async *allocation(offset: number, length: number): AsyncGenerator<AllocationRun> {
    const end = offset + length
    let run: AllocationRun | undefined
    for (let at = offset; at < end; ) {
      const next = await this.#allocationAt(at, end - at)
      at += next.length
      if (run && run.allocated === next.allocated) {
        run = { ...run, length: run.length + next.length }
      } else {
        if (run) yield run
        run = next
      }
    }
    if (run) yield run
  }

  /** Opens the image anew with other options; when that fails, as it was. */
  async reopen(changes: Changes): Promise<void> {
    if (this.#settings.snapshot) {
      throw new BlockError('UNSUPPORTED', 'an image with a temporary overlay cannot be reopened')
    }
    if (changes.cache && /(^|,)cache\./.test(changes.optionString ?? '')) {
      throw new BlockError('INVALID_ARGUMENT', 'Cannot set both -c and the cache options')
    }
    const settings = this.#pinned(changed(this.#settings, changes))
    if (settings.copyOnRead && settings.readOnly) {
      throw invalid(`Can't set node '${this.node.name}' to r/o with copy-on-read enabled`)
    }
    const options = {
      ...this.#opened.options,
      ...(this.#isProbed && this.node.driver === 'raw' ? { 'x-probed': 'on' } : {}),
      ...changedOptions(changes.optionString, this.node),
    }
    await this.#opened[Symbol.asyncDispose]()
    try {
      this.#opened = await openGraph(settings, this.#io, options)
      this.#settings = settings
    } catch (error) {
      this.#opened = await openGraph(this.#settings, this.#io, this.#opened.options)
      throw error
    }
  }

  /** What was found out about the format once is not asked again. */
  #pinned(settings: ImageSettings): ImageSettings {
    return this.#isProbed ? { ...settings, format: this.node.driver } : settings
  }

  get #isProbed(): boolean {
    const { filename, format, imageOpts, optionString } = this.#settings
    const named = imageOpts || format !== undefined || optionString !== undefined
    return filename !== undefined && !filename.startsWith('json:') && !named
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#opened[Symbol.asyncDispose]()
  }

  /** `-C`. That a copy cannot be kept does not fail the read. */
  async #copyUp(offset: number, length: number): Promise<void> {
    try {
      await this.#edge.populate(offset, length)
    } catch (error) {
      if (!(error instanceof BlockError)) throw error
    }
  }

  get #edge(): Edge {
    return this.#opened.edge
  }

  #fua(io: Pick<WriteIo, 'fua'>): boolean {
    return io.fua || this.#settings.cache.writethrough
  }

  async #fillLastSector(end: number): Promise<void> {
    if (end > this.node.size) await this.#opened.resizing().truncate(this.size)
  }

  async #allocationAt(offset: number, length: number): Promise<AllocationRun> {
    const inside = Math.min(length, this.node.size - offset)
    if (inside <= 0) return { offset, length, allocated: true }
    const run: Extent = await this.#edge.extentAt(offset, inside)
    return { offset, length: run.length, allocated: run.kind !== 'backing' }
  }
}

export interface AllocationRun {
  readonly offset: number
  readonly length: number
  readonly allocated: boolean
}

function changed(settings: ImageSettings, changes: Changes): ImageSettings {
  return {
    ...settings,
    readOnly: changes.readOnly ?? settings.readOnly,
    cache: changes.cache ?? settings.cache,
  }
}

/** Options that `reopen -o` can change, besides those that the driver names. */
const changeable = ['cache.direct', 'cache.no-flush', 'discard', 'detect-zeroes']

function changedOptions(
  text: string | undefined,
  node: BlockNode,
): Readonly<Record<string, string>> {
  if (text === undefined) return {}
  const { driver = node.driver, ...options } = parseOptionString(text).options
  const names = Object.keys(options)
  if (driver !== node.driver) names.unshift('driver')
  const own = drivers.find(({ name }) => name === node.driver)?.changeable ?? []
  for (const name of names) {
    if (!changeable.includes(name) && !own.includes(name)) {
      throw new BlockError('UNSUPPORTED', `Cannot change the option '${name}'`)
    }
  }
  return options
}
