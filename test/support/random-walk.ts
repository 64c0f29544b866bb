/**
 * A guest works on the top of a chain of images while, at random, overlays are put on it, jobs
 * begin, pause and are cancelled, options change and the disk grows; with `faults`, requests to
 * storage fail meanwhile. A model knows what the guest must read, what each finished backup must
 * hold, and what images below the top still show.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect } from 'vitest'
import { KiB, MiB } from '../../src/bytes/range.ts'
import { StorageDaemon } from '../../src/daemon/storage-daemon.ts'
import type { Edge } from '../../src/graph/edge.ts'
import { startBackup } from '../../src/job/backup.ts'
import { peer } from '../peers.ts'
import { DiskModel, expectSame } from './disk-model.ts'
import type { Faults } from './faults.ts'
import type { Random } from './random.ts'
import { cacheSizes, WalkImages } from './walk-images.ts'

const qemu = peer('qemu-img')
const size = 4 * MiB
const policies = ['report', 'report', 'ignore', 'stop', 'stop', 'enospc']

/** What a walk is made of. */
export interface WalkOptions {
  readonly random: Random
  readonly folder: string
  /** Begins the names of all images. */
  readonly name: string
  /** Armed at random; then nothing is sure but the data. */
  readonly faults?: Faults
}

/** A QMP command, or what takes its arguments. */
type Start = string | ((args: object) => Promise<void>)

interface Range {
  readonly offset: number
  readonly length: number
}

/** What a job was begun for, and what has to hold once it has ended. */
interface Running {
  readonly id: string
  readonly ended: (error: unknown) => void | Promise<void>
  outcome?: { readonly error: unknown }
}

export class Walk {
  readonly #options: WalkOptions
  readonly #random: Random
  readonly #daemon: StorageDaemon
  readonly #images: WalkImages
  readonly #guest: Edge
  readonly #model = new DiskModel(size)
  /** What images below the top show, where that is known. */
  readonly #frozen = new Map<string, Buffer>()
  readonly #inFlight = new Map<Range, Promise<void>>()
  readonly #running: Running[] = []
  /** All that was done, for the message of a failure. */
  readonly #log: string[] = []
  #names = 0

  static async begin(options: WalkOptions): Promise<Walk> {
    const daemon = new StorageDaemon()
    const { random, folder, name, faults } = options
    const images = new WalkImages(daemon, random, folder, faults)
    const base = `${name}-base`
    await daemon.execute('blockdev-add', await images.qcow2(base, size))
    const guest = daemon.graph.attach(daemon.graph.node(base), {
      description: 'a guest',
      uses: ['consistentRead', 'write', 'resize'],
      shares: ['consistentRead', 'writeUnchanged'],
    })
    return new Walk(options, daemon, images, guest)
  }

  private constructor(
    options: WalkOptions,
    daemon: StorageDaemon,
    images: WalkImages,
    guest: Edge,
  ) {
    this.#options = options
    this.#random = options.random
    this.#daemon = daemon
    this.#images = images
    this.#guest = guest
  }

  get log(): string {
    return this.#log.slice(-80).join('\n')
  }

  async run(count: number): Promise<void> {
    for (let step = 0; step < count; step++) {
      await this.#step()
      if (step % 50 === 49) await this.#verify()
    }
  }

