/**
 * Moments of the guest's disk that a random walk keeps while the guest goes on: behind a
 * copy-before-write filter, shown by snapshot-access, and as snapshots inside images.
 */
import type { Edge } from '../../../src/graph/edge.ts'
import { expectSame } from '../disk-model.ts'
import type { WalkBackups } from './backups.ts'
import type { WalkGround } from './ground.ts'
import type { WalkGuest } from './guest.ts'

interface Moment {
  readonly filter: string
  readonly target: string
  readonly access: string
  readonly reader: Edge
  readonly content: Buffer
}

export class WalkMoments {
  readonly #ground: WalkGround
  readonly #guest: WalkGuest
  readonly #backups: WalkBackups
  #moment: Moment | undefined

  constructor(ground: WalkGround, guest: WalkGuest, backups: WalkBackups) {
    this.#ground = ground
    this.#guest = guest
    this.#backups = backups
  }

  get any(): boolean {
    return this.#moment !== undefined
  }

  /** Keeps the disk as it is now, or does something with what is kept. */
  async next(): Promise<void> {
    const moment = this.#moment
    const { random } = this.#ground
    if (!moment) return await this.#keep()
    if (random.chance(0.5)) return await this.#look(moment)
    if (random.chance(0.6)) return await this.#backups.whole(moment.access, moment.content)
    await this.#end(moment)
  }

  async end(): Promise<void> {
    if (this.#moment) await this.#end(this.#moment)
  }

  async #keep(): Promise<void> {
    const { random, daemon, images } = this.#ground
    const { graph } = daemon
    const [target, filter, access] = ['kept', 'keeps', 'shows'].map((each) =>
      this.#ground.newName(each),
    )
    const options = await images.qcow2(target, this.#guest.edge.size)
    if (!(await this.#ground.attempt('blockdev-add', options))) return await images.forget(target)
    await this.#guest.verify()
    const below = this.#guest.edge.node
    const keeps = {
      driver: 'copy-before-write',
      'node-name': filter,
      file: below.name,
      target,
      discard: 'unmap',
      'on-cbw-error': random.pick(['break-guest-write', 'break-snapshot']),
    }
    const shows = { driver: 'snapshot-access', 'node-name': access, file: filter }
    const insert = () => graph.insertFilters([{ filter: graph.node(filter), node: below }])
    const done =
      (await this.#ground.attempt('blockdev-add', keeps)) &&
      // From then on nobody may write behind its back.
      (await this.#ground.attempt(insert, { filter }, 'keep a moment')) &&
      (await this.#ground.attempt('blockdev-add', shows))
    if (!done) {
      for (const each of [access, filter, target]) {
        if (graph.nodes.has(each)) await this.#ground.remove(each)
      }
      return
    }
    const reader = graph.attach(graph.node(access), {
      description: 'a reader of the past',
      uses: ['consistentRead'],
    })
    this.#moment = { filter, target, access, reader, content: this.#guest.content }
  }

  async #look({ reader, content }: Moment): Promise<void> {
    const [offset, length] = this.#ground.random.range(content.length, 512, content.length)
    const found = new Uint8Array(length)
    try {
      await reader.read(offset, found)
    } catch (error) {
      // Where the guest went on without a copy, nothing is shown rather than something else.
      if (this.#ground.faults && /no longer complete/.test(String(error))) return
      return this.#ground.checkFault(error)
    }
    const expected = content.subarray(offset, offset + length)
    expectSame(found, expected, 'the disk of the past', offset)
  }

  async #end({ filter, target, access, reader }: Moment): Promise<void> {
    const { graph } = this.#ground.daemon
    const node = graph.node(access)
    // A backup of it is under way.
    if (node.parents.size > 1 || reader.node !== node) return
    const drop = () => graph.dropFilter(graph.node(filter))
    await reader[Symbol.asyncDispose]()
    this.#moment = undefined
    await this.#ground.remove(access)
    if (!(await this.#ground.attempt(drop, { filter }, 'let go of a moment'))) return
    await this.#ground.remove(target)
  }
}

/** Snapshots inside the top image. */
export class WalkInternalSnapshots {
  readonly #ground: WalkGround
  readonly #guest: WalkGuest

  constructor(ground: WalkGround, guest: WalkGuest) {
    this.#ground = ground
    this.#guest = guest
  }

  async next(): Promise<void> {
    const { random, images, daemon } = this.#ground
    const [device] = this.#guest.chain()
    const there = images.snapshotsOf(device)
    if (there.size > 0 && random.chance(there.size > 2 ? 0.9 : 0.4)) {
      const name = random.pick([...there.keys()])
      const verb = 'blockdev-snapshot-delete-internal-sync'
      if (await this.#ground.attempt(verb, { device, name })) there.delete(name)
      return
    }
    const name = this.#ground.newName('inside')
    await this.#guest.verify()
    // With a backing file it shows what that shows, then and later.
    const stands = daemon.graph.node(device).children.has('backing')
    const content = stands ? undefined : this.#guest.content
    const taken = await this.#ground.attempt('blockdev-snapshot-internal-sync', { device, name })
    // A job that ended meanwhile may have given the guest another disk.
    const isSame = this.#guest.chain()[0] === device
    if (taken) there.set(name, isSame ? content : undefined)
  }
}
