/**
 * The tools in one file a command: a short command spends most of its time on finding and reading
 * a hundred modules otherwise (`varve img info`: 66 ms instead of 94). As CommonJS, because
 * importing a module of Node's from an ES module makes all that it exports, streams for instance,
 * whether used or not (another 4 ms). The library stays as tsc leaves it.
 */
import { defineConfig } from 'rolldown'

export default defineConfig({
  input: 'dist/cli/main.js',
  platform: 'node',
  external: [/^[^./]/],
  output: {
    dir: 'dist/tools',
    format: 'cjs',
    entryFileNames: '[name].cjs',
    chunkFileNames: '[name]-[hash].cjs',
    cleanDir: true,
  },
})
