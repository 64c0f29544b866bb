/** Choices of names: mostly of what is there and fits, sometimes of what is not. */
import type { Random } from '../random.ts'
import type { Value } from './spoilt.ts'
import { bitmapsOf, type View, worldFiles } from './world.ts'

export class Names {
  readonly random: Random
  readonly view: View

  constructor(random: Random, view: View) {
    this.random = random
    this.view = view
  }

  node(wanted?: (driver: string) => boolean): string {
    const { random } = this
    const all = this.view.nodes.map((node) => ({
      name: String(node['node-name']),
      driver: String(node.drv),
    }))
    const named = all.filter(({ name }) => !name.startsWith('#'))
    const fitting = wanted ? named.filter(({ driver }) => wanted(driver)) : named
    const from = fitting.length > 0 && random.chance(0.9) ? fitting : named
    if (from.length === 0 || random.chance(0.03)) return 'no-such'
    return random.pick(from).name
  }

  /** Something a guest or a job would use. */
  disk(): string {
    return this.node((driver) => driver !== 'file')
  }

  qcow2(): string {
    return this.node((driver) => driver === 'qcow2')
  }

  freshNode(): string {
    return this.random.chance(0.03) ? this.node() : `n${this.random.below(14)}`
  }

  /** A job that is there, rarely one that is not. */
  job(status?: string): string {
    const { random } = this
    const fitting = this.view.jobs.filter((job) => status === undefined || job.status === status)
    const from = fitting.length > 0 ? fitting : this.view.jobs
    if (from.length === 0 || random.chance(0.05)) return 'no-such'
    return String(random.pick(from).id)
  }

  freshJob(): string {
    return `j${this.random.below(8)}`
  }

  bitmap(): { node: string; name: string } {
    const all = bitmapsOf(this.view)
    if (all.length === 0 || this.random.chance(0.1)) {
      return { node: this.disk(), name: this.random.pick(['m0', 'm1', 'no-such']) }
    }
    return this.random.pick(all)
  }

  bitmapOf(node: string): string {
    const own = bitmapsOf(this.view).filter((each) => each.node === node)
    return own.length > 0 ? this.random.pick(own).name : this.random.pick(['m0', 'm1'])
  }

  freshBitmap(): string {
    return this.random.pick(['m0', 'm1', 'm2', 'm3', ''])
  }

  one(names: readonly string[]): string {
    return names.length === 0 || this.random.chance(0.05) ? 'no-such' : this.random.pick(names)
  }

  file(format?: string): string {
    const fitting = worldFiles.filter((file) => format === undefined || file.format === format)
    return this.random.chance(0.02) ? 'no-such.raw' : this.random.pick(fitting).name
  }

  /** Each member with its own chance to be there. */
  some(chance: number, members: Readonly<Record<string, () => Value>>): Record<string, Value> {
    const chosen = Object.entries(members).filter(() => this.random.chance(chance))
    return Object.fromEntries(chosen.map(([name, value]) => [name, value()]))
  }

  flag(): boolean {
    return this.random.chance(0.5)
  }
}
