/**
 * Locks on an image file that QEMU respects and that respect QEMU's. Who uses a permission holds
 * a shared lock on byte 100 + its bit, who does not share one a shared lock on byte 200 + its
 * bit. Nobody locks exclusively: a conflict is a byte of the other hundred that somebody else
 * has locked. Taking first and looking afterwards means that of two processes at least one sees
 * the other.
 */
import type { ImageLocks } from '../../block/abilities.ts'
import type { Permission } from '../../block/permission.ts'
import { BlockError } from '../../errors.ts'
import type { OpenFile } from './open-file.ts'

const usesBase = 100
const notSharedBase = 200

const bits: readonly [Permission, number][] = [
  ['consistentRead', 0],
  ['write', 1],
  ['writeUnchanged', 2],
  ['resize', 3],
]

/** As QEMU's messages call them. */
const names: Readonly<Record<Permission, string>> = {
  consistentRead: 'consistent read',
  write: 'write',
  writeUnchanged: 'write unchanged',
  resize: 'resize',
}

export class FileLocks implements ImageLocks {
  readonly #file: OpenFile
  #held: ReadonlySet<number> = new Set()

  constructor(file: OpenFile) {
    this.#file = file
  }

  update(uses: ReadonlySet<Permission>, shares: ReadonlySet<Permission>): void {
    const wanted = bytesOf(uses, shares)
    const added = [...wanted].filter((byte) => !this.#held.has(byte))
    const taken: number[] = []
    try {
      for (const byte of added) {
        this.#take(byte)
        taken.push(byte)
      }
      this.#checkConflicts(uses, shares)
    } catch (error) {
      this.#release(taken)
      throw error
    }
    this.#release([...this.#held].filter((byte) => !wanted.has(byte)))
    this.#held = wanted
  }

  /** Takes the same locks with another descriptor of the file, before the former is closed. */
  moveTo(fd: number): void {
    const { sys, path, node } = this.#file
    for (const byte of this.#held) {
      if (sys.shareLock(fd, byte)) continue
      throw new BlockError('BUSY', `Failed to lock byte ${byte}`, { path, node })
    }
  }

  #take(byte: number): void {
    const { fd, sys } = this.#file
    let taken: boolean
    try {
      taken = sys.shareLock(fd, byte)
    } catch (error) {
      throw this.#file.fail(error, `locking byte ${byte}`)
    }
    if (!taken) throw this.#busy(`Failed to lock byte ${byte}`)
  }

  #release(bytes: readonly number[]): void {
    for (const byte of bytes) this.#file.sys.unlock(this.#file.fd, byte)
  }

  #checkConflicts(uses: ReadonlySet<Permission>, shares: ReadonlySet<Permission>): void {
    const { fd, sys } = this.#file
    for (const [permission, bit] of bits) {
      if (uses.has(permission) && sys.lockedElsewhere(fd, notSharedBase + bit)) {
        throw this.#busy(`Failed to get "${names[permission]}" lock`)
      }
    }
    for (const [permission, bit] of bits) {
      if (!shares.has(permission) && sys.lockedElsewhere(fd, usesBase + bit)) {
        throw this.#busy(`Failed to get shared "${names[permission]}" lock`)
      }
    }
  }

  #busy(what: string): BlockError {
    const { path, node } = this.#file
    return new BlockError('BUSY', `${what}\nIs another process using the image [${path}]?`, {
      path,
      node,
    })
  }
}

function bytesOf(uses: ReadonlySet<Permission>, shares: ReadonlySet<Permission>): Set<number> {
  const wanted = new Set<number>()
  for (const [permission, bit] of bits) if (uses.has(permission)) wanted.add(usesBase + bit)
  for (const [permission, bit] of bits) if (!shares.has(permission)) wanted.add(notSharedBase + bit)
  return wanted
}
