/**
 * Actions: changes that can be one of several that happen all or not at all, which is what QMP's
 * `transaction` does. Each has three parts: `prepare` does everything that can fail, and then
 * either `commit` makes it final or `abort` takes it back.
 */
import { BlockError } from '../errors.ts'
import type { BlockNode } from '../graph/node.ts'
import type { JobTransaction } from '../job/transaction.ts'
import { type Command, command } from './command.ts'
import type { ObjectType } from './schema/types.ts'
import type { StorageDaemon } from './storage-daemon.ts'

export interface ActionContext {
  readonly daemon: StorageDaemon
  /** What the jobs of the transaction share, if they are to end alike. */
  readonly jobs: JobTransaction | undefined
}

/** What has been prepared. Neither may fail, nor leave anything undone when others do. */
export interface Prepared {
  commit?(): void | Promise<void>
  abort?(): void | Promise<void>
}

/** Made by `action`, which forgets what the arguments are: they come checked against `args`. */
export interface Action<A = never> {
  readonly type: string
  readonly args: ObjectType<A>
  /** Whether it begins a job, which can end like the other jobs of the transaction. */
  readonly beginsJob?: boolean
  /**
   * Names of the nodes that it changes or preserves: their guests wait from before the first
   * action is prepared until the last is committed, so all happen in one moment.
   */
  nodes(args: A): readonly string[]
  prepare(args: A, context: ActionContext): Promise<Prepared>
}

export function action<A>(definition: Action<A>): Action {
  return definition as unknown as Action
}

/** An action and what it is to work on. */
export interface Step {
  readonly action: Action
  readonly args: unknown
}

/** Runs all steps, or none: what was prepared before one that fails is taken back, latest first. */
export async function runSteps(
  daemon: StorageDaemon,
  steps: readonly Step[],
  jobs?: JobTransaction,
): Promise<void> {
  const names = steps.flatMap(({ action, args }) => action.nodes(args as never))
  const nodes = [...new Set(names)]
    .map((name) => daemon.graph.nodes.get(name))
    .filter((node): node is BlockNode => node !== undefined)
  await daemon.graph.drained(nodes, async () => {
    const prepared: Prepared[] = []
    try {
      for (const { action, args } of steps) {
        if (jobs && !action.beginsJob) throw endsAlone(action)
        prepared.push(await action.prepare(args as never, { daemon, jobs }))
      }
    } catch (error) {
      for (const each of prepared.reverse()) await each.abort?.()
      throw error
    }
    for (const each of prepared) await each.commit?.()
  })
}

function endsAlone({ type }: Action): BlockError {
  return new BlockError(
    'UNSUPPORTED',
    `Action '${type}' does not support Transaction property completion-mode = grouped`,
  )
}

/** The command that does one action alone. */
export function actionCommand(action: Action, about: Pick<Command, 'topic' | 'doc'>): Command {
  return command({
    name: action.type,
    ...about,
    args: action.args,
    run: (args, { daemon }) => runSteps(daemon, [{ action, args }]),
  })
}
