/**
 * What a random walk does to open nodes: options of several change at once, filters come and go
 * above the guest's disk and below its images, throttle groups are swapped, and the images are
 * handed to another process and back.
 */
import { expect } from 'vitest'
import { drivers } from '../../../src/drivers.ts'
import { Graph } from '../../../src/graph/graph.ts'
import type { BlockNode } from '../../../src/graph/node.ts'
import type { WalkGround } from './ground.ts'
import type { WalkGuest } from './guest.ts'
import { cacheSizes } from './images.ts'

const groups = ['first-group', 'second-group']

export class WalkNodes {
  readonly #ground: WalkGround
  readonly #guest: WalkGuest

  constructor(ground: WalkGround, guest: WalkGuest) {
    this.#ground = ground
    this.#guest = guest
  }

  async begin(): Promise<void> {
    for (const id of groups) {
      await this.#ground.daemon.execute('object-add', { 'qom-type': 'throttle-group', id })
    }
  }

  /** Of some images of the chain, all or none. */
  async reopen(): Promise<void> {
    const { random, daemon } = this.#ground
    const images = this.#guest.chain().map((name) => daemon.graph.node(name))
    const chosen = images.filter((_, index) => random.chance(index === 0 ? 0.7 : 0.3))
    if (chosen.length === 0) return
    const options = chosen.map((node) => this.#otherOptions(node, node === images[0]))
    const isWrong = random.chance(0.15)
    if (isWrong) options[random.below(options.length)].size = 1
    const before = JSON.stringify(images.map(describe))
    const done = await this.#ground.attempt('blockdev-reopen', { options })
    expect(done && isWrong, 'a wrong option was taken').toBe(false)
    // Jobs that end meanwhile change nodes, too, and faults may strike once more when it is taken back.
    if (done || this.#ground.hasJobs || this.#ground.faults?.struck) return
    expect(JSON.stringify(images.map(describe)), this.#ground.log).toBe(before)
  }

  /** Puts a filter above what the guest stands on, or takes one away. */
  async changeFilter(): Promise<void> {
    const { random, daemon } = this.#ground
    const { graph } = daemon
    const own = [...graph.nodes.values()].filter(({ name }) => this.#isFilter(name))
    const inUse = own.filter(({ parents }) => parents.size > 0)
    if (inUse.length > 1 || (inUse.length > 0 && random.chance(0.5))) {
      const filter = random.pick(inUse)
      const drop = () => graph.dropFilter(filter)
      await this.#ground.attempt(drop, { filter: filter.name }, 'drop a filter')
      return
    }
    const name = this.#ground.newName('filter')
    const made = random.pick([
      { driver: 'throttle', 'throttle-group': random.pick(groups) },
      { driver: 'copy-on-read' },
    ])
    const below = this.#outermost()
    const options = { ...made, 'node-name': name, file: below.name, discard: 'unmap' }
    if (!(await this.#ground.attempt('blockdev-add', options))) return
    const insert = () => graph.insertFilters([{ filter: graph.node(name), node: below }])
    if (!(await this.#ground.attempt(insert, { filter: name }, 'insert a filter'))) {
      await this.#ground.attempt('blockdev-del', { 'node-name': name })
    }
  }

  /** Puts a throttle node between an image and its storage, or takes it away. */
  async changeStorage(): Promise<void> {
    const { random, daemon } = this.#ground
    const image = daemon.graph.node(random.pick(this.#guest.chain()))
    const file = image.children.get('file')?.node
    if (!file) return
    const filter = `${image.name}-throttle`
    const isThere = file.name === filter
    const options = { ...this.#otherOptions(image, true), 'read-only': image.flags.readOnly }
    if (isThere) {
      const changed = { ...options, file: `${image.name}-file` }
      await this.#ground.attempt('blockdev-reopen', { options: [changed] })
    } else {
      const made = { driver: 'throttle', 'node-name': filter, file: file.name, discard: 'unmap' }
      const group = { 'throttle-group': random.pick(groups) }
      await this.#ground.attempt('blockdev-add', { ...made, ...group })
      await this.#ground.attempt('blockdev-reopen', { options: [{ ...options, file: filter }] })
    }
    const unused = daemon.graph.nodes.get(filter)
    if (unused?.parents.size === 0) {
      await this.#ground.attempt('blockdev-del', { 'node-name': filter })
    }
  }

  /** Moves a throttle node to another group, or changes the limits of a group. */
  async throttle(): Promise<void> {
    const { random, daemon } = this.#ground
    const throttles = [...daemon.graph.nodes.values()].filter(({ driver }) => driver === 'throttle')
    if (throttles.length > 0 && random.chance(0.6)) {
      const { name, children } = random.pick(throttles)
      const options = {
        driver: 'throttle',
        'node-name': name,
        'throttle-group': random.pick(groups),
        file: children.get('file')?.node.name,
        discard: 'unmap',
      }
      await this.#ground.attempt('blockdev-reopen', { options: [options] })
      return
    }
    await this.#ground.attempt('qom-set', {
      path: `/objects/${random.pick(groups)}`,
      property: 'limits',
      value: random.pick([
        {},
        { 'iops-total': 2000 },
        { 'iops-write': 1000, 'iops-write-max': 4000, 'iops-write-max-length': 2 },
        { 'bps-read': 1 << 30, 'iops-size': 65536 },
      ]),
    })
  }

  /**
   * Another process, played by a second graph, gets the images, reads what the guest has written,
   * and writes itself; then they are taken back.
   */
  async handOver(mayWrite: boolean): Promise<void> {
    if (this.#ground.hasJobs) return
    await this.#guest.verify()
    const images = this.#guest.chain().map((name) => this.#ground.daemon.graph.node(name))
    const set = (active: boolean) => this.#ground.attempt('blockdev-set-active', { active })
    if (await set(false)) {
      await expect(async () => this.#guest.edge.write(0, new Uint8Array(512))).rejects.toThrow(
        /inactive/,
      )
      await this.#asAnother(images, mayWrite)
    }
    // A fault may have left them inactive, and may strike again.
    while (!(await set(true))) this.#ground.faults?.disarm()
    await this.#guest.verify()
  }

  async #asAnother(images: readonly BlockNode[], mayWrite: boolean): Promise<void> {
    const { random } = this.#ground
    await using graph = new Graph({ drivers })
    const options = images.reduceRight<object | null>(
      (backing, { name }) => ({
        driver: 'qcow2',
        file: { driver: 'file', filename: this.#ground.images.path(name) },
        backing,
      }),
      null,
    )
    const node = await graph.open({ ...options, discard: 'unmap' })
    const uses = ['consistentRead', 'write'] as const
    const guest = graph.attach(node, { description: 'another guest', uses })
    await this.#guest.read(guest)
    for (let count = mayWrite ? random.below(4) : 0; count > 0; count--) {
      const [offset, length] = random.range(guest.size, 512, 65536)
      const data = random.bytes(length)
      this.#ground.note(`another process writes ${offset}+${length}`)
      await guest.write(offset, data)
      this.#guest.wrote(offset, data)
    }
  }

  #otherOptions(node: BlockNode, isTop: boolean): Record<string, unknown> {
    const { random } = this.#ground
    return {
      ...node.options,
      driver: 'qcow2',
      'node-name': node.name,
      backing: node.children.get('backing')?.node.name ?? null,
      file: node.children.get('file')?.node.name,
      'read-only': isTop ? false : node.flags.readOnly !== random.chance(0.1),
      discard: random.pick(['unmap', 'ignore']),
      'detect-zeroes': random.pick(['off', 'on']),
      'l2-cache-size': random.pick(cacheSizes),
      'lazy-refcounts': random.chance(0.5),
    }
  }

  /** What the guest stands on, unless somebody relies on that filter: then the image. */
  #outermost(): BlockNode {
    const { node } = this.#guest.edge
    const isShown = [...node.parents].some(({ owner }) => owner !== undefined)
    return isShown ? this.#ground.daemon.graph.node(this.#guest.chain()[0]) : node
  }

  #isFilter(name: string): boolean {
    return name.startsWith(`${this.#ground.name}-filter`)
  }
}

function describe(node: BlockNode): unknown {
  const { name, options, flags, discardMode, detectZeroes, children } = node
  const below = [...children].map(([role, edge]) => `${role} ${edge.node.name}`)
  return { name, options, flags, discardMode, detectZeroes, below }
}
