/**
 * A guest works on the top of a chain of images while, at random, overlays are put on it, jobs
 * begin, pause and are cancelled, options change, filters, exports and snapshots come and go, the
 * images pass to another process and back, and the disk grows; with `faults`, requests to storage
 * fail meanwhile. A model knows what the guest must read, what each finished backup must hold, and
 * what snapshots and images below the top still show.
 */
import { rmSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { MiB } from '../../../src/bytes/range.ts'
import { peer } from '../../peers.ts'
import { expectSame } from '../disk-model.ts'
import type { Faults } from '../faults.ts'
import { WalkBackups } from './backups.ts'
import { WalkChain } from './chain.ts'
import { WalkExports } from './exports.ts'
import { WalkGround, type WalkOptions } from './ground.ts'
import { WalkGuest } from './guest.ts'
import { WalkJobs } from './jobs.ts'
import { WalkInternalSnapshots, WalkMoments } from './moments.ts'
import { WalkNodes } from './nodes.ts'

const qemu = peer('qemu-img')
const size = 4 * MiB

export class Walk {
  readonly #ground: WalkGround
  readonly #guest: WalkGuest
  readonly #jobs: WalkJobs
  readonly #chain: WalkChain
  readonly #backups: WalkBackups
  readonly #nodes: WalkNodes
  readonly #moments: WalkMoments
  readonly #exports: WalkExports
  /** What a step does, and how often. */
  readonly #steps: readonly (readonly [weight: number, step: () => void | Promise<void>])[]

  static async begin(options: WalkOptions): Promise<Walk> {
    const ground = new WalkGround(options)
    const { daemon, images, name } = ground
    const base = `${name}-base`
    await daemon.execute('blockdev-add', await images.qcow2(base, size))
    const edge = daemon.graph.attach(daemon.graph.node(base), {
      description: 'a guest',
      uses: ['consistentRead', 'write'],
      shares: ['consistentRead', 'writeUnchanged', 'resize'],
    })
    const walk = new Walk(ground, new WalkGuest(ground, edge))
    await walk.#nodes.begin()
    await walk.#exports.begin()
    return walk
  }

  private constructor(ground: WalkGround, guest: WalkGuest) {
    this.#ground = ground
    this.#guest = guest
    const jobs = new WalkJobs(ground, () => guest.verify())
    const backups = new WalkBackups(ground, guest, jobs)
    const chain = new WalkChain(ground, guest, jobs, (names) => backups.mixed(names))
    const nodes = new WalkNodes(ground, guest)
    const moments = new WalkMoments(ground, guest, backups)
    const inside = new WalkInternalSnapshots(ground, guest)
    const exports = new WalkExports(ground, guest)
    this.#jobs = jobs
    this.#backups = backups
    this.#chain = chain
    this.#nodes = nodes
    this.#moments = moments
    this.#exports = exports
    this.#steps = [
      [50, () => guest.write()],
      [1, () => guest.flush()],
      [7, () => guest.read()],
      [5, () => chain.snapshot()],
      [5, () => chain.stream()],
      [5, () => chain.commit()],
      [5, () => chain.mirror()],
      [2, () => backups.whole()],
      [3, () => backups.next()],
      [14, () => jobs.disturb()],
      [2, () => nodes.reopen()],
      [2, () => nodes.changeFilter()],
      [1, () => nodes.changeStorage()],
      [1, () => nodes.throttle()],
      [1, () => this.#handOver()],
      [2, () => moments.next()],
      [2, () => inside.next()],
      [3, () => exports.next()],
      [3, () => chain.tidy()],
      [1, () => guest.grow()],
      [1, () => chain.look()],
      [2, () => nextTurn()],
    ]
  }

  get log(): string {
    return this.#ground.log
  }

  async run(count: number): Promise<void> {
    for (let step = 0; step < count; step++) {
      await this.#step()
      if (step % 50 === 49) await this.#guest.verify()
    }
  }

  /** Ends all jobs, and closes everything; then the guest's disk is the chain's, for QEMU too. */
  async end(): Promise<void> {
    const { daemon, faults, images } = this.#ground
    faults?.disarm()
    await this.#guest.settle()
    await this.#jobs.end()
    await this.#exports.end()
    await this.#moments.end()
    await this.#backups.forget()
    await this.#guest.verify()
    for (const name of this.#guest.chain().slice(1)) await this.#chain.look(name)
    const names = [...daemon.graph.nodes.values()]
      .filter(({ driver }) => driver === 'qcow2')
      .map(({ name }) => name)
    const [top] = this.#guest.chain()
    await this.#guest.edge[Symbol.asyncDispose]()
    await daemon[Symbol.asyncDispose]()
    for (const name of names) images.judge(name)
    if (qemu.path) {
      expectSame(images.read(images.path(top)), this.#guest.content, 'what QEMU reads')
    }
    for (const file of images.files) rmSync(file, { force: true })
  }

  async #step(): Promise<void> {
    const { random, faults } = this.#ground
    await this.#jobs.reap()
    if (faults && random.chance(0.06)) this.#arm(faults)
    const total = this.#steps.reduce((sum, [weight]) => sum + weight, 0)
    let left = random.below(total)
    for (const [weight, step] of this.#steps) {
      left -= weight
      if (left < 0) return await step()
    }
  }

  /** Lets some of the next requests fail. */
  #arm(faults: Faults): void {
    const { random } = this.#ground
    const failAt = random.below(random.pick([3, 30, 200]))
    const code = random.pick(['IO', 'NO_SPACE'] as const)
    const count = random.pick([1, 1, 2, 8])
    this.#ground.note(`requests from ${failAt} on: ${count} times ${code}`)
    faults.arm(failAt, code, count)
  }

  /** Filters that keep a moment, and bitmaps in memory, do not see what another process writes. */
  async #handOver(): Promise<void> {
    await this.#nodes.handOver(!this.#moments.any && !this.#backups.isTransient)
  }
}
