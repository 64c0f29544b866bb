import path from 'node:path'
import { fileURLToPath } from 'node:url'

/**
 * What Node is to run for `varve …`: the sources, or `VARVE_MAIN`, the tools as they are shipped for example
 * (`dist/tools/main.cjs`), which start sooner, too.
 */
export const main: string = process.env.VARVE_MAIN
  ? path.resolve(process.env.VARVE_MAIN)
  : fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))
