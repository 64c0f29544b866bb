/** How the tools that stand in for QEMU's call themselves. */
import type { PlainIo } from './command.ts'

/** As the executable was called: a link named `qemu-img` says `qemu-img: …`. Otherwise `own`. The scripts in bin/ tell. */
export function programName(own: string, { env }: PlainIo): string {
  return env.VARVE_CALLED || own
}

/** The version of QEMU whose tools these are like. */
const likeVersion = '7.2'

/**
 * What `--version` prints: `varve-img version 0.1.0, like qemu-img version 7.2`. Scripts look for the version
 * of the program that they called.
 */
export function versionLine(program: string, like: string, version: string, word: string): string {
  const theirs = `${like} ${word}${likeVersion}`
  if (program === like) return `${theirs} (varve ${version})\n`
  return `${program} ${word}${version}, like ${theirs}\n`
}
