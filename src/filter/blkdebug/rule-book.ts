/**
 * The rules of one blkdebug node and what they have come to: the state, the errors that are armed,
 * the requests that wait at breakpoints.
 *
 * An event arms the errors of its rules, in place of those that were armed before; they stay armed
 * for all requests that follow, until an event arms others. `once` ends an error after its first
 * victim.
 */
import type { Breakpoints, DebugEvent } from '../../block/debug.ts'
import { isDebugEvent } from '../../block/debug.ts'
import type { Completion } from '../../block/layer.ts'
import { BlockError } from '../../errors.ts'
import type { InjectError, IoType, Rule } from './rule-options.ts'

interface Suspended {
  readonly tag: string
  readonly resume: () => void
}

/** What happens to requests at breakpoints, for those who show it. */
export type BreakpointNews = { readonly kind: 'suspended' | 'resumed'; readonly tag: string }

export class RuleBook implements Breakpoints {
  readonly #rules = new Map<DebugEvent, Rule[]>()
  readonly #tell: (news: BreakpointNews) => void
  #state = 1
  #armed: readonly InjectError[] = []
  #suspended: Suspended[] = []
  #watchers: (() => void)[] = []

  constructor(rules: readonly Rule[], tell: (news: BreakpointNews) => void) {
    this.#tell = tell
    for (const rule of rules) this.#add(rule)
    this.happened('none')
  }

  /** Acts on an event; a promise if breakpoints hold the request up. */
  happened(event: DebugEvent): Completion {
    const rules = this.#rules.get(event)
    if (!rules) return
    const meant = rules.filter(({ state }) => state === 0 || state === this.#state)
    const armed = meant.filter((rule) => rule.kind === 'inject-error')
    if (armed.length > 0) this.#armed = armed
    const entered = meant.find((rule) => rule.kind === 'set-state')
    if (entered) this.#state = entered.newState
    const breaks = meant.filter((rule) => rule.kind === 'suspend')
    if (breaks.length === 0) return
    for (const rule of breaks) this.#drop(rule)
    return this.#suspend(breaks.map(({ tag }) => tag))
  }

  /** The error that a request of that kind and place meets, if any. */
  errorFor(type: IoType, offset: number, length: number): InjectError | undefined {
    const found = this.#armed.find(
      (rule) =>
        rule.ioTypes.has(type) &&
        (rule.offset === undefined || (rule.offset >= offset && rule.offset < offset + length)),
    )
    if (found?.once) {
      this.#armed = this.#armed.filter((rule) => rule !== found)
      this.#drop(found)
    }
    return found
  }

  set(event: string, tag: string): void {
    if (!isDebugEvent(event)) {
      throw new BlockError('INVALID_ARGUMENT', `there is no event '${event}'`, { errno: 'ENOENT' })
    }
    this.#add({ kind: 'suspend', event, state: 0, tag })
  }

  remove(tag: string): boolean {
    const dropped = [...this.#rules.values()]
      .flat()
      .filter((rule) => rule.kind === 'suspend' && rule.tag === tag)
    for (const rule of dropped) this.#drop(rule)
    while (this.resume(tag));
    return dropped.length > 0
  }

  resume(tag: string): boolean {
    const index = this.#suspended.findIndex((each) => each.tag === tag)
    if (index < 0) return false
    const [found] = this.#suspended.splice(index, 1)
    this.#tell({ kind: 'resumed', tag })
    found.resume()
    return true
  }

  suspended(tag: string): Completion {
    if (this.#suspended.some((each) => each.tag === tag)) return
    return new Promise<void>((resolve) => this.#watchers.push(resolve)).then(() =>
      this.suspended(tag),
    )
  }

  /** Lets all requests go on: the node is about to close. */
  resumeAll(): void {
    for (const { tag } of [...this.#suspended]) this.resume(tag)
  }

  #add(rule: Rule): void {
    const rules = this.#rules.get(rule.event)
    if (rules) rules.push(rule)
    else this.#rules.set(rule.event, [rule])
  }

  #drop(rule: Rule): void {
    const left = this.#rules.get(rule.event)?.filter((each) => each !== rule) ?? []
    if (left.length > 0) this.#rules.set(rule.event, left)
    else this.#rules.delete(rule.event)
  }

  /** Until every one of the tags was resumed; the one set last is the first to be told of. */
  async #suspend(tags: readonly string[]): Promise<void> {
    const waiting = tags.toReversed().map(
      (tag) =>
        new Promise<void>((resolve) => {
          this.#suspended.push({ tag, resume: resolve })
          this.#tell({ kind: 'suspended', tag })
        }),
    )
    const watchers = this.#watchers
    this.#watchers = []
    for (const wake of watchers) wake()
    await Promise.all(waiting)
  }
}
