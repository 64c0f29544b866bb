/**
 * The backups of a random walk: of the whole disk, with and without fleecing, and series of which
 * each takes up what a dirty bitmap says has changed since the last.
 */
import { readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { KiB, MiB } from '../../../src/bytes/range.ts'
import { startBackup } from '../../../src/job/backup.ts'
import { expectSame } from '../disk-model.ts'
import type { WalkGround } from './ground.ts'
import type { WalkGuest } from './guest.ts'
import type { WalkJobs } from './jobs.ts'

type Action = { readonly type: string; readonly data: object }

/** A target that is kept like a disk, and the bitmap of what it lacks. */
interface Series {
  /** The image whose changes the bitmap records. */
  readonly node: string
  readonly bitmap: string
  readonly target: string
  readonly size: number
  /** Whether a backup has ended well, so that the target lacks nothing but what the bitmap says. */
  begun: boolean
  running: boolean
  /** What the image below shows has been changed by others than its writers. */
  mixed: boolean
}

export class WalkBackups {
  readonly #ground: WalkGround
  readonly #guest: WalkGuest
  readonly #jobs: WalkJobs
  #series: Series | undefined

  constructor(ground: WalkGround, guest: WalkGuest, jobs: WalkJobs) {
    this.#ground = ground
    this.#guest = guest
    this.#jobs = jobs
  }

  /** Of the top as it is now, or of `device`, which holds `content`. */
  async whole(device?: string, content?: Buffer): Promise<void> {
    const { random } = this.#ground
    const target = await this.#target(content?.length)
    if (target === undefined) return
    if (!content) await this.#guest.verify()
    const expected = content ?? this.#guest.content
    const args = {
      device: device ?? this.#guest.chain()[0],
      target,
      sync: 'full',
      ...this.#ground.policies('on-source-error', 'on-target-error'),
    }
    const isFleeced = random.chance(0.4)
    const start = isFleeced ? (job: object) => this.#fleece(target, job) : 'blockdev-backup'
    await this.#jobs.begin(start, args, async (error) => {
      if (error === undefined) this.#check(target, expected)
      await this.#drop(target)
    })
  }

  /** Begins a series, or goes on with it. */
  async next(): Promise<void> {
    const series = this.#series
    if (!series) return await this.#begin()
    if (series.running) return
    const [top] = this.#guest.chain()
    const isOver = !series.begun || series.mixed || series.size !== this.#guest.edge.size
    if (isOver || this.#ground.random.chance(0.1)) return await this.forget()
    // It is the top's bitmap that knows; the top may be the same again later.
    if (top !== series.node) return this.#ground.random.chance(0.3) ? this.forget() : undefined
    await this.#guest.verify()
    if (this.#guest.chain()[0] !== series.node) return
    if (this.#ground.random.chance(0.4)) await this.#takeAside(series)
    else await this.#follow(series)
  }

  /** What these images show is no longer a disk of anybody's: a bitmap of one is worth nothing. */
  mixed(names: readonly string[]): void {
    if (this.#series && names.includes(this.#series.node)) this.#series.mixed = true
  }

  /** Of what has been written behind our backs, only a bitmap in the image knows. */
  get isTransient(): boolean {
    return this.#series !== undefined && !this.#series.bitmap.includes('kept')
  }

  async forget(): Promise<void> {
    const series = this.#series
    if (!series || series.running) return
    this.#series = undefined
    const { node, bitmap: name } = series
    await this.#ground.attempt('block-dirty-bitmap-remove', { node, name })
    await this.#drop(series.target)
  }

  /** A bitmap and a whole backup in one moment. */
  async #begin(): Promise<void> {
    const { random } = this.#ground
    const target = await this.#target()
    if (target === undefined) return
    await this.#guest.verify()
    const [node] = this.#guest.chain()
    const persistent = random.chance(0.5)
    const bitmap = this.#ground.newName(persistent ? 'kept' : 'bitmap')
    const size = this.#guest.edge.size
    const series = { node, bitmap, target, size, begun: false, running: false, mixed: false }
    const granularity = random.pick([512, 4096, 65536])
    const add = { node, name: bitmap, granularity, persistent }
    const backup = { ...this.#job(series), sync: 'full' }
    const actions = [
      { type: 'block-dirty-bitmap-add', data: add },
      { type: 'blockdev-backup', data: backup },
      ...(random.chance(0.1) ? [{ type: 'abort', data: {} }] : []),
    ]
    this.#series = series
    if (!(await this.#start(series, actions, backup))) {
      this.#series = undefined
      await this.#drop(target)
    }
  }

  /** The bitmap itself is used, which knows how to go on after a failure. */
  async #follow(series: Series): Promise<void> {
    const { random } = this.#ground
    const mode = random.pick(['incremental', 'on-success', 'never', 'always'])
    const sync = mode === 'incremental' ? { sync: mode } : { sync: 'bitmap', 'bitmap-mode': mode }
    const backup = { ...this.#job(series), ...sync, bitmap: series.bitmap }
    await this.#start(series, [{ type: 'blockdev-backup', data: backup }], backup)
  }

  /** A copy of the bitmap is used, as clients with checkpoints do, and given back after a failure. */
  async #takeAside(series: Series): Promise<void> {
    const { node, bitmap } = series
    const aside = this.#ground.newName('aside')
    const backup = {
      ...this.#job(series),
      ...{ sync: 'bitmap', 'bitmap-mode': 'never', bitmap: aside },
    }
    const actions = [
      { type: 'block-dirty-bitmap-add', data: { node, name: aside, disabled: true } },
      { type: 'block-dirty-bitmap-merge', data: { node, target: aside, bitmaps: [bitmap] } },
      { type: 'block-dirty-bitmap-clear', data: { node, name: bitmap } },
      { type: 'blockdev-backup', data: backup },
      ...(this.#ground.random.chance(0.2) ? [{ type: 'abort', data: {} }] : []),
    ]
    await this.#start(series, actions, backup, async (failed) => {
      const merge = { node, target: bitmap, bitmaps: [aside] }
      if (failed && !(await this.#ground.attempt('block-dirty-bitmap-merge', merge))) {
        series.mixed = true
      }
      await this.#ground.attempt('block-dirty-bitmap-remove', { node, name: aside })
    })
  }

  /** In one transaction; when the job has ended well the target holds what the disk holds now. */
  async #start(
    series: Series,
    actions: readonly Action[],
    { 'job-id': id }: { readonly 'job-id': string },
    ended: (failed: boolean) => Promise<void> = async () => {},
  ): Promise<boolean> {
    const expected = this.#guest.content
    if (!(await this.#ground.attempt('transaction', { actions }))) return false
    series.running = true
    this.#jobs.follow(id, async (error) => {
      series.running = false
      await ended(error !== undefined)
      if (error !== undefined) return
      this.#check(series.target, expected)
      series.begun = true
    })
    return true
  }

  #job(series: Pick<Series, 'node' | 'target'>) {
    return {
      ...(this.#jobs.options() as { 'job-id': string }),
      device: series.node,
      target: series.target,
      ...this.#ground.policies('on-source-error', 'on-target-error'),
    }
  }

  /** A raw image of the guest's size, open. */
  async #target(size = this.#guest.edge.size): Promise<string | undefined> {
    const { images } = this.#ground
    const target = this.#ground.newName('backup')
    const options = await images.raw(target, size)
    if (await this.#ground.attempt('blockdev-add', options)) return target
    await images.forget(target)
    return undefined
  }

  #check(target: string, expected: Buffer): void {
    const found = readFileSync(this.#ground.images.path(target, 'raw'))
    expectSame(found, expected, `backup ${target}`)
  }

  async #drop(target: string): Promise<void> {
    this.#ground.faults?.disarm()
    await this.#ground.remove(target)
    await rm(this.#ground.images.path(target, 'raw'))
  }

  /** As `blockdev-backup`, which has no argument for it. */
  async #fleece(target: string, args: object): Promise<void> {
    const { graph, jobs } = this.#ground.daemon
    const { 'job-id': id, speed, ...rest } = args as Record<string, never>
    const limit = this.#ground.random.pick([0, 128 * KiB, MiB])
    const onFull = this.#ground.random.pick(['slow', 'slow', 'give-up'] as const)
    this.#ground.note(`${id}: fleecing, ${limit} bytes, ${onFull}`)
    await startBackup(graph, jobs, {
      id,
      speed,
      source: graph.node(rest.device),
      target: graph.node(target),
      sync: 'full',
      onSourceError: rest['on-source-error'],
      onTargetError: rest['on-target-error'],
      manualFinalize: rest['auto-finalize'] === false,
      manualDismiss: rest['auto-dismiss'] === false,
      fleecing: { folder: this.#ground.folder, limit, onFull },
    })
  }
}
