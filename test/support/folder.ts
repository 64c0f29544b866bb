/** Scratch folders, removed after the test file that asked for them. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'

/** Call at the top level of a test file or a `describe`. */
export function scratchFolder(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `varve-${name}-`))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}
