/** The image as its writer and reader use it, and how it is made and opened. */
import type { VmState } from '../../block/abilities.ts'
import type { BlockLayer } from '../../block/layer.ts'

export interface SnapshotImage extends AsyncDisposable {
  /** For messages. */
  readonly name: string
  /** The disk: RAM. */
  readonly ram: Pick<BlockLayer, 'size' | 'read' | 'write' | 'flush' | 'compressed'>
  readonly state: VmState
}
