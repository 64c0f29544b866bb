/** Writes all data compressed, in whole clusters of a format that can. */

import type { CompressedWriter } from '../block/abilities.ts'
import type { BlockDriver, NodeReference } from '../block/driver.ts'
import { Filter } from '../block/filter.ts'
import type { BlockLayer, Io, Limits, WriteIo } from '../block/layer.ts'
import { parseFileOnly } from '../block/options.ts'
import { alignDown, alignUp } from '../bytes/range.ts'
import { BlockError } from '../errors.ts'

class Compress extends Filter {
  /** Limits of the child, and with the cluster as the alignment. */
  #limits: { readonly below: Limits; readonly own: Limits } | undefined

  override get limits(): Limits {
    const below = this.next.limits
    if (this.#limits?.below !== below) {
      this.#limits = { below, own: inClusters(below, this.#writer.unit) }
    }
    return this.#limits.own
  }

  get compressed(): CompressedWriter | undefined {
    return this.next.compressed
  }

  override async read(offset: number, target: Uint8Array, io: Io): Promise<void> {
    // The disk may end inside a cluster.
    const inside = Math.min(target.length, Math.max(0, this.size - offset))
    target.fill(0, inside)
    if (inside > 0) await this.next.read(offset, target.subarray(0, inside), io)
  }

  override async write(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    const { unit, write } = this.#writer
    const length = Math.min(source.length, this.size - offset)
    for (let at = 0; at < length; at += unit) {
      await write(offset + at, source.subarray(at, Math.min(at + unit, length)), io)
    }
  }

  override async writeZeroes(
    ...[offset, length, io]: Parameters<Filter['writeZeroes']>
  ): Promise<void> {
    await this.next.writeZeroes(offset, Math.min(length, this.size - offset), io)
  }

  get #writer(): CompressedWriter {
    const { compressed } = this.next
    if (compressed) return compressed
    throw unsupported(this.next)
  }
}

function inClusters(below: Limits, unit: number): Limits {
  const alignment = Math.max(unit, below.alignment)
  return {
    ...below,
    alignment,
    zeroAlignment: alignUp(below.zeroAlignment, alignment),
    discardAlignment: alignUp(below.discardAlignment, alignment),
    maxTransfer: Math.max(alignment, alignDown(below.maxTransfer, alignment)),
  }
}

function unsupported({ driver = '' }: BlockLayer): BlockError {
  return new BlockError(
    'UNSUPPORTED',
    `Compression is not supported for underlying format: ${driver}`,
    { errno: 'ENOTSUP' },
  )
}

export const compress: BlockDriver<{ readonly file: NodeReference }> = {
  name: 'compress',
  kind: 'filter',
  naming: { strong: [], plain: 'none' },
  parse: parseFileOnly,
  async open({ file }, context) {
    const next = await context.child('filtered', file)
    if (!next.compressed) throw unsupported(next)
    return new Compress(next)
  },
}
