/**
 * Dropping all data of an overlay. The L1 entries are cleared, and what they led to is let go of
 * when that is on stable storage: a crash leaves some tables still in place, whose clusters show
 * the same as the backing file into which they were committed, and at worst a leak.
 */
import type { Io } from '../../block/layer.ts'
import type { Qcow2Image } from './image.ts'
import { dropBehind, shortenFile } from './resize.ts'

/** Runs alone. Clusters that snapshots use as well stay theirs. */
export async function makeEmpty(image: Qcow2Image, io: Io): Promise<void> {
  if (image.readOnly) {
    throw image.faults.refuse('READ_ONLY', 'a read-only image cannot be emptied')
  }
  await dropBehind(image, 0, io)
  await image.writeBack.flushChanges()
  await shortenFile(image)
}
