/** Snapshots of a disk that may crash at any moment. */
import { expect } from 'vitest'
import { type BlockLayer, plainIo } from '../../src/block/layer.ts'
import type { CrashModel } from './crash-model.ts'
import { openImage } from './qcow2.ts'
import type { Random } from './random.ts'

interface Picture {
  readonly name: string
  readonly content: Uint32Array
  /** Changes of the storage after which it has to be there, and after which it may be gone. */
  readonly taken: number
  deleted: number
}

/** The snapshots of a disk under test, and what they have to show. */
export class Album {
  readonly #disk: () => BlockLayer
  readonly #model: CrashModel
  readonly #steps: () => number
  readonly #pictures: Picture[] = []

  constructor(disk: () => BlockLayer, model: CrashModel, steps: () => number) {
    this.#disk = disk
    this.#model = model
    this.#steps = steps
  }

  /** Takes, applies or deletes one. Throws, and notes nothing, when the disk does. */
  async change(random: Random, mayApply = true): Promise<void> {
    const { snapshots } = this.#disk()
    const kept = this.#pictures.filter(({ deleted }) => deleted === Number.POSITIVE_INFINITY)
    const choice = kept.length === 0 ? 0 : random.next()
    const begun = this.#model.beginFlush()
    if (choice < 0.5 && kept.length < 4) {
      const { content } = this.#model
      const name = `picture ${this.#pictures.length}`
      const picture = { name, content, deleted: Number.POSITIVE_INFINITY }
      await snapshots!.create({ name }, plainIo)
      this.#pictures.push({ ...picture, taken: this.#steps() })
      this.#model.flushed(begun)
    } else if (choice < 0.75 && mayApply) {
      const { name, content } = random.pick(kept)
      const before = this.#model.content
      this.#model.beginRestore(content)
      const restored = this.#model.beginFlush()
      try {
        await snapshots!.apply(name, plainIo)
      } catch (error) {
        this.#model.beginRestore(before)
        throw error
      }
      this.#model.flushed(restored)
    } else {
      const picture = random.pick(kept)
      picture.deleted = this.#steps()
      try {
        await snapshots!.delete(picture.name, plainIo)
      } catch (error) {
        picture.deleted = Number.POSITIVE_INFINITY
        throw error
      }
      this.#model.flushed(begun)
    }
  }

  async expectWhole(disk: BlockLayer, step: number, note: string): Promise<void> {
    const { layer } = await openImage(disk, { readOnly: true })
    const names = new Set((await layer.image!.snapshots!()).map(({ name }) => name))
    for (const { name, content, taken, deleted } of this.#pictures) {
      const wanted = taken <= step && step < deleted
      if (wanted) expect(names, note).toContain(name)
      if (!names.has(name)) continue
      const shown = await openImage(disk, { readOnly: true })
      await shown.layer.snapshots!.open(name, plainIo)
      await this.#model.expectContent(shown.layer, content, `${note}: ${name}`)
    }
  }
}
