/** What a command gets from the process that runs it, and what it gives back. */
import type { Readable, Writable } from 'node:stream'
import type { SecretTable } from '../block/secrets.ts'
import type { ThrottleGroupTable } from '../block/throttle-options.ts'

export interface CliIo {
  readonly stdin: Readable
  readonly stdout: Writable
  readonly stderr: Writable
  readonly env: Readonly<Record<string, string | undefined>>
  /** Relative file names start here. */
  readonly cwd: string
  /** Fires when the command is to give up and clean up: Ctrl-C. */
  readonly signal?: AbortSignal
}

/** Runs with the arguments behind the command's name; resolves to the exit status. */
export type Command = (args: string[], io: CliIo) => Promise<number>

/** The same for a command that names itself in its messages, as QEMU's tools do. */
export interface NamedIo extends CliIo {
  /** `varve-img` */
  readonly program: string
  /** What `--object secret,…` has made. */
  readonly secrets?: SecretTable
  /** What `--object throttle-group,…` has made. */
  readonly throttleGroups?: ThrottleGroupTable
}
