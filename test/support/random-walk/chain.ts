/**
 * What a random walk does to the guest's chain of images: overlays are put on it, and jobs shorten
 * it or move the guest. What images below the top still show is known of some.
 */
import type { Edge } from '../../../src/graph/edge.ts'
import { expectSame } from '../disk-model.ts'
import type { WalkGround } from './ground.ts'
import type { WalkGuest } from './guest.ts'
import type { WalkJobs } from './jobs.ts'

/** Images of a chain at most, before the top. */
const longestChain = 5

export class WalkChain {
  readonly #ground: WalkGround
  readonly #guest: WalkGuest
  readonly #jobs: WalkJobs
  /** What images below the top show, where that is known. */
  readonly #frozen = new Map<string, Buffer>()
  /** Told of images that are about to show a mixture. */
  readonly onMixture: (names: readonly string[]) => void

  constructor(
    ground: WalkGround,
    guest: WalkGuest,
    jobs: WalkJobs,
    onMixture: (names: readonly string[]) => void,
  ) {
    this.#ground = ground
    this.#guest = guest
    this.#jobs = jobs
    this.onMixture = onMixture
  }

  /** From now on, nobody writes to it. */
  knows(name: string, content: Buffer): void {
    this.#frozen.set(name, content)
  }

  /** Whether an image of the chain still shows what it is known to. */
  async look(name: string = this.#ground.random.pick(this.#guest.chain())): Promise<void> {
    const expected = this.#frozen.get(name)
    if (!expected) return
    const { graph } = this.#ground.daemon
    let edge: Edge
    try {
      edge = graph.attach(graph.node(name), { description: 'a look', uses: ['consistentRead'] })
    } catch {
      // A job keeps readers away.
      return
    }
    this.#ground.faults?.disarm()
    const found = new Uint8Array(edge.size)
    await edge.read(0, found)
    await edge[Symbol.asyncDispose]()
    expectSame(found, expected, `image ${name}`)
    this.#ground.note(`looked at ${name}`)
  }

  async snapshot(): Promise<void> {
    if (this.#guest.chain().length > longestChain) return
    const name = this.#ground.newName('overlay')
    const [below] = this.#guest.chain()
    // The image itself, or a filter above it; that of a job refuses. Of now: what is recorded in the overlay is
    // this backing file, and a job that ends meanwhile gives the guest another disk.
    const { random, images } = this.#ground
    const { node: outer } = this.#guest.edge
    // Who looks at a moment that a filter keeps has to stay on it.
    const isShown = [...outer.parents].some(({ owner }) => owner !== undefined)
    const node = isShown ? below : this.#guest.device()
    const known = random.chance(0.5)
    if (known) await this.#guest.verify()
    const options = await images.qcow2(name, this.#guest.edge.size, below)
    await this.#ground.attempt('blockdev-add', { ...options, backing: null })
    if (!(await this.#ground.attempt('blockdev-snapshot', { node, overlay: name }))) {
      await this.#ground.remove(name)
    } else if (known && this.#guest.chain()[1] === below) this.knows(below, this.#guest.content)
  }

  async stream(): Promise<void> {
    const { random } = this.#ground
    const chain = this.#guest.chain()
    const device = random.pick(chain)
    const below = chain.slice(chain.indexOf(device) + 2)
    const base = below.length > 0 && random.chance(0.5) ? random.pick(below) : undefined
    await this.#jobs.begin('block-stream', {
      device,
      ...(base && { 'base-node': base }),
      ...this.#ground.policies('on-error'),
    })
  }

  async commit(): Promise<void> {
    const { random } = this.#ground
    const chain = this.#guest.chain()
    if (chain.length < 2) return
    const top = random.below(chain.length - 1)
    const base = top + 1 + random.below(chain.length - 1 - top)
    // Images between the two show a mixture, and the base something else, or it too.
    for (const name of chain.slice(top + 1, base + 1)) this.#frozen.delete(name)
    this.onMixture(chain.slice(top + 1, base))
    const shown = this.#frozen.get(chain[top])
    const options = {
      device: this.#guest.device(),
      'top-node': chain[top],
      'base-node': chain[base],
      ...this.#ground.policies('on-error'),
    }
    await this.#jobs.begin('block-commit', options, (error) => {
      if (shown && error === undefined && top > 0) this.#frozen.set(chain[base], shown)
    })
  }

  async mirror(): Promise<void> {
    const { random, images } = this.#ground
    const target = this.#ground.newName('mirror')
    const sync = random.pick(['full', 'full', 'top', 'none'])
    const chain = this.#guest.chain()
    // A job that ends meanwhile gives the guest another disk, of which that is not the right backing file.
    const device = this.#guest.device()
    // What is not copied shows through a backing file that is the same.
    const backing = sync === 'top' ? (chain[1] ?? null) : sync === 'none' ? chain[0] : null
    const options = await images.qcow2(target, this.#guest.edge.size, backing)
    if (!(await this.#ground.attempt('blockdev-add', { ...options, backing }))) {
      return await images.forget(target)
    }
    // Of a filter above the image: the image, so that the filter stays above the copy.
    const replaces = device !== chain[0] && random.chance(0.5) && { replaces: chain[0] }
    const started = await this.#jobs.begin('blockdev-mirror', {
      device,
      target,
      sync,
      ...replaces,
      ...(random.chance(0.5) && { 'copy-mode': 'write-blocking' }),
      ...(random.chance(0.3) && { granularity: random.pick([512, 4096, 1 << 20]) }),
      ...(random.chance(0.3) && { 'buf-size': random.pick([65536, 1 << 20]) }),
      ...this.#ground.policies('on-source-error', 'on-target-error'),
    })
    if (!started) await this.#ground.remove(target)
  }

  /** Gives up a node that nobody uses any more: an image that left the chain, a filter. */
  async tidy(): Promise<void> {
    const { random, daemon, images } = this.#ground
    const unused = [...daemon.graph.nodes.values()].filter(
      (node) => node.parents.size === 0 && daemon.graph.isOwned(node),
    )
    if (unused.length === 0) return
    const { name, driver } = random.pick(unused)
    if (!(await this.#ground.remove(name))) return
    this.#frozen.delete(name)
    if (driver === 'qcow2') images.judge(name)
  }
}
