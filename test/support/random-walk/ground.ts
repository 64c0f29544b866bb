/** What all parts of a random walk share: the daemon, chance, images, faults, and the log. */
import { expect } from 'vitest'
import { StorageDaemon } from '../../../src/daemon/storage-daemon.ts'
import type { Faults } from '../faults.ts'
import type { Random } from '../random.ts'
import { WalkImages } from './images.ts'

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
export type Start = string | ((args: object) => Promise<unknown>)

export class WalkGround {
  readonly random: Random
  readonly folder: string
  readonly name: string
  readonly faults: Faults | undefined
  readonly daemon = new StorageDaemon()
  readonly images: WalkImages
  /** All that was done, for the message of a failure. */
  readonly #log: string[] = []
  #names = 0

  constructor({ random, folder, name, faults }: WalkOptions) {
    this.random = random
    this.folder = folder
    this.name = name
    this.faults = faults
    this.images = new WalkImages(this.daemon, random, folder, faults)
  }

  get log(): string {
    return this.#log.slice(-400).join('\n')
  }

  get hasJobs(): boolean {
    return this.daemon.jobs.jobs.size > 0
  }

  note(line: string): void {
    this.#log.push(line)
  }

  newName(prefix: string): string {
    return `${this.name}-${prefix}${this.#names++}`
  }

  /** Runs a command that may be refused for what else is going on. */
  async attempt(start: Start, args: object, what = 'backup with fleecing'): Promise<boolean> {
    const command = typeof start === 'string' ? start : what
    try {
      await (typeof start === 'string' ? this.daemon.execute(start, args) : start(args))
      this.note(`${command} ${JSON.stringify(args)}`)
      return true
    } catch (error) {
      this.note(`${command} ${JSON.stringify(args)}: refused: ${error}`)
      expect(String(error), this.log).not.toMatch(/TypeError|RangeError|AssertionError/)
      return false
    }
  }

  /** Nothing fails but what was made to. */
  checkFault(error: unknown): void {
    if (!this.faults) throw error
    expect(String(error), this.log).toMatch(/injected|no longer complete/)
  }

  /** Gives up a node and the storage below it; false when it is in use. */
  async remove(name: string): Promise<boolean> {
    const removed = await this.attempt('blockdev-del', { 'node-name': name })
    if (removed) await this.images.forget(name)
    return removed
  }

  /** What a job, or a filter, is to do about errors, under those names. */
  policies(...names: string[]): Record<string, string> {
    if (!this.faults) return {}
    return Object.fromEntries(names.map((name) => [name, this.random.pick(policies)]))
  }
}

const policies = ['report', 'report', 'ignore', 'stop', 'stop', 'enospc']
