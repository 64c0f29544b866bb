/**
 * The two that work on images: varve as a library, which keeps its image open, and QEMU's tools.
 * Both are told the same. What one has written the other goes on with when they change images.
 */

import { expect } from 'vitest'
import { type BlockLayer, neverAborted, plainIo, plainWriteIo } from '../../../src/block/layer.ts'
import { alignUp } from '../../../src/bytes/range.ts'
import { drivers } from '../../../src/drivers.ts'
import {
  addBitmap,
  clearBitmap,
  enableBitmap,
  mergeBitmaps,
  removeBitmap,
} from '../../../src/graph/bitmap-actions.ts'
import type { Edge } from '../../../src/graph/edge.ts'
import { Graph } from '../../../src/graph/graph.ts'
import type { BlockNode } from '../../../src/graph/node.ts'
import { allowAll } from '../../../src/graph/open-policy.ts'
import { expectDone, type ImageFolder, password } from './image.ts'
import { type Fill, fillWith, type Request } from './reference.ts'

export type BitmapVerb =
  | { readonly verb: 'add'; readonly granularity: number }
  | { readonly verb: 'remove' | 'clear' | 'enable' | 'disable' }
  | { readonly verb: 'merge'; readonly from: string }

export interface Hand {
  image: ImageFolder
  request(request: Request): Promise<void>
  writeState(offset: number, length: number, pattern: number): Promise<void>
  resize(size: number, before: number): Promise<void>
  snapshot(verb: 'create' | 'apply' | 'delete', name: string): Promise<void>
  bitmap(name: string, verb: BitmapVerb): Promise<void>
  /** A command of `img` that only needs the image. */
  command(name: string, args: readonly string[]): Promise<void>
  /** Everything is in the files. */
  close(): Promise<void>
}

/** Further options of the node, as a user might set them. */
export type Tuning = Readonly<Record<string, unknown>>

export class OurHand implements Hand {
  image: ImageFolder
  tuning: Tuning = {}
  #session: { graph: Graph; node: BlockNode; edge: Edge } | undefined

  constructor(image: ImageFolder) {
    this.image = image
  }

  async request(request: Request): Promise<void> {
    const { edge } = await this.#open()
    const { offset, length } = request
    if (request.verb === 'discard') return await edge.discard(offset, length)
    if (request.verb === 'zero') {
      return await edge.writeZeroes(offset, length, { mayUnmap: request.unmap })
    }
    const bytes = bytesOf(length, request.fill)
    if (request.verb === 'write') await edge.write(offset, bytes)
    else await edge.compressed!.write(offset, bytes, plainWriteIo)
  }

  async writeState(offset: number, length: number, pattern: number): Promise<void> {
    const { edge } = await this.#open()
    await edge.vmState!.write(offset, bytesOf(length, { pattern }), plainWriteIo)
  }

  async resize(size: number): Promise<void> {
    const { edge } = await this.#open()
    await edge.truncate(size)
    this.image.cutOff = false
  }

  async snapshot(verb: 'create' | 'apply' | 'delete', name: string): Promise<void> {
    const { snapshots } = (await this.#open()).node.layer
    const { image } = this
    if (verb === 'create') {
      await snapshots!.create({ name, vmStateSize: stateLength(image.state) }, plainIo)
      // The state moves into the snapshot.
      image.states.set(name, image.state)
      image.state = new Map()
    } else {
      await snapshots![verb](name, plainIo)
      if (verb === 'apply') image.state = new Map(image.states.get(name))
      else image.states.delete(name)
    }
    // It may have been taken of a disk that was.
    if (verb === 'apply') image.cutOff = true
  }

  async bitmap(name: string, change: BitmapVerb): Promise<void> {
    const { node } = await this.#open()
    const { verb } = change
    if (verb === 'add') {
      addBitmap(node, { name, granularity: change.granularity, persistent: true }).commit()
    } else if (verb === 'remove') (await removeBitmap(node, name)).commit()
    else if (verb === 'clear') clearBitmap(node, name).commit()
    else if (verb === 'merge') mergeBitmaps({ node, name }, [{ node, name: change.from }]).commit()
    else enableBitmap(node, name, verb === 'enable').commit()
  }

  async command(name: string, args: readonly string[]): Promise<void> {
    await this.close()
    const options = name === 'resize' || name === 'bitmap' ? [[], args] : [args, []]
    expectDone(await this.image.ours(name, ...options), `ours: ${name} ${args.join(' ')}`)
  }

  /** What the check says of the image while it is open. */
  async check(): Promise<readonly string[]> {
    const { edge, node } = await this.#open()
    await edge.flush()
    const result = await node.layer.check!.run({ ...plainIo, repair: 'none' })
    return result.corruptions + result.leaks + result.checkErrors === 0 ? [] : result.messages
  }

  async read(): Promise<Buffer> {
    const { edge } = await this.#open()
    const bytes = Buffer.alloc(edge.size)
    await edge.read(0, bytes)
    return bytes
  }

  async close(): Promise<void> {
    const session = this.#session
    this.#session = undefined
    await session?.graph[Symbol.asyncDispose]()
  }

  async #open() {
    this.#session ??= await openOurs(this.image, this.tuning)
    return this.#session
  }
}

