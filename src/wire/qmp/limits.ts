/** What one message may cost its reader. The values are QEMU's, so what it takes is taken here. */
import { MiB } from '../../bytes/range.ts'

/** Objects and lists inside one another. */
export const maxNesting = 1024

/** Tokens of one message: braces, commas, strings, … */
export const maxTokens = 2 * MiB

/** Bytes of one message, white space between tokens not counted. */
export const maxMessageBytes = 64 * MiB
