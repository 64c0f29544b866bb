/**
 * Abilities that change an image's metadata, made to run one at a time and beside no request. Drains
 * do not see to that: a job that ends makes an image read-only, which stores its bitmaps, whenever it
 * likes, and each of several drains holds guests back, not one another.
 */
import type { BackingLink, InternalSnapshots, PersistentBitmaps } from './abilities.ts'
import type { Io } from './layer.ts'

/** Runs work while nothing else of its kind, and no request, is under way. */
export type Alone = <T>(io: Io, work: () => Promise<T>) => Promise<T>

export function snapshotsAlone(snapshots: InternalSnapshots, alone: Alone): InternalSnapshots {
  return {
    create: (snapshot, io) => alone(io, () => snapshots.create(snapshot, io)),
    apply: (selector, io) => alone(io, () => snapshots.apply(selector, io)),
    delete: (selector, io) => alone(io, () => snapshots.delete(selector, io)),
    open: (selector, io) => alone(io, () => snapshots.open(selector, io)),
  }
}

export function bitmapsAlone(bitmaps: PersistentBitmaps, alone: Alone): PersistentBitmaps {
  return {
    get able() {
      return bitmaps.able
    },
    list: () => bitmaps.list(),
    load: (bitmap, io) => alone(io, () => bitmaps.load(bitmap, io)),
    claim: (io) => alone(io, () => bitmaps.claim(io)),
    store: (all, io) => alone(io, () => bitmaps.store(all, io)),
    remove: (name, io) => alone(io, () => bitmaps.remove(name, io)),
    checkNew: (bitmap, others) => bitmaps.checkNew(bitmap, others),
  }
}

export function backingLinkAlone(link: BackingLink, alone: Alone): BackingLink {
  return {
    get recorded() {
      return link.recorded
    },
    change: (to, io) => alone(io, () => link.change(to, io)),
  }
}
