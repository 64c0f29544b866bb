/**
 * The dirty bitmaps of a node by name, and others who follow its changes (jobs). The node tells
 * this table of every change; as long as nobody is here, that costs it the look at `watched`.
 */
import type { DirtyBitmap, DirtyTracker } from '../bitmap/dirty-bitmap.ts'
import { checkUsable } from '../bitmap/usable.ts'
import { BlockError } from '../errors.ts'

export class BitmapTable {
  /** Whether anybody wants to be told. */
  watched = false
  /** The image marks its bitmaps as in use, and those here are stored in the end. */
  claimed = false
  readonly #node: { readonly name: string; readonly size: number }
  readonly #byName = new Map<string, DirtyBitmap>()
  readonly #trackers = new Set<DirtyTracker>()
  /** Both, for the hot path. */
  #all: readonly DirtyTracker[] = []
  /** Settles when what the image stores is no longer being changed. */
  #turn: Promise<unknown> = Promise.resolve()

  constructor(node: { readonly name: string; readonly size: number }) {
    this.#node = node
  }

  /** The newest first, as QEMU lists them. */
  *[Symbol.iterator](): Generator<DirtyBitmap> {
    yield* [...this.#byName.values()].reverse()
  }

  get(name: string): DirtyBitmap | undefined {
    return this.#byName.get(name)
  }

  add(bitmap: DirtyBitmap): void {
    if (this.#byName.has(bitmap.name)) {
      throw new BlockError('INVALID_ARGUMENT', `Bitmap already exists: ${bitmap.name}`, {
        node: this.#node.name,
        errno: 'EEXIST',
      })
    }
    this.#byName.set(bitmap.name, bitmap)
    this.#changed()
  }

  /** Makes a bitmap the newest: its successor, which was made later, has taken its place. */
  renew(bitmap: DirtyBitmap): void {
    if (this.#byName.delete(bitmap.name)) this.#byName.set(bitmap.name, bitmap)
  }

  /** Idempotent. */
  remove(bitmap: DirtyBitmap): void {
    if (this.#byName.get(bitmap.name) === bitmap) this.#byName.delete(bitmap.name)
    this.#changed()
  }

  /** Throws when a persistent bitmap cannot follow the disk to another size. */
  checkResize(): void {
    for (const bitmap of this.#byName.values()) if (bitmap.persistent) checkUsable(bitmap)
  }

  /** One after the other: what reads the bitmaps here and changes those that the image stores. */
  async inTurn<T>(change: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(change)
    this.#turn = result.catch(() => {})
    return await result
  }

  /** Tells `tracker` of changes from now on, until the answer is called. */
  track(tracker: DirtyTracker): () => void {
    this.#trackers.add(tracker)
    this.#changed()
    return () => {
      this.#trackers.delete(tracker)
      this.#changed()
    }
  }

  /** For the node: these bytes have changed, or a request that failed may have changed them. */
  mark(offset: number, length: number): void {
    for (const each of this.#all) each.mark(offset, length)
  }

  /** For the node: its size may have changed. */
  resize(): void {
    for (const each of this.#all) each.resize?.(this.#node.size)
  }

  #changed(): void {
    this.#all = [...this.#byName.values(), ...this.#trackers]
    this.watched = this.#all.length > 0
  }
}
