/**
 * All that is wrong with an L2 entry that is left as it is, in the words of qemu-img and in its
 * order, and what the entry refers to nevertheless.
 */
import { hex64 } from '../faults.ts'
import { clusterOf, highOf, isCopied, type Kind, kind, type L2Layout, lowOf } from '../l2-table.ts'
import { allocatedOf, zeroOf } from '../subclusters.ts'

/** Bits of a standard entry that mean nothing: 56 to 61, and 1 to 8. */
const reservedHigh = 0x3f000000
const reservedLow = 0x1fe
const copiedHigh = 0x80000000

export interface Judgement {
  readonly messages: readonly string[]
  /** The entry as it is followed; both 0 when it is not. */
  readonly high: number
  readonly low: number
  /** What it referred to is not known. */
  readonly lost: boolean
}

/** `own`: where the cluster lies on the disk, which is its place in a data file. */
export function judgeEntry(
  view: DataView,
  index: number,
  layout: L2Layout,
  own: number,
): Judgement {
  const high = highOf(view, layout.wordOf(index))
  const low = lowOf(view, layout.wordOf(index))
  if (layout.kindOf(high, low) === kind.compressed) return judgeCompressed(view, index, layout)
  const messages: string[] = []
  if ((high & reservedHigh) !== 0 || (low & reservedLow) !== 0) {
    messages.push(`found l2 entry with reserved bits set: ${hex64(high, low)}`)
  }
  const clean = { high: (high & ~reservedHigh) >>> 0, low: (low & ~reservedLow) >>> 0 }
  const entryKind = layout.kindOf(clean.high, clean.low)
  if (layout.extended) {
    const allocated = allocatedOf(view, index)
    if (entryKind === kind.unallocated) {
      if (allocated !== 0) {
        messages.push(': Unallocated cluster has non-zero subcluster allocation map')
      }
    } else if ((allocated & zeroOf(view, index)) !== 0) {
      messages.push(
        `${placeOf(clean)}: Allocated cluster has corrupted subcluster allocation bitmap`,
      )
    }
  }
  if (entryKind !== kind.data && entryKind !== kind.zeroAllocated) {
    return { messages, ...clean, lost: false }
  }
  const offset = clusterOf(clean.high, clean.low)
  if (offset % layout.clusterSize !== 0) {
    const what = hasData(view, index, entryKind, layout) ? 'Data' : 'Preallocated'
    messages.push(`${placeOf(clean)}: ${what} cluster is not properly aligned; L2 entry corrupted.`)
  } else if (layout.external && offset !== own) {
    messages.push(
      `${placeOf(clean)}: Data cluster does not lie where it does on the disk; L2 entry corrupted.`,
    )
  }
  return { messages, ...clean, lost: offset % layout.clusterSize !== 0 }
}

/** Of subclusters the bits say whether any of them has data. */
function hasData(view: DataView, index: number, entryKind: Kind, layout: L2Layout): boolean {
  return layout.extended ? allocatedOf(view, index) !== 0 : entryKind === kind.data
}

function placeOf({ high, low }: { high: number; low: number }): string {
  return `offset=${clusterOf(high, low).toString(16)}`
}

function judgeCompressed(view: DataView, index: number, layout: L2Layout): Judgement {
  const messages: string[] = []
  let high = highOf(view, layout.wordOf(index))
  const low = lowOf(view, layout.wordOf(index))
  if (isCopied(high)) {
    const place = layout.exactCompressedOffset(high, low).toString(16)
    messages.push(`: coffset=0x${place}: copied flag must never be set for compressed clusters`)
    high -= copiedHigh
  }
  if (layout.external) {
    messages.push(`compressed cluster ${index} with data file, entry=0x${hex64(high, low)}`)
    return { messages, high: 0, low: 0, lost: true }
  }
  if (layout.extended && (allocatedOf(view, index) !== 0 || zeroOf(view, index) !== 0)) {
    messages.push(
      `compressed cluster ${index} with non-zero subcluster allocation bitmap, ` +
        `entry=0x${hex64(high, low)}`,
    )
    return { messages, high: 0, low: 0, lost: true }
  }
  return { messages, high, low, lost: false }
}
