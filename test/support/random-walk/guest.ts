/** The guest of a random walk: what it does to its disk, and what it must read there. */
import { expect } from 'vitest'
import { plainIo } from '../../../src/block/layer.ts'
import { KiB, MiB } from '../../../src/bytes/range.ts'
import { chainOf } from '../../../src/graph/chain.ts'
import type { Edge } from '../../../src/graph/edge.ts'
import { DiskModel } from '../disk-model.ts'
import type { WalkGround } from './ground.ts'

interface Range {
  readonly offset: number
  readonly length: number
}

const longest = 256 * KiB
/** The disk is not grown beyond, by much. */
const largest = 8 * MiB
const kinds = ['write', 'write', 'write', 'zero', 'zero+unmap', 'discard'] as const

export class WalkGuest {
  readonly edge: Edge
  readonly #ground: WalkGround
  readonly #model: DiskModel
  readonly #inFlight = new Map<Range, Promise<void>>()

  /** The disk holds nothing but zeroes. */
  constructor(ground: WalkGround, edge: Edge) {
    this.#ground = ground
    this.edge = edge
    this.#model = new DiskModel(edge.size)
  }

  get size(): number {
    return this.#model.size
  }

  /** What the disk holds; after `verify`, with nothing in flight. */
  get content(): Buffer {
    return this.#model.content
  }

  /** Names of the images of its chain, the topmost first. Filters are passed over. */
  chain(): string[] {
    const names: string[] = []
    let { node } = this.edge
    for (;;) {
      if (!node.isFilter) names.push(node.name)
      const next =
        (node.isFilter ? node.children.get('file') : undefined) ?? node.children.get('backing')
      if (!next) return names
      node = next.node
    }
  }

  /**
   * The topmost image, or what the guest stands on: a filter above it, for jobs want nothing
   * between the guest and their disk, or the filter of a job, which may refuse.
   */
  device(): string {
    const { random, name: own } = this.#ground
    const [top] = this.chain()
    const { name } = this.edge.node
    return random.pick(name.startsWith(own) ? [name, name, top] : [name, top, top])
  }

  /** Begins a write, zeroing or discard that touches nothing in flight. */
  write(): void {
    const { random } = this.#ground
    const range = this.#range()
    if (this.#touching(range).length > 0) return
    const { offset, length } = range
    const kind = random.pick(kinds)
    const data = kind === 'write' ? random.bytes(length) : new Uint8Array(length)
    const inDoubt = this.#model.write(offset, data)
    // What is discarded may stay, become zeroes, or each in a part.
    if (kind === 'discard') inDoubt()
    const what = `${kind} ${offset}+${length}`
    this.#ground.note(what)
    const work = async () => {
      try {
        if (kind === 'write') await this.edge.write(offset, data)
        else if (kind === 'discard') await this.edge.discard(offset, length)
        else await this.edge.writeZeroes(offset, length, { mayUnmap: kind === 'zero+unmap' })
      } catch (error) {
        this.#ground.checkFault(error)
        this.#ground.note(`${what} failed`)
        if (kind !== 'discard') inDoubt()
      } finally {
        this.#inFlight.delete(range)
      }
    }
    this.#begin(range, work())
  }

  /** Begins a flush, which waits for nobody. */
  flush(): void {
    const work = async () => {
      try {
        await this.edge.flush()
      } catch (error) {
        this.#ground.checkFault(error)
      } finally {
        this.#inFlight.delete(range)
      }
    }
    const range = { offset: 0, length: 0 }
    this.#begin(range, work())
  }

  /** Reads something by an edge, the guest's own or another one to the same disk. */
  async read(edge: Edge = this.edge, check: (error: unknown) => void = this.#checkFault) {
    const { offset, length } = this.#range(Math.min(this.size, edge.size))
    for (const done of this.#touching({ offset, length })) await done
    const found = new Uint8Array(length)
    try {
      await edge.read(offset, found)
    } catch (error) {
      return check(error)
    }
    this.#model.check(found, offset, edge === this.edge ? 'what the guest reads' : 'by an export')
  }

  async verify(): Promise<void> {
    await this.settle()
    this.#ground.faults?.disarm()
    const found = new Uint8Array(this.size)
    await this.edge.read(0, found)
    try {
      this.#model.check(found, 0, 'the disk')
    } catch (error) {
      const at = Number(/differs from (\d+)/.exec(String(error))?.[1])
      await this.#noteOrigin(at)
      throw error
    }
  }

  /** What each node of the chain holds at a place that is not as it should be. */
  async #noteOrigin(at: number): Promise<void> {
    for (const { name, size, driver, layer } of chainOf(this.edge.node)) {
      const block = new Uint8Array(512)
      if (at >= size) continue
      await layer.read(at, block, plainIo)
      const { kind } = await layer.extentAt(at, 512, plainIo)
      this.#ground.note(`${driver} ${name} holds ${block[0]} at ${at}: ${kind}`)
    }
  }

  /** Waits for the guest's requests. */
  async settle(): Promise<void> {
    await Promise.all([...this.#inFlight.values()])
  }

  async grow(): Promise<void> {
    if (this.#ground.hasJobs || this.size > largest) return
    await this.settle()
    const larger = this.size + 65536 * (1 + this.#ground.random.below(8))
    // Refused while an export shows the size, and where a fault is about.
    const args = { 'node-name': this.edge.node.name, size: larger }
    await this.#ground.attempt('block_resize', args)
    expect([this.size, larger]).toContain(this.edge.size)
    this.#model.grow(this.edge.size)
  }

  /** Somebody else has written to the disk while nothing was in flight. */
  wrote(offset: number, data: Uint8Array): void {
    this.#model.write(offset, data)
  }

  readonly #checkFault = (error: unknown): void => this.#ground.checkFault(error)

  #begin(range: Range, done: Promise<void>): void {
    // Whoever settles the requests sees the failure.
    done.catch(() => {})
    this.#inFlight.set(range, done)
  }

  #range(size = this.size): Range {
    const [offset, length] = this.#ground.random.range(size, 512, longest)
    return { offset, length }
  }

  #touching(range: Range): Promise<void>[] {
    return [...this.#inFlight].filter(([other]) => overlap(other, range)).map(([, done]) => done)
  }
}

function overlap(one: Range, other: Range): boolean {
  return one.offset < other.offset + other.length && other.offset < one.offset + one.length
}