export async function openOurs(image: ImageFolder, tuning: Tuning = {}, readOnly = false) {
  const secrets = async () => Buffer.from(password)
  const graph = new Graph({ drivers, policy: allowAll, secrets })
  try {
    const encrypt = image.kind.encryption === 'none' ? {} : { encrypt: { 'key-secret': 's' } }
    const node = await graph.openFile(
      image.path,
      { driver: 'qcow2', cache: { 'no-flush': true }, ...encrypt, ...tuning },
      { readOnly, discard: 'unmap' },
      neverAborted,
    )
    const edge = graph.attach(node, {
      description: 'a test',
      uses: readOnly ? ['consistentRead'] : ['consistentRead', 'write', 'resize'],
    })
    return { graph, node, edge }
  } catch (error) {
    await graph[Symbol.asyncDispose]()
    throw error
  }
}

/** Commands of qemu-io wait until something else is to be done. */
export class TheirHand implements Hand {
  image: ImageFolder
  #waiting: string[] = []
  #files = 0

  constructor(image: ImageFolder) {
    this.image = image
  }

  async request(request: Request): Promise<void> {
    const { offset, length, verb } = request
    const range = `${offset} ${length}`
    if (verb === 'discard') this.#waiting.push(`discard ${range}`)
    else if (verb === 'zero') this.#waiting.push(`write -z ${request.unmap ? '-u ' : ''}${range}`)
    else {
      const flag = verb === 'compressed' ? '-c ' : ''
      this.#waiting.push(`write ${flag}${this.#fill(request.fill, length)} ${range}`)
    }
  }

  async writeState(offset: number, length: number, pattern: number): Promise<void> {
    this.#waiting.push(`write -b -P ${pattern} ${offset} ${length}`)
  }

  async resize(size: number, before: number): Promise<void> {
    const { image } = this
    await this.#img('resize', ['-q', '--shrink'], [String(size)])
    const { clusterSize, encryption, dataFile } = image.kind
    const end = Math.min(size, alignUp(before, clusterSize))
    if (image.cutOff && end > before) {
      await this.request({ verb: 'zero', offset: before, length: end - before, unmap: false })
    }
    const cutsAlways = encryption !== 'none' && dataFile !== 'none'
    if (size !== before) image.cutOff = cutsAlways || size < before || (image.cutOff && size < end)
  }

  async snapshot(verb: 'create' | 'apply' | 'delete', name: string): Promise<void> {
    await this.#img('snapshot', [{ create: '-c', apply: '-a', delete: '-d' }[verb], name])
    const { image } = this
    // qemu-img knows of no state: it stays where it is, and is in the snapshot too.
    if (verb === 'create') image.states.set(name, new Map(image.state))
    else if (verb === 'apply') image.state = new Map(image.states.get(name))
    else image.states.delete(name)
    if (verb === 'apply') image.cutOff = true
  }

  async bitmap(name: string, change: BitmapVerb): Promise<void> {
    const { verb } = change
    const args = [`--${verb}`]
    if (verb === 'add') args.push('-g', String(change.granularity))
    if (verb === 'merge') args.push(change.from)
    await this.#img('bitmap', args, [name])
  }

  async command(name: string, args: readonly string[]): Promise<void> {
    await this.#img(name, args)
  }

  async close(): Promise<void> {
    const commands = this.#waiting
    this.#waiting = []
    this.#files = 0
    if (commands.length === 0) return
    const outcome = await this.image.theirIo(commands)
    expectDone(outcome, `theirs: ${commands.join('; ')}`)
    expect(outcome.stdout, commands.join('; ')).not.toMatch(/failed/)
  }

  async #img(name: string, args: readonly string[], after: readonly string[] = []): Promise<void> {
    await this.close()
    const note = `theirs: ${name} ${[...args, ...after].join(' ')}`
    expectDone(await this.image.theirs(name, args, after), note)
  }

  #fill(fill: Fill, length: number): string {
    if ('pattern' in fill) return `-P ${fill.pattern}`
    const name = `noise${this.#files++}`
    this.image.store(name, bytesOf(length, fill))
    return `-s ${name}`
  }
}

/** Of a state of which only some is known. */
function stateLength(state: ReadonlyMap<number, number>): number {
  return state.size === 0 ? 0 : Math.max(...state.keys()) + stateUnit
}

/** State is written in units of this many bytes. */
export const stateUnit = 512

function bytesOf(length: number, fill: Fill): Uint8Array {
  const bytes = new Uint8Array(length)
  fillWith(bytes, fill)
  return bytes
}

/** What an image shows at a snapshot, or now; and what it has of a state. */
export async function readOurs(image: ImageFolder, snapshot?: string) {
  const { graph, node, edge } = await openOurs(image, {}, true)
  try {
    if (snapshot !== undefined) await node.layer.snapshots!.open(snapshot, plainIo)
    const disk = Buffer.alloc(edge.size)
    await edge.read(0, disk)
    return { disk, state: await knownState(node.layer, image, snapshot) }
  } finally {
    await graph[Symbol.asyncDispose]()
  }
}

async function knownState(layer: BlockLayer, image: ImageFolder, snapshot?: string) {
  const known = snapshot === undefined ? image.state : image.states.get(snapshot)!
  const state = new Map<number, number>()
  for (const offset of known.keys()) {
    const bytes = new Uint8Array(stateUnit)
    await layer.vmState!.read(offset, bytes, plainIo)
    const [pattern] = bytes
    state.set(offset, bytes.every((byte) => byte === pattern) ? pattern : -1)
  }
  return { known, state }
}
