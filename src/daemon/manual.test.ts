/** `npm run docs:qmp` runs this file with UPDATE_QMP_REFERENCE=1, and so writes the manual. */
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { manualText } from './manual-text.ts'

const path = fileURLToPath(new URL('../../docs/qmp-reference.md', import.meta.url))

it('docs/qmp-reference.md says what the command table says', () => {
  if (process.env.UPDATE_QMP_REFERENCE) writeFileSync(path, manualText())
  expect(readFileSync(path, 'utf8'), 'stale: run npm run docs:qmp').toBe(manualText())
})
