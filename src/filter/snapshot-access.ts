/**
 * Shows the disk that a copy-before-write node keeps: what has been overwritten is read from its
 * target, all else from its source. So the disk of one moment can be read, exported and backed up
 * while a guest goes on writing.
 */

import type { PreservedDisk } from '../block/abilities.ts'
import type { BlockDriver, NodeReference } from '../block/driver.ts'
import type { BlockLayer, Capabilities, Completion, Extent, Io, Limits } from '../block/layer.ts'
import { parseFileOnly } from '../block/options.ts'
import {
  type ChildRole,
  everyPermission,
  noPermission,
  type Permissions,
} from '../block/permission.ts'
import { GiB, MiB } from '../bytes/range.ts'
import { unsupported } from '../errors.ts'

class SnapshotAccess implements BlockLayer {
  readonly size: number
  readonly capabilities: Capabilities = {
    write: true,
    resize: false,
    backing: false,
    fua: 'none',
    writeZeroes: 'native',
    discard: 'native',
    extents: 'native',
    zeroInit: false,
  }
  readonly limits: Limits = {
    alignment: 1,
    memoryAlignment: 1,
    zeroAlignment: 1,
    discardAlignment: 1,
    preferredLength: MiB,
    maxTransfer: GiB,
  }
  readonly #file: BlockLayer

  constructor(file: BlockLayer) {
    this.#file = file
    this.size = file.size
  }

  read(offset: number, target: Uint8Array, io: Io): Completion {
    return this.#preserved.read(offset, target, io)
  }

  write(): never {
    throw unsupported('a snapshot cannot be written to')
  }

  writeZeroes(): never {
    throw unsupported('a snapshot cannot be written to')
  }

  discard(offset: number, length: number, io: Io): Completion {
    return this.#preserved.discard(offset, length, io)
  }

  flush(): void {}

  truncate(): never {
    throw unsupported('a snapshot cannot be resized')
  }

  extentAt(offset: number, length: number, io: Io): Promise<Extent> {
    return this.#preserved.extentAt(offset, length, io)
  }

  /** Whatever others do to the disk, what is read here stays the same. */
  childPermissions(_role: ChildRole, _needs: Permissions): Permissions {
    return { uses: noPermission, shares: everyPermission }
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  get #preserved(): PreservedDisk {
    const { preserved } = this.#file
    if (preserved) return preserved
    throw unsupported('snapshot-access: the node below keeps no earlier state')
  }
}

export const snapshotAccess: BlockDriver<{ readonly file: NodeReference }> = {
  name: 'snapshot-access',
  kind: 'filter',
  naming: { strong: [], plain: 'child' },
  parse: parseFileOnly,
  open: async ({ file }, context) => new SnapshotAccess(await context.child('data', file, 'file')),
}
