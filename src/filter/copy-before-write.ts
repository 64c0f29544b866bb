/**
 * Keeps the disk of the moment it was inserted: before a write, write-zeroes or discard reaches
 * the source, the clusters that it touches are copied to the target. Reads and flushes pass by.
 *
 * When a copy fails, one side has to give way: the guest's write (`break-guest-write`), or the
 * snapshot (`break-snapshot`), which is then no longer complete, while the guest goes on.
 */

import type { PreservedDisk } from '../block/abilities.ts'
import { BlockCopy, type BlockCopyOptions } from '../block/block-copy.ts'
import type { DiskCopy } from '../block/disk-copy.ts'
import type { BlockDriver, NodeOptions, NodeReference, OpenContext } from '../block/driver.ts'
import { Filter } from '../block/filter.ts'
import {
  type BlockLayer,
  type Completion,
  type Extent,
  type Io,
  plainIo,
  type WriteIo,
  type ZeroIo,
} from '../block/layer.ts'
import { missing, OptionReader } from '../block/options.ts'
import type { ChildRole, Needs, Permissions } from '../block/permission.ts'
import { BlockError } from '../errors.ts'

export type OnCopyError = 'break-guest-write' | 'break-snapshot'

export interface CopyBeforeWriteOptions {
  readonly file: NodeReference
  readonly target: NodeReference
  readonly onCopyError: OnCopyError
  /** Milliseconds that a guest write waits for its copy; 0: as long as it takes. */
  readonly timeoutMs: number
  /** Only what is dirty in it, when the filter is opened, is kept; everything unless given. */
  readonly bitmap?: { readonly node: string; readonly name: string }
}

/** Smallest unit of copying, in bytes. */
export const minCopyCluster = 64 * 1024

/** The unit of copying to a target, in bytes. */
export function copyClusterSize({ image }: Pick<BlockLayer, 'image'>): number {
  return Math.max(minCopyCluster, image?.clusterSize ?? 0)
}

/** For jobs: what the options of the driver do not say. */
export interface CopyMaking {
  readonly compress?: boolean
  /** A node that `makeCopy` gets for what is on its way to the target. */
  readonly spill?: NodeReference
  /** Makes the copy; one whose target shows the disk of the moment unless given. */
  readonly makeCopy?: (options: BlockCopyOptions, spill: BlockLayer | undefined) => DiskCopy
}

export class CopyBeforeWrite extends Filter {
  readonly copy: DiskCopy
  /** The same, where the target shows what is kept. */
  readonly #shown: BlockCopy | undefined
  readonly #target: BlockLayer
  readonly #onCopyError: OnCopyError
  readonly #timeoutMs: number
  /** Why the snapshot is no longer complete. */
  #broken: { readonly error: unknown } | undefined
  /** Told once, when a copy fails and the snapshot gives way. */
  onBroken: (error: unknown) => void = () => {}

  constructor(
    source: BlockLayer,
    target: BlockLayer,
    options: Omit<CopyBeforeWriteOptions, 'file' | 'target'> & CopyMaking,
    spill?: BlockLayer,
  ) {
    super(source)
    const clusterSize = copyClusterSize(target)
    const copyOptions = { source, target, clusterSize, compress: options.compress }
    if (options.makeCopy) this.copy = options.makeCopy(copyOptions, spill)
    else this.copy = this.#shown = new BlockCopy(copyOptions)
    this.#target = target
    this.#onCopyError = options.onCopyError
    this.#timeoutMs = options.timeoutMs
  }

  /** The disk of the moment, for `snapshot-access`. */
  get preserved(): PreservedDisk | undefined {
    const copy = this.#shown
    if (!copy) return undefined
    return {
      size: copy.size,
      read: (offset, target, io) => this.#readPreserved(copy, offset, target, io),
      extentAt: (offset, length, io) =>
        copy.whileFixed(offset, length, io, async (inside, copied) => {
          this.#checkKept()
          const side = copied ? this.#target : this.next
          return shown(await side.extentAt(offset, inside, io), copied)
        }),
      discard: (offset, length, io) =>
        copy.forget(offset, length, io, (at, bytes) => this.#target.discard(at, bytes, io)),
    }
  }

  override write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    if (io.unchanged || !this.#mustCopy(offset, source.length)) {
      return this.next.write(offset, source, io)
    }
    return this.#preserve(offset, source.length, io).then(() => this.next.write(offset, source, io))
  }

