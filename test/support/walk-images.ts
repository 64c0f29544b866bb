/** Image files of a random walk, opened so that requests to them may fail. */
import { MiB } from '../../src/bytes/range.ts'
import { createImage } from '../../src/create-image.ts'
import type { StorageDaemon } from '../../src/daemon/storage-daemon.ts'
import { type Faults, FaultyLayer } from './faults.ts'
import type { Random } from './random.ts'

const clusterSizes = [4096, 16384, 65536]

/** Cache of L2 tables, in bytes. */
export const cacheSizes = [65536, MiB]

export class WalkImages {
  readonly #daemon: StorageDaemon
  readonly #random: Random
  readonly #folder: string
  readonly #faults: Faults | undefined

  constructor(daemon: StorageDaemon, random: Random, folder: string, faults: Faults | undefined) {
    this.#daemon = daemon
    this.#random = random
    this.#folder = folder
    this.#faults = faults
  }

  path(name: string, format = 'qcow2'): string {
    return `${this.#folder}/${name}.${format}`
  }

  /** Makes a qcow2 image; the answer are the options that open it. */
  async qcow2(name: string, size: number, backing?: string | null) {
    const filename = this.path(name)
    // Records are the user's business: what commands put on each other does not change them.
    const record = backing && { backing_file: this.path(backing), backing_fmt: 'qcow2' }
    const options = { size, cluster_size: this.#random.pick(clusterSizes), ...record }
    await createImage(this.#daemon.graph, { filename, format: 'qcow2', options })
    const file = await this.#storage(name, filename)
    return { driver: 'qcow2', 'node-name': name, discard: 'unmap', file }
  }

  async raw(name: string, size: number) {
    const filename = this.path(name, 'raw')
    await createImage(this.#daemon.graph, { filename, format: 'raw', options: { size } })
    return { driver: 'raw', 'node-name': name, file: await this.#storage(name, filename) }
  }

  /** The node behind an image is the walk's own; without effect where there is none. */
  async forget(name: string): Promise<void> {
    const storage = `${name}-file`
    if (this.#daemon.graph.nodes.has(storage)) await this.#daemon.graph.remove(storage)
  }

  async #storage(name: string, filename: string): Promise<string> {
    // What takes the time is waiting for the disk, which tests nothing here.
    const options = { driver: 'file', filename, cache: { 'no-flush': true } }
    const faults = this.#faults
    const node = `${name}-file`
    if (faults) {
      await this.#daemon.graph.add('faulty', { 'node-name': node }, async (context) => {
        const file = await context.child('filtered', options)
        return new FaultyLayer(file, faults)
      })
    } else await this.#daemon.graph.open({ ...options, 'node-name': node, discard: 'unmap' })
    return node
  }
}
