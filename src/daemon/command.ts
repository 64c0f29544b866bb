/** What one QMP command is: the row of the command table. */
import type { MonitorSession } from './monitor-session.ts'
import type { ObjectType, Type } from './schema/types.ts'
import type { StorageDaemon } from './storage-daemon.ts'

/** A monitor negotiates first and then takes commands. */
export type MonitorState = 'negotiation' | 'command'

export interface CommandContext {
  readonly daemon: StorageDaemon
  /** Undefined when the library, not a monitor, runs the command. */
  readonly session: MonitorSession | undefined
}

/** Subjects, in the order of the manual's chapters. */
export type Topic =
  | 'Monitor'
  | 'Block nodes'
  | 'Dirty bitmaps'
  | 'Jobs'
  | 'Backup'
  | 'NBD and exports'
  | 'Objects'
  | 'Character devices'

export interface Command {
  readonly name: string
  readonly topic: Topic
  /** One or more sentences for the manual. */
  readonly doc: string
  readonly args: ObjectType
  /** Nothing unless given. */
  readonly returns?: Type
  readonly returnsDoc?: string
  readonly features?: readonly string[]
  /** A command of ours that QEMU's storage daemon does not have. */
  readonly addition?: boolean
  readonly states: readonly MonitorState[]
  /**
   * Runs beside other commands. All others run one at a time, whichever monitor they come from,
   * so they need not expect the graph to change under them.
   */
  readonly concurrent?: boolean
  readonly run: (args: never, context: CommandContext) => unknown
}

interface Definition<A, R> {
  readonly name: string
  readonly topic: Topic
  readonly doc: string
  readonly args: ObjectType<A>
  readonly returns?: Type<R>
  readonly returnsDoc?: string
  readonly features?: readonly string[]
  readonly addition?: boolean
  readonly states?: readonly MonitorState[]
  readonly concurrent?: boolean
  readonly run: (args: A, context: CommandContext) => R | undefined | void | Promise<R | void>
}

/** A row; its handler gets arguments of the declared type, checked. */
export function command<A, R = never>(definition: Definition<A, R>): Command {
  return { states: ['command'], ...definition } as Command
}
