/**
 * A guest works on the top of a chain of images while, at random, overlays are put on it, jobs
 * begin, pause and are cancelled, options change and the disk grows. A model knows what the guest
 * must read, and what each finished backup must hold.
 *
 * Steps per run: `VARVE_WALK` (default 600). A failing run is replayed with the seed in its name.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { createImage } from '../../src/create-image.ts'
import { StorageDaemon } from '../../src/daemon/storage-daemon.ts'
import type { Edge } from '../../src/graph/edge.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random, runSeed } from '../support/random.ts'

const qemu = peer('qemu-img')
const folder = scratchFolder('random-walk')
const steps = Number(process.env.VARVE_WALK ?? 600)
const size = 4 * MiB
const clusterSizes = [4096, 16384, 65536]

interface Range {
  readonly offset: number
  readonly length: number
}

/** What a job was begun for, and what has to hold once it has ended. */
interface Running {
  readonly id: string
  readonly ended: (error: unknown) => void | Promise<void>
}

class Walk {
  readonly #random: Random
  readonly #daemon: StorageDaemon
  readonly #guest: Edge
  readonly #folder: string
  #model: Uint8Array
  readonly #inFlight = new Map<Range, Promise<void>>()
  readonly #running: Running[] = []
  /** All that was done, for the message of a failure. */
  readonly #log: string[] = []
  #names = 0

  static async begin(random: Random, name: string): Promise<Walk> {
    const daemon = new StorageDaemon()
    const walk = new Walk(
      random,
      daemon,
      name,
      await addImage(daemon, random, `${name}-base`, size),
    )
    return walk
  }

  private constructor(random: Random, daemon: StorageDaemon, name: string, guest: Edge) {
    this.#random = random
    this.#daemon = daemon
    this.#folder = name
    this.#guest = guest
    this.#model = new Uint8Array(size)
  }

  get log(): string {
    return this.#log.slice(-60).join('\n')
  }

  async run(count: number): Promise<void> {
    for (let step = 0; step < count; step++) {
      await this.#step()
      if (step % 50 === 49) await this.#verify()
    }
  }

