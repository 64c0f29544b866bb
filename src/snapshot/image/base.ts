/** The snapshot that another one builds on, sharing its pages. */
import { BlockError } from '../../errors.ts'
import type { RamList } from '../stream/stream-item.ts'
import type { SnapshotReader } from './snapshot-reader.ts'
import type { WriterOptions } from './snapshot-writer.ts'

/** Throws when the snapshot cannot be built on. It stays its owner's, until the new one is committed. */
export async function baseOf(
  snapshot: SnapshotReader,
): Promise<NonNullable<WriterOptions['base']>> {
  const { sums, record, name } = snapshot
  if (!sums || !record) {
    throw new BlockError('UNSUPPORTED', `${name}: a snapshot without checksums is no base`)
  }
  return {
    id: record.id,
    sums: await sums.whole(),
    read: (offset, target) => snapshot.read(offset, target),
    checkSame: (list) => checkSame(list, snapshot),
  }
}

/** Pages are shared by their place. */
function checkSame(list: RamList, { parts, name }: SnapshotReader): void {
  const shapeOf = ({ blocks, pageSize }: RamList) =>
    JSON.stringify([pageSize, blocks.map((block) => [block.name, block.usedLength])])
  if (shapeOf(list) === shapeOf(parts.ramList)) return
  throw new BlockError(
    'INVALID_ARGUMENT',
    `${name}: its RAM is of another shape (machine, size of memory, devices), so it is no base`,
  )
}
