/** The version that monitors report: of the QEMU that we are compatible with, and our own. */
import { readFileSync } from 'node:fs'

const { version } = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
) as { version: string }

/**
 * Clients look at the numbers to learn what a QEMU can do, so they are those of QEMU 7.2, whose
 * commands these are; `package` tells who really answers.
 */
export const qmpVersion = {
  qemu: { micro: 0, minor: 2, major: 7 },
  package: `varve ${version}`,
} as const
