/**
 * Where an image keeps the state of a machine: behind the end of its disk, from the first L1 entry
 * on that describes nothing of the disk. The L1 table grows ahead of its use there.
 */
import type { StateArea } from '../../block/cluster-map.ts'
import { alignUp } from '../../bytes/range.ts'
import type { Qcow2Image } from './image.ts'
import { entrySize, type L2Layout } from './l2-table.ts'
import { maxL1Bytes } from './limits.ts'
import { growL1 } from './resize.ts'

/** Entries that the L1 table grows by at least, so that small clusters do not move it all the time. */
const growthStep = 512

export function stateArea(image: Qcow2Image): StateArea {
  const { layout } = image
  return {
    get offset() {
      return stateOffset(image.header.current.size, layout)
    },
    reaches: (end) => Math.ceil(end / layout.coverage) <= image.header.current.l1Size,
    extend: (end) => extend(image, Math.ceil(end / layout.coverage)),
  }
}

export function stateOffset(diskSize: number, { coverage }: L2Layout): number {
  return alignUp(diskSize, coverage)
}

async function extend(image: Qcow2Image, needed: number): Promise<void> {
  const { faults, corruption } = image
  corruption.refuse()
  const most = maxL1Bytes / entrySize
  if (needed > most) {
    throw faults.noSpace(`the L1 table would need ${needed} entries, and ${most} are the limit`)
  }
  const ample = Math.max(alignUp(needed, growthStep), Math.ceil(needed * 1.5))
  await growL1(image, Math.min(most, ample))
}