  /** Ends all jobs, and closes everything; then the guest's disk is the chain's, for QEMU too. */
  async end(): Promise<void> {
    await this.#settle()
    for (const id of [...this.#daemon.jobs.jobs.keys()]) await this.#end(id)
    while (this.#running.length > 0) await this.#reap(true)
    await this.#verify()
    const top = this.#guest.node
    const filename = top.children.get('file')?.node.layer.image?.filename ?? ''
    const files = [...this.#daemon.graph.nodes.values()]
      .filter(({ driver }) => driver === 'qcow2')
      .map((node) => node.children.get('file')?.node.layer.image?.filename ?? '')
    await this.#guest[Symbol.asyncDispose]()
    await this.#daemon[Symbol.asyncDispose]()
    this.#judge(filename, files)
  }

  #judge(filename: string, files: readonly string[]): void {
    if (!qemu.path) return
    for (const file of files) {
      execFileSync('qemu-img', ['check', '-q', file], { stdio: 'pipe' })
    }
    const raw = `${folder}/${this.#folder}.raw`
    execFileSync('qemu-img', ['convert', '-O', 'raw', filename, raw], { stdio: 'pipe' })
    this.#same(readFileSync(raw), this.#model, 'what QEMU reads')
  }

  #same(found: Uint8Array, expected: Uint8Array, what: string, start = 0): void {
    if (Buffer.compare(found, expected) === 0) return
    const at = expected.findIndex((byte, index) => byte !== found[index])
    const last = expected.findLastIndex((byte, index) => byte !== found[index])
    expect.fail(
      `${what} (${found.length} bytes, ${expected.length} expected) differs from ` +
        `${start + at} to ${start + last}: ${found[at]} instead of ${expected[at]}`,
    )
  }

  async #step(): Promise<void> {
    await this.#reap(false)
    const chance = this.#random.below(100)
    if (chance < 60) return this.#write()
    if (chance < 70) return await this.#readSome()
    if (chance < 74) return await this.#snapshot()
    if (chance < 78) return await this.#stream()
    if (chance < 82) return await this.#commit()
    if (chance < 86) return await this.#mirror()
    if (chance < 90) return await this.#backup()
    if (chance < 94) return await this.#disturb()
    if (chance < 96) return await this.#reopen()
    if (chance < 97) return await this.#grow()
    await nextTurn()
  }

  /** Begins a write, zeroing or discard that touches nothing in flight. */
  #write(): void {
    const [offset, length] = this.#random.range(this.#model.length, 512, 256 * 1024)
    const range = { offset, length }
    if ([...this.#inFlight.keys()].some((other) => overlap(other, range))) return
    const kind = this.#random.below(4)
    const data = kind < 2 ? this.#random.bytes(length) : new Uint8Array(length)
    this.#model.set(data, offset)
    this.#note(`${['write', 'write', 'zero', 'zero+unmap'][kind]} ${offset}+${length}`)
    const work = async () => {
      if (kind < 2) await this.#guest.write(offset, data)
      else await this.#guest.writeZeroes(offset, length, { mayUnmap: kind === 3 })
    }
    const done = work().finally(() => this.#inFlight.delete(range))
    // Whoever settles the writes sees the failure.
    done.catch(() => {})
    this.#inFlight.set(range, done)
  }

  async #readSome(): Promise<void> {
    const [offset, length] = this.#random.range(this.#model.length, 512, 256 * 1024)
    const range = { offset, length }
    for (const [other, done] of [...this.#inFlight]) if (overlap(other, range)) await done
    const found = new Uint8Array(length)
    await this.#guest.read(offset, found)
    const expected = this.#model.subarray(offset, offset + length)
    this.#same(found, expected, 'what the guest reads', offset)
  }

  async #verify(): Promise<void> {
    await this.#settle()
    const found = new Uint8Array(this.#model.length)
    await this.#guest.read(0, found)
    this.#same(found, this.#model, 'the disk')
  }

  /** Waits for the guest's writes. */
  async #settle(): Promise<void> {
    await Promise.all([...this.#inFlight.values()])
  }

  async #snapshot(): Promise<void> {
    if (this.#chain().length > 5) return
    const name = this.#name('overlay')
    const node = this.#guest.node.name
    const below = this.#chain()[0]
    const options = await newImage(this.#daemon, this.#random, name, this.#guest.size, below)
    await this.#attempt('blockdev-add', { ...options, backing: null })
    if (!(await this.#attempt('blockdev-snapshot', { node, overlay: name }))) {
      await this.#attempt('blockdev-del', { 'node-name': name })
    }
  }

  async #stream(): Promise<void> {
    const chain = this.#chain()
    const device = this.#random.pick(chain)
    const below = chain.slice(chain.indexOf(device) + 2)
    const base = below.length > 0 && this.#random.chance(0.5) ? this.#random.pick(below) : undefined
    await this.#job('block-stream', { device, ...(base && { 'base-node': base }) })
  }

  async #commit(): Promise<void> {
    const chain = this.#chain()
    if (chain.length < 2) return
    const top = this.#random.below(chain.length - 1)
    const base = top + 1 + this.#random.below(chain.length - 1 - top)
    await this.#job('block-commit', {
      device: chain[0],
      'top-node': chain[top],
      'base-node': chain[base],
    })
  }

  async #mirror(): Promise<void> {
    const target = this.#name('mirror')
    const sync = this.#random.pick(['full', 'full', 'top', 'none'])
    const chain = this.#chain()
    // What is not copied shows through a backing file that is the same.
    const backing = sync === 'top' ? (chain[1] ?? null) : sync === 'none' ? chain[0] : null
    const { size: length } = this.#guest
    const options = await newImage(this.#daemon, this.#random, target, length, backing)
    if (!(await this.#attempt('blockdev-add', { ...options, backing }))) return
    const started = await this.#job('blockdev-mirror', {
      device: chain[0],
      target,
      sync,
      ...(this.#random.chance(0.5) && { 'copy-mode': 'write-blocking' }),
    })
    if (!started) await this.#attempt('blockdev-del', { 'node-name': target })
  }

  async #backup(): Promise<void> {
    const target = this.#name('backup')
    const filename = `${folder}/${target}.raw`
    const graph = this.#daemon.graph
    await createImage(graph, { filename, format: 'raw', options: { size: this.#guest.size } })
    const file = { driver: 'file', filename }
    await this.#attempt('blockdev-add', { driver: 'raw', 'node-name': target, file })
    await this.#settle()
    const expected = this.#model.slice()
    const args = { device: this.#chain()[0], target, sync: 'full' }
    await this.#job('blockdev-backup', args, async (error) => {
      const complete = error === undefined
      await this.#attempt('blockdev-del', { 'node-name': target })
      if (complete) {
        this.#same(readFileSync(filename), expected, `backup ${target}`)
      }
      await rm(filename)
    })
  }

  /** Does something to a job that runs. */
  async #disturb(): Promise<void> {
    const ids = [...this.#daemon.jobs.jobs.keys()]
    if (ids.length === 0) return
    const id = this.#random.pick(ids)
    const verb = this.#random.pick(['pause', 'resume', 'set-speed', 'end', 'end'])
    if (verb === 'end') await this.#end(id)
    else if (verb === 'set-speed') {
      const speed = this.#random.pick([0, 0, MiB, 64 * MiB])
      await this.#attempt('block-job-set-speed', { device: id, speed })
    } else await this.#attempt(`job-${verb}`, { id })
  }

  /** Completes a job that is ready, or cancels it. */
  async #end(id: string): Promise<void> {
    const job = this.#daemon.jobs.jobs.get(id)
    if (!job) return
    if (job.paused) await this.#attempt('job-resume', { id })
    const complete = job.status === 'ready' && this.#random.chance(0.6)
    await this.#attempt(complete ? 'job-complete' : 'job-cancel', { id })
  }

  async #reopen(): Promise<void> {
    const { node } = this.#guest
    if (node.driver !== 'qcow2') return
    const backing = node.children.get('backing')?.node.name ?? null
    const options = {
      driver: 'qcow2',
      'node-name': node.name,
      ...node.options,
      backing,
      discard: this.#random.pick(['unmap', 'ignore']),
      'detect-zeroes': this.#random.pick(['off', 'on']),
      'l2-cache-size': this.#random.pick([65536, MiB]),
      'lazy-refcounts': this.#random.chance(0.5),
    }
    await this.#attempt('blockdev-reopen', { options: [options] })
  }

  async #grow(): Promise<void> {
    if (this.#daemon.jobs.jobs.size > 0 || this.#model.length > 8 * MiB) return
    await this.#settle()
    const larger = this.#model.length + 65536 * (1 + this.#random.below(8))
    this.#note(`grow to ${larger}`)
    await this.#guest.truncate(larger)
    const model = new Uint8Array(larger)
    model.set(this.#model)
    this.#model = model
  }

  /** Begins a job of a random speed; false when it was refused, because of other jobs. */
  async #job(command: string, args: object, ended: Running['ended'] = () => {}): Promise<boolean> {
    const id = this.#name('job')
    const speed = this.#random.pick([0, 0, 8 * MiB])
    if (!(await this.#attempt(command, { 'job-id': id, speed, ...args }))) {
      await ended(new Error('not started'))
      return false
    }
    this.#running.push({ id, ended })
    const job = this.#daemon.jobs.jobs.get(id)
    const running = this.#running.at(-1) as Running & { outcome?: { error: unknown } }
    if (!job) Object.assign(running, { outcome: { error: undefined } })
    job?.done.then(
      () => Object.assign(running, { outcome: { error: undefined } }),
      (error) => Object.assign(running, { outcome: { error } }),
    )
    return true
  }

  /** Looks at what has come of the jobs that have ended. */
  async #reap(wait: boolean): Promise<void> {
    for (const running of [...this.#running] as (Running & { outcome?: { error: unknown } })[]) {
      const job = this.#daemon.jobs.jobs.get(running.id)
      if (wait) await job?.done.catch(() => {})
      await Promise.resolve()
      if (!running.outcome || (job && job.status !== 'null')) continue
      this.#running.splice(this.#running.indexOf(running), 1)
      const { error } = running.outcome
      this.#note(`${running.id} ended: ${error ?? 'well'}`)
      // Nothing fails here: what is not well was cancelled.
      if (error !== undefined) expect(String(error), this.log).toMatch(/cancel/i)
      await running.ended(error)
      // Whatever it did to the graph, the disk is the same.
      await this.#verify()
    }
    if (wait) await nextTurn()
  }

  /** Names of the images of the guest's chain, the topmost first. Filters of jobs are passed over. */
  #chain(): string[] {
    const names: string[] = []
    let node = this.#guest.node
    for (;;) {
      if (!node.isFilter) names.push(node.name)
      const next =
        (node.isFilter ? node.children.get('file') : undefined) ?? node.children.get('backing')
      if (!next) return names
      node = next.node
    }
  }

  /** Runs a command that may be refused for what else is going on. */
  async #attempt(command: string, args: object): Promise<boolean> {
    try {
      await this.#daemon.execute(command, args)
      this.#note(`${command} ${JSON.stringify(args)}`)
      return true
    } catch (error) {
      this.#note(`${command} ${JSON.stringify(args)}: refused: ${error}`)
      expect(String(error), this.log).not.toMatch(/TypeError|RangeError|AssertionError/)
      return false
    }
  }

  #name(prefix: string): string {
    return `${this.#folder}-${prefix}${this.#names++}`
  }

  #note(line: string): void {
    this.#log.push(line)
  }
}

