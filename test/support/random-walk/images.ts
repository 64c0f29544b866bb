/** Image files of a random walk, opened so that requests to them may fail. */
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { expect } from 'vitest'
import { MiB } from '../../../src/bytes/range.ts'
import { createImage } from '../../../src/create-image.ts'
import type { StorageDaemon } from '../../../src/daemon/storage-daemon.ts'
import { peer } from '../../peers.ts'
import { expectSame } from '../disk-model.ts'
import { type Faults, FaultyLayer } from '../faults.ts'
import type { Random } from '../random.ts'

const qemu = peer('qemu-img')
const clusterSizes = [4096, 16384, 65536]

/** Cache of L2 tables, in bytes. */
export const cacheSizes = [65536, MiB]

export class WalkImages {
  /** All that it has made. */
  readonly files = new Set<string>()
  readonly #daemon: StorageDaemon
  readonly #random: Random
  readonly #folder: string
  readonly #faults: Faults | undefined
  /** What snapshots inside images hold, by image and name. */
  readonly #snapshots = new Map<string, Map<string, Buffer | undefined>>()

  constructor(daemon: StorageDaemon, random: Random, folder: string, faults: Faults | undefined) {
    this.#daemon = daemon
    this.#random = random
    this.#folder = folder
    this.#faults = faults
  }

  path(name: string, format = 'qcow2'): string {
    const path = `${this.#folder}/${name}.${format}`
    this.files.add(path)
    return path
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

  /** The node behind an image is the walk's own; without effect where it is gone, or others use it. */
  async forget(name: string): Promise<void> {
    const storage = this.#daemon.graph.nodes.get(`${name}-file`)
    if (storage?.parents.size === 0) await this.#daemon.graph.remove(storage.name)
  }

  /** Snapshots inside an image, with what they hold where that is known. */
  snapshotsOf(name: string): Map<string, Buffer | undefined> {
    const known = this.#snapshots.get(name) ?? new Map()
    this.#snapshots.set(name, known)
    return known
  }

  /** Whether an image that is no longer open is sound, and its snapshots are what they were. */
  judge(name: string): void {
    const file = this.path(name)
    if (qemu.path) {
      // A request that failed may leave clusters that nobody refers to.
      const sound = this.#faults ? [0, 3] : [0]
      const { status, stdout, stderr } = spawnSync('qemu-img', ['check', '-U', file])
      // What lies below may be a job's alone.
      if (/Failed to get .* lock/.test(String(stderr))) return
      expect(sound, `${file}: ${stdout}${stderr}`).toContain(status)
      for (const [snapshot, expected] of this.snapshotsOf(name)) {
        if (!expected) continue
        const found = this.read(file, '-l', `snapshot.name=${snapshot}`)
        // The disk may have grown since, which QEMU shows of its snapshots as well.
        const then = found.subarray(0, expected.length)
        expectSame(then, expected, `snapshot ${snapshot} of ${name}`)
      }
    }
    this.#snapshots.delete(name)
  }

  /** What QEMU reads of an image. */
  read(file: string, ...options: readonly string[]): Buffer {
    const raw = this.path('judged', 'raw')
    const args = ['convert', '-U', ...options, '-f', 'qcow2', '-O', 'raw', file, raw]
    const { status, stderr } = spawnSync('qemu-img', args)
    expect(status, String(stderr)).toBe(0)
    const found = readFileSync(raw)
    rmSync(raw)
    return found
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
