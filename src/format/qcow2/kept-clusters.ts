/**
 * Clusters that a request has made read as zeroes and that keep their place in the file
 * (`discard-no-unref`). Nobody reads what they held any more, so their space may go back to the
 * file system at once: a crash before the entries are on stable storage shows old data or zeroes,
 * which is what a discard, or a write of zeroes that was not flushed, may leave.
 */
import { plainIo } from '../../block/layer.ts'
import type { Qcow2Image } from './image.ts'
import type { HostOffset } from './offsets.ts'

export class KeptClusters {
  readonly #image: Qcow2Image
  readonly #runs: { readonly offset: number; length: number }[] = []

  constructor(image: Qcow2Image) {
    this.#image = image
  }

  note(cluster: HostOffset | undefined): void {
    if (cluster === undefined) return
    const { clusterSize } = this.#image.layout
    const last = this.#runs.at(-1)
    if (last && last.offset + last.length === cluster) last.length += clusterSize
    else this.#runs.push({ offset: cluster, length: clusterSize })
  }

  /** Gives their space back, if the node's options say so. While nobody else works on them. */
  async giveBackSpace(): Promise<void> {
    const { space, writeBack } = this.#image
    if (!writeBack.discards.has('request')) return
    for (const { offset, length } of this.#runs) {
      const inside = Math.min(length, space.size - offset)
      if (inside <= 0) continue
      // A hint: where it cannot be done the space stays.
      await Promise.resolve(space.layer.discard(offset, inside, plainIo)).catch(() => {})
    }
  }
}
