/** Writing right counts and flags over wrong ones, where they are. */
import { plainIo } from '../../../block/layer.ts'
import { viewOf } from '../../../bytes/view.ts'
import { hex64 } from '../faults.ts'
import {
  clusterOf,
  entrySize,
  highOf,
  isCopied,
  kind,
  L2Layout,
  lowOf,
  offsetOf,
  setCopied,
  setEntry,
  setShared,
} from '../l2-table.ts'
import { hostOffset } from '../offsets.ts'
import type { Counts } from './counts.ts'
import type { CheckedImage } from './references.ts'
import type { Report } from './report.ts'
import type { StoredCounts } from './stored-counts.ts'

/** Sets counts of clusters, in ascending order, whose blocks exist. */
export async function writeCounts(
  { file, header }: CheckedImage,
  { blocks, layout }: StoredCounts,
  values: readonly (readonly [cluster: number, count: number])[],
): Promise<void> {
  const block = new Uint8Array(2 ** header.clusterBits)
  for (let at = 0; at < values.length; ) {
    const index = Math.floor(values[at][0] / layout.entries)
    const offset = blocks.get(index)!
    await file.read(offset, block, plainIo)
    for (; at < values.length && Math.floor(values[at][0] / layout.entries) === index; at++) {
      layout.set(viewOf(block), values[at][0] % layout.entries, values[at][1])
    }
    await file.write(offset, block)
  }
}

/** Makes the flags of the active tables say which clusters have one reference; or says which do not. */
export async function mendCopiedFlags(
  image: CheckedImage,
  report: Report,
  counts: Counts,
  mend: boolean,
): Promise<void> {
  const { file, header } = image
  const layout = new L2Layout(header)
  const l1 = new Uint8Array(header.l1Size * entrySize)
  await file.read(header.l1TableOffset, l1, plainIo)
  const view = viewOf(l1)
  const mender = new FlagMender(layout, report, counts, mend)
  for (let index = 0; index < header.l1Size; index++) {
    const high = highOf(view, index)
    const low = lowOf(view, index)
    const offset = offsetOf(high, low)
    if (offset === 0 || offset % layout.clusterSize !== 0 || offset >= file.size) continue
    if (mender.mendL1(view, index, offset)) {
      await file.write(
        header.l1TableOffset + index * entrySize,
        l1.subarray(index * 8, index * 8 + 8),
      )
    }
    const table = new Uint8Array(layout.clusterSize)
    await file.read(offset, table, plainIo)
    if (mender.mendL2(viewOf(table))) await file.write(offset, table)
  }
  await file.flush()
}

class FlagMender {
  readonly #layout: L2Layout
  readonly #report: Report
  readonly #counts: Counts
  readonly #mend: boolean

  constructor(layout: L2Layout, report: Report, counts: Counts, mend: boolean) {
    this.#layout = layout
    this.#report = report
    this.#counts = counts
    this.#mend = mend
  }

  mendL1(view: DataView, index: number, offset: number): boolean {
    const high = highOf(view, index)
    const what = (count: number) =>
      `OFLAG_COPIED L2 cluster: l1_index=${index} l1_entry=${hex64(high, lowOf(view, index))} refcount=${count}`
    const own = this.#judge(isCopied(high), offset, what)
    if (own === undefined) return false
    if (own) setCopied(view, index, hostOffset(offset))
    else setShared(view, index, hostOffset(offset))
    return true
  }

  /** Whether anything was changed. */
  mendL2(view: DataView): boolean {
    let changed = false
    for (let index = 0; index < this.#layout.entries; index++) {
      const word = this.#layout.wordOf(index)
      const high = highOf(view, word)
      const low = lowOf(view, word)
      if (high === 0 && low === 0) continue
      // Where data has a file of its own no count is asked, so QEMU tells of the flags of what is broken.
      const judged = this.#layout.external && !this.#mend
      if (!judged && this.#layout.faultOf(high, low) !== undefined) continue
      const entryKind = this.#layout.kindOf(high, low)
      if (entryKind !== kind.data && entryKind !== kind.zeroAllocated) continue
      const what = (count: number) =>
        `OFLAG_COPIED data cluster: l2_entry=${hex64(high, low)} refcount=${count}`
      const own = this.#judge(isCopied(high), clusterOf(high, low), what, !this.#layout.external)
      if (own === undefined) continue
      setEntry(view, word, own ? high + 2 ** 31 : high - 2 ** 31, low)
      changed = true
    }
    return changed
  }

  /** Reports a flag that is wrong; what it is to be if it is mended. */
  #judge(
    copied: boolean,
    offset: number,
    what: (count: number) => string,
    counted = true,
  ): boolean | undefined {
    const count = counted ? this.#counts.get(offset / this.#layout.clusterSize) : 1
    const own = count === 1
    if (copied === own) return undefined
    this.#report.corruption(what(count), this.#mend)
    return this.#mend ? own : undefined
  }
}