  /** Ends all jobs, and closes everything; then the guest's disk is the chain's, for QEMU too. */
  async end(): Promise<void> {
    this.#options.faults?.disarm()
    await this.#settle()
    for (const id of [...this.#daemon.jobs.jobs.keys()]) await this.#end(id)
    while (this.#running.length > 0) await this.#reap(true)
    await this.#verify()
    for (const name of this.#chain().slice(1)) await this.#look(name)
    const files = [...this.#daemon.graph.nodes.values()]
      .filter(({ driver }) => driver === 'qcow2')
      .map((node) => this.#images.path(node.name))
    const [top] = this.#chain()
    await this.#guest[Symbol.asyncDispose]()
    await this.#daemon[Symbol.asyncDispose]()
    if (qemu.path) this.#judge(this.#images.path(top), files)
  }

  #judge(filename: string, files: readonly string[]): void {
    // A request that failed may leave clusters that nobody refers to.
    const sound = this.#options.faults ? [0, 3] : [0]
    for (const file of files) {
      const { status, stdout, stderr } = spawnSync('qemu-img', ['check', file])
      expect(sound, `${file}: ${stdout}${stderr}`).toContain(status)
    }
    const raw = `${this.#options.folder}/${this.#options.name}.raw`
    const { status, stderr } = spawnSync('qemu-img', ['convert', '-O', 'raw', filename, raw])
    expect(status, String(stderr)).toBe(0)
    expectSame(readFileSync(raw), this.#model.content, 'what QEMU reads')
  }

  async #step(): Promise<void> {
    await this.#reap(false)
    if (this.#options.faults && this.#random.chance(0.06)) this.#arm(this.#options.faults)
    const chance = this.#random.below(100)
    if (chance < 50) return this.#write()
    if (chance < 58) return await this.#readSome()
    if (chance < 63) return await this.#snapshot()
    if (chance < 68) return await this.#stream()
    if (chance < 73) return await this.#commit()
    if (chance < 78) return await this.#mirror()
    if (chance < 81) return await this.#backup()
    if (chance < 94) return await this.#disturb()
    if (chance < 96) return await this.#reopen()
    if (chance < 97) return await this.#grow()
    if (chance < 98) return await this.#look(this.#random.pick(this.#chain()))
    await nextTurn()
  }

  /** Lets some of the next requests fail. */
  #arm(faults: Faults): void {
    const failAt = this.#random.below(this.#random.pick([3, 30, 200]))
    const code = this.#random.pick(['IO', 'NO_SPACE'] as const)
    const count = this.#random.pick([1, 1, 2, 8])
    this.#note(`requests from ${failAt} on: ${count} times ${code}`)
    faults.arm(failAt, code, count)
  }

  /** Begins a write, zeroing or discard that touches nothing in flight. */
  #write(): void {
    const [offset, length] = this.#random.range(this.#model.size, 512, 256 * 1024)
    const range = { offset, length }
    if ([...this.#inFlight.keys()].some((other) => overlap(other, range))) return
    const kind = this.#random.below(4)
    const data = kind < 2 ? this.#random.bytes(length) : new Uint8Array(length)
    const failed = this.#model.write(offset, data)
    const what = `${['write', 'write', 'zero', 'zero+unmap'][kind]} ${offset}+${length}`
    this.#note(what)
    const work = async () => {
      try {
        if (kind < 2) await this.#guest.write(offset, data)
        else await this.#guest.writeZeroes(offset, length, { mayUnmap: kind === 3 })
      } catch (error) {
        this.#checkFault(error)
        this.#note(`${what} failed`)
        failed()
      } finally {
        this.#inFlight.delete(range)
      }
    }
    const done = work()
    // Whoever settles the writes sees the failure.
    done.catch(() => {})
    this.#inFlight.set(range, done)
  }

  async #readSome(): Promise<void> {
    const [offset, length] = this.#random.range(this.#model.size, 512, 256 * 1024)
    const range = { offset, length }
    for (const [other, done] of [...this.#inFlight]) if (overlap(other, range)) await done
    const found = new Uint8Array(length)
    try {
      await this.#guest.read(offset, found)
    } catch (error) {
      return this.#checkFault(error)
    }
    this.#model.check(found, offset, 'what the guest reads')
  }

  async #verify(): Promise<void> {
    await this.#settle()
    this.#options.faults?.disarm()
    const found = new Uint8Array(this.#model.size)
    await this.#guest.read(0, found)
    this.#model.check(found, 0, 'the disk')
  }

  /** Waits for the guest's writes. */
  async #settle(): Promise<void> {
    await Promise.all([...this.#inFlight.values()])
  }

  /** Whether an image of the chain still shows what it is known to. */
  async #look(name: string): Promise<void> {
    const expected = this.#frozen.get(name)
    if (!expected) return
    const { graph } = this.#daemon
    let edge: Edge
    try {
      edge = graph.attach(graph.node(name), { description: 'a look', uses: ['consistentRead'] })
    } catch {
      // A job keeps readers away.
      return
    }
    this.#options.faults?.disarm()
    const found = new Uint8Array(edge.size)
    await edge.read(0, found)
    await edge[Symbol.asyncDispose]()
    expectSame(found, expected, `image ${name}`)
    this.#note(`looked at ${name}`)
  }

  async #snapshot(): Promise<void> {
    if (this.#chain().length > 5) return
    const name = this.#name('overlay')
    const [below] = this.#chain()
    // The image itself, or the filter of a job above it, which refuses. Of now: what is recorded in the overlay is
    // this backing file, and a job that ends meanwhile gives the guest another disk.
    const node = this.#random.pick([below, below, this.#guest.node.name])
    const known = this.#random.chance(0.5)
    if (known) await this.#verify()
    const options = await this.#images.qcow2(name, this.#guest.size, below)
    await this.#attempt('blockdev-add', { ...options, backing: null })
    if (!(await this.#attempt('blockdev-snapshot', { node, overlay: name }))) {
      await this.#remove(name)
    } else if (known) this.#frozen.set(below, this.#model.content)
  }

  async #stream(): Promise<void> {
    const chain = this.#chain()
    const device = this.#random.pick(chain)
    const below = chain.slice(chain.indexOf(device) + 2)
    const base = below.length > 0 && this.#random.chance(0.5) ? this.#random.pick(below) : undefined
    await this.#job('block-stream', {
      device,
      ...(base && { 'base-node': base }),
      ...this.#policies('on-error'),
    })
  }

  async #commit(): Promise<void> {
    const chain = this.#chain()
    if (chain.length < 2) return
    const top = this.#random.below(chain.length - 1)
    const base = top + 1 + this.#random.below(chain.length - 1 - top)
    // Images between the two show a mixture, and the base something else, or it too.
    for (const name of chain.slice(top + 1, base + 1)) this.#frozen.delete(name)
    const shown = this.#frozen.get(chain[top])
    const options = {
      device: this.#random.pick([chain[0], chain[0], this.#guest.node.name]),
      'top-node': chain[top],
      'base-node': chain[base],
      ...this.#policies('on-error'),
    }
    await this.#job('block-commit', options, (error) => {
      if (shown && error === undefined && top > 0) this.#frozen.set(chain[base], shown)
    })
  }

  async #mirror(): Promise<void> {
    const target = this.#name('mirror')
    const sync = this.#random.pick(['full', 'full', 'top', 'none'])
    const chain = this.#chain()
    // A job that ends meanwhile gives the guest another disk, of which that is not the right backing file.
    const device = this.#random.pick([chain[0], chain[0], this.#guest.node.name])
    // What is not copied shows through a backing file that is the same.
    const backing = sync === 'top' ? (chain[1] ?? null) : sync === 'none' ? chain[0] : null
    const options = await this.#images.qcow2(target, this.#guest.size, backing)
    if (!(await this.#attempt('blockdev-add', { ...options, backing }))) {
      return await this.#images.forget(target)
    }
    const started = await this.#job('blockdev-mirror', {
      device,
      target,
      sync,
      ...(this.#random.chance(0.5) && { 'copy-mode': 'write-blocking' }),
      ...this.#policies('on-source-error', 'on-target-error'),
    })
    if (!started) await this.#remove(target)
  }

  async #backup(): Promise<void> {
    const target = this.#name('backup')
    const options = await this.#images.raw(target, this.#guest.size)
    const fleecing = this.#random.chance(0.4)
    if (!(await this.#attempt('blockdev-add', options))) {
      return await this.#images.forget(target)
    }
    await this.#verify()
    const expected = this.#model.content
    const args = {
      device: this.#chain()[0],
      target,
      sync: 'full',
      ...this.#policies('on-source-error', 'on-target-error'),
    }
    const start = fleecing ? (job: object) => this.#fleece(target, job) : 'blockdev-backup'
    await this.#job(start, args, async (error) => {
      const filename = this.#images.path(target, 'raw')
      this.#options.faults?.disarm()
      await this.#remove(target)
      if (error === undefined) expectSame(readFileSync(filename), expected, `backup ${target}`)
      await rm(filename)
    })
  }

  /** As `blockdev-backup`, which has no argument for it. */
  async #fleece(target: string, args: object): Promise<void> {
    const { graph, jobs } = this.#daemon
    const { 'job-id': id, speed, ...rest } = args as Record<string, never>
    const limit = this.#random.pick([0, 128 * KiB, MiB])
    const onFull = this.#random.pick(['slow', 'slow', 'give-up'] as const)
    this.#note(`${id}: fleecing, ${limit} bytes, ${onFull}`)
    await startBackup(graph, jobs, {
      id,
      speed,
      source: graph.node(rest.device),
      target: graph.node(target),
      sync: 'full',
      onSourceError: rest['on-source-error'],
      onTargetError: rest['on-target-error'],
      fleecing: { folder: this.#options.folder, limit, onFull },
    })
  }

  /** Does something to a job that runs. */
  async #disturb(): Promise<void> {
    const ids = [...this.#daemon.jobs.jobs.keys()]
    if (ids.length === 0) return
    const id = this.#random.pick(ids)
    const verbs = ['pause', 'resume', 'set-speed', 'end', 'end', 'wait', 'wait', 'wait']
    const verb = this.#random.pick(verbs)
    if (verb === 'end') await this.#end(id)
    else if (verb === 'wait') await this.#await(id)
    else if (verb === 'set-speed') {
      const speed = this.#random.pick([0, 0, MiB, 64 * MiB])
      await this.#attempt('block-job-set-speed', { device: id, speed })
    } else await this.#attempt(`job-${verb}`, { id })
  }

  /** Gives a job time to end, or to get ready, and resumes it when it has stopped. */
  async #await(id: string): Promise<void> {
    const job = this.#daemon.jobs.get(id)
    if (job.paused) await this.#attempt('job-resume', { id })
    for (let turn = 0; turn < 300 && job.status === 'running'; turn++) await nextTurn()
    if (job.status === 'ready') await this.#attempt('job-complete', { id })
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
      'l2-cache-size': this.#random.pick(cacheSizes),
      'lazy-refcounts': this.#random.chance(0.5),
    }
    await this.#attempt('blockdev-reopen', { options: [options] })
  }

  async #grow(): Promise<void> {
    if (this.#daemon.jobs.jobs.size > 0 || this.#model.size > 8 * MiB) return
    await this.#settle()
    const larger = this.#model.size + 65536 * (1 + this.#random.below(8))
    this.#note(`grow to ${larger}`)
    try {
      await this.#guest.truncate(larger)
    } catch (error) {
      this.#checkFault(error)
      this.#note(`it has ${this.#guest.size} bytes`)
    }
    expect([this.#model.size, larger]).toContain(this.#guest.size)
    this.#model.grow(this.#guest.size)
  }

  /** Begins a job of a random speed; false when it was refused, because of other jobs. */
  async #job(command: Start, args: object, ended: Running['ended'] = () => {}): Promise<boolean> {
    const id = this.#name('job')
    const speed = this.#random.pick([0, 0, 8 * MiB])
    if (!(await this.#attempt(command, { 'job-id': id, speed, ...args }))) {
      await ended(new Error('not started'))
      return false
    }
    const running: Running = { id, ended }
    this.#running.push(running)
    const job = this.#daemon.jobs.jobs.get(id)
    if (!job) running.outcome = { error: undefined }
    job?.done.then(
      () => {
        running.outcome = { error: undefined }
      },
      (error) => {
        running.outcome = { error }
      },
    )
    return true
  }

  /** What the job is to do about errors, under those names. */
  #policies(...names: string[]): Record<string, string> {
    if (!this.#options.faults) return {}
    return Object.fromEntries(names.map((name) => [name, this.#random.pick(policies)]))
  }

  /** Looks at what has come of the jobs that have ended. */
  async #reap(wait: boolean): Promise<void> {
    for (const running of [...this.#running]) {
      const job = this.#daemon.jobs.jobs.get(running.id)
      if (wait) await job?.done.catch(() => {})
      await Promise.resolve()
      if (!running.outcome || (job && job.status !== 'null')) continue
      this.#running.splice(this.#running.indexOf(running), 1)
      const { error } = running.outcome
      this.#note(`${running.id} ended: ${error ?? 'well'}`)
      const expected = /cancel|spill area is full/i
      if (error !== undefined && !expected.test(String(error))) this.#checkFault(error)
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

  async #remove(name: string): Promise<void> {
    if (await this.#attempt('blockdev-del', { 'node-name': name })) await this.#images.forget(name)
  }

  /** Runs a command that may be refused for what else is going on. */
  async #attempt(start: Start, args: object): Promise<boolean> {
    const command = typeof start === 'string' ? start : 'backup with fleecing'
    try {
      await (typeof start === 'string' ? this.#daemon.execute(start, args) : start(args))
      this.#note(`${command} ${JSON.stringify(args)}`)
      return true
    } catch (error) {
      this.#note(`${command} ${JSON.stringify(args)}: refused: ${error}`)
      expect(String(error), this.log).not.toMatch(/TypeError|RangeError|AssertionError/)
      return false
    }
  }

  /** Nothing fails but what was made to. */
  #checkFault(error: unknown): void {
    if (!this.#options.faults) throw error
    expect(String(error), this.log).toMatch(/injected/)
  }

  #name(prefix: string): string {
    return `${this.#options.name}-${prefix}${this.#names++}`
  }

  #note(line: string): void {
    this.#log.push(line)
  }
}

function overlap(one: Range, other: Range): boolean {
  return one.offset < other.offset + other.length && other.offset < one.offset + one.length
}
