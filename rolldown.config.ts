/**
 * The tools in one file a command: a short command spends most of its time on finding and reading
 * a hundred modules otherwise (`varve img info`: 66 ms instead of 94). The library stays as tsc
 * leaves it.
 */
import { defineConfig } from 'rolldown'

export default defineConfig({
  input: 'dist/cli/main.js',
  platform: 'node',
  external: [/^[^./]/],
  output: { dir: 'dist/tools', format: 'esm', cleanDir: true },
})