  override writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    if (io.unchanged || !this.#mustCopy(offset, length)) {
      return this.next.writeZeroes(offset, length, io)
    }
    return this.#preserve(offset, length, io).then(() => this.next.writeZeroes(offset, length, io))
  }

  override discard(offset: number, length: number, io: Io): Completion {
    if (!this.#mustCopy(offset, length)) return this.next.discard(offset, length, io)
    return this.#preserve(offset, length, io).then(() => this.next.discard(offset, length, io))
  }

  /** What would be cut off is copied first. */
  override truncate(size: number, io: Io): Completion {
    const lost = this.copy.size - size
    if (lost <= 0 || !this.#mustCopy(size, lost)) return this.next.truncate(size, io)
    return this.#preserve(size, lost, io).then(() => this.next.truncate(size, io))
  }

  /**
   * Until somebody uses the filter it stands beside the graph and asks nothing of the source. From
   * then on nobody writes to the source behind its back.
   */
  childPermissions(role: ChildRole, needs: Needs): Permissions | undefined {
    if (role !== 'filtered' || !needs.used) return undefined
    const uses = new Set(needs.uses)
    if (uses.has('write')) uses.add('consistentRead')
    const shares = new Set(needs.shares)
    shares.delete('write')
    shares.delete('resize')
    return { uses, shares }
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await this.copy.idle()
  }

  async #readPreserved(copy: BlockCopy, offset: number, target: Uint8Array, io: Io): Promise<void> {
    for (let at = 0; at < target.length; ) {
      const from = offset + at
      at += await copy.whileFixed(from, target.length - at, io, async (length, copied) => {
        const side = copied ? this.#target : this.next
        await side.read(from, target.subarray(at, at + length), io)
        // Meanwhile a guest may have overwritten what could not be copied.
        this.#checkKept()
        return length
      })
    }
  }

  #checkKept(): void {
    if (!this.#broken) return
    throw new BlockError('PERMISSION', 'the snapshot is no longer complete', {
      errno: 'EACCES',
      cause: this.#broken.error,
    })
  }

  #mustCopy(offset: number, length: number): boolean {
    return this.#broken === undefined && this.copy.pending(offset, length)
  }

  /** Copies what a guest request is about to change; the request waits for no other range. */
  async #preserve(offset: number, length: number, io: Io): Promise<void> {
    try {
      await this.#copyInTime(offset, length, io)
    } catch (error) {
      if (io.signal.aborted) throw error
      if (this.#onCopyError === 'break-guest-write') throw error
      if (this.#broken) return
      this.#broken = { error }
      this.onBroken(error)
    }
  }

  async #copyInTime(offset: number, length: number, io: Io): Promise<void> {
    if (this.#timeoutMs === 0) return await this.copy.preserve(offset, length, io)
    const signal = AbortSignal.any([io.signal, AbortSignal.timeout(this.#timeoutMs)])
    await this.copy.preserve(offset, length, { ...plainIo, signal })
  }
}

/**
 * A run as `snapshot-access` shows it: there is no backing file to refer to. What the target was
 * given and has not allocated are zeroes; of the source it is not known here.
 */
function shown({ kind, offset, length, ...rest }: Extent, copied: boolean): Extent {
  if (kind !== 'backing') return { kind, offset, length, ...rest } as Extent
  return copied
    ? { kind: 'zero', offset, length, allocated: true }
    : { kind: 'data', offset, length }
}

export const copyBeforeWrite: BlockDriver<CopyBeforeWriteOptions> = {
  name: 'copy-before-write',
  kind: 'filter',
  naming: { strong: [], plain: 'child' },
  parse(options) {
    const reader = new OptionReader(options)
    const parsed = {
      file: reader.take('file') as NodeReference,
      target: reader.take('target') as NodeReference,
      onCopyError:
        reader.oneOf('on-cbw-error', ['break-guest-write', 'break-snapshot']) ??
        ('break-guest-write' as const),
      timeoutMs: (reader.integer('cbw-timeout') ?? 0) * 1000,
      bitmap: takeBitmap(reader),
    }
    reader.finish()
    if (parsed.file === undefined) throw missing('file')
    if (parsed.target === undefined) throw missing('target')
    return parsed
  },
  async open(options, context) {
    const layer = await openCopyBeforeWrite(options, context)
    const { todo } = layer.copy
    const { bitmap } = options
    const found = bitmap && context.bitmap?.(bitmap.node, bitmap.name)
    if (found) layer.copy.select(found)
    else todo.add(0, todo.capacity)
    return layer
  },
}

function takeBitmap(reader: OptionReader): CopyBeforeWriteOptions['bitmap'] {
  const given = reader.take('bitmap')
  if (given === undefined) return undefined
  const bitmap = new OptionReader(given as NodeOptions)
  const node = bitmap.string('node')
  const name = bitmap.string('name')
  bitmap.finish()
  if (node === undefined) throw missing('node')
  if (name === undefined) throw missing('name')
  return { node, name }
}

/** The filter with nothing to be copied yet: its user says what. */
export async function openCopyBeforeWrite(
  options: CopyBeforeWriteOptions & CopyMaking,
  context: OpenContext,
): Promise<CopyBeforeWrite> {
  // A target may be smaller: what is worth keeping may fit, and what does not is an error of copying.
  const target = await context.child('target', options.target)
  const source = await context.child('filtered', options.file)
  const spill =
    options.spill === undefined ? undefined : await context.child('target', options.spill, 'spill')
  return new CopyBeforeWrite(source, target, options, spill)
}
