import type { NamedIo } from '../command.ts'

/** A command of `varve img`: the words behind its name, to the exit status. */
export type ImgCommand = (words: readonly string[], io: NamedIo) => Promise<number>
