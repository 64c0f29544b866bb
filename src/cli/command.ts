/** What a command gets from the process that runs it, and what it gives back. */
import type { Readable, Writable } from 'node:stream'
import type { ObjectTables } from './object-tables.ts'

/** What texts are written to: a stream of Node's, or what writes them at once. */
export interface TextOutput {
  write(text: string | Uint8Array, done?: (error?: Error | null) => void): boolean
  /** Has what was written so far seen at once, where output is gathered. */
  flush?(): void
}

/** For commands whose output is text. */
export interface PlainIo {
  readonly stdin: Readable
  readonly stdout: TextOutput
  readonly stderr: TextOutput
  readonly env: Readonly<Record<string, string | undefined>>
  /** Relative file names start here. */
  readonly cwd: string
  /** Fires when the command is to give up and clean up: Ctrl-C. */
  readonly signal?: AbortSignal
}

/** For commands whose output may be data, and large. */
export interface CliIo extends PlainIo {
  readonly stdout: Writable
  readonly stderr: Writable
}

/** Runs with the arguments behind the command's name; resolves to the exit status. */
export type Command = (args: string[], io: CliIo) => Promise<number>
export type PlainCommand = (args: string[], io: PlainIo) => Promise<number>

/** The same for a command that names itself in its messages, as QEMU's tools do. */
export interface NamedIo extends PlainIo, Partial<ObjectTables> {
  /** `varve-img` */
  readonly program: string
}

export type NamedCliIo = NamedIo & CliIo