async function newImage(
  daemon: StorageDaemon,
  random: Random,
  name: string,
  length: number,
  backing?: string | null,
) {
  const filename = `${folder}/${name}.qcow2`
  // Records are the user's business: what commands put on each other does not change them.
  const record = backing && { backing_file: `${folder}/${backing}.qcow2`, backing_fmt: 'qcow2' }
  const options = { size: length, cluster_size: random.pick(clusterSizes), ...record }
  await createImage(daemon.graph, { filename, format: 'qcow2', options })
  const file = { driver: 'file', filename }
  return { driver: 'qcow2', 'node-name': name, discard: 'unmap', file }
}

async function addImage(
  daemon: StorageDaemon,
  random: Random,
  name: string,
  length: number,
): Promise<Edge> {
  const options = await newImage(daemon, random, name, length)
  await daemon.execute('blockdev-add', options)
  return daemon.graph.attach(daemon.graph.node(name), {
    description: 'a guest',
    uses: ['consistentRead', 'write', 'resize'],
    shares: ['consistentRead', 'writeUnchanged'],
  })
}

function overlap(one: Range, other: Range): boolean {
  return one.offset < other.offset + other.length && other.offset < one.offset + one.length
}

for (const walk of [0, 1, 2]) {
  const seed = runSeed + walk
  it(`keeps the guest's data through ${steps} random steps (VARVE_SEED=${seed})`, async () => {
    const walking = await Walk.begin(new Random(seed), `w${walk}`)
    try {
      await walking.run(steps)
      await walking.end()
    } catch (error) {
      if (error instanceof Error) error.message += `\nseed ${seed}\n${walking.log}`
      throw error
    }
  })
}
