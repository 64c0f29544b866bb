/** All references, nothing mended and nothing reported, so that a repair sees what is whose. */
import { type CheckedImage, References } from './references.ts'
import { Report } from './report.ts'
import type { StoredCounts } from './stored-counts.ts'

export async function look(image: CheckedImage, stored: StoredCounts): Promise<References> {
  const references = await References.count(image, new Report(), {
    stored: stored.counts,
    mend: undefined,
    blocks: [],
    anyBitmaps: true,
  })
  const clusterSize = 2 ** image.header.clusterBits
  for (const offset of stored.blocks.values()) references.region(offset, clusterSize, 1)
  return references
}
