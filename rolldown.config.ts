/**
 * The tools in one file a command: a short command spends most of its time on finding and reading
 * a hundred modules otherwise (`varve img info`: 66 ms instead of 94, before the rest of this was
 * done). As CommonJS, because importing a module of Node's from an ES module makes all that it
 * exports, streams for instance, whether used or not (another 4 ms). The library stays as tsc
 * leaves it.
 */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { defineConfig, type Plugin } from 'rolldown'

/** Modules of Node's that take a millisecond or more to load, and that few commands use. */
const slowModules = new Set([
  'node:child_process',
  'node:crypto',
  'node:fs/promises',
  'node:net',
  'node:os',
  'node:stream',
  'node:stream/promises',
  'node:timers/promises',
  'node:tls',
  'node:tty',
  'node:worker_threads',
  'node:zlib',
])

const imported = /^let (\w+) = require\("(node:[\w/]+)"\);\n(?:\1 = [\w.]+\(\1, 1\);\n)?/gm

/**
 * Has slow modules of Node's loaded when they are first used, and takes all of them as they are:
 * a copy with getters, which rolldown makes for a default import, loads even what nobody asks for,
 * and each call of `readSync` goes through a getter.
 */
function withLazyBuiltins(code: string): string {
  const found = [...code.matchAll(imported)]
  let result = code.replaceAll(imported, (_, name: string, module: string) =>
    slowModules.has(module)
      ? `let loaded_${name};\nconst ${name} = () => (loaded_${name} ??= require("${module}"));\n`
      : `const ${name} = require("${module}");\n`,
  )
  for (const [, name, module] of found) {
    result = result.replaceAll(new RegExp(`\\b${name}\\.default\\b`, 'g'), name)
    if (!slowModules.has(module)) continue
    result = result.replaceAll(new RegExp(`(?<!const )\\b${name}\\b(?! =)`, 'g'), `${name}()`)
    // `new m().Class()` would make an `m` and call its `Class`.
    result = result.replaceAll(
      new RegExp(`\\bnew ${name}\\(\\)\\.(\\w+)`, 'g'),
      `new (${name}().$1)`,
    )
  }
  return result
}

/** A file in which every character is ASCII is taken as it is read, and in half the memory. */
function withAsciiOnly(code: string): string {
  return code.replaceAll(
    /[^\0-\x7f]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

const quickToLoad: Plugin = {
  name: 'quick to load',
  generateBundle(_, bundle) {
    for (const file of Object.values(bundle)) {
      if (file.type === 'chunk') file.code = withAsciiOnly(withLazyBuiltins(file.code))
    }
  },
}

/** A module and all that it imports at once, and they in turn. */
function loadedWith(module: string, found = new Set<string>()): Set<string> {
  if (found.has(module)) return found
  found.add(module)
  for (const [, name] of readFileSync(module, 'utf8').matchAll(
    /^(?:import|export) [^;]*?'(\.[^']+\.js)';/gm,
  )) {
    loadedWith(path.resolve(path.dirname(module), name), found)
  }
  return found
}

/** What is loaded before the compile cache is there. */
const early = loadedWith(path.resolve('dist/cli/main.js'))

/** What all commands need that open images: one file, since each costs a third of a millisecond. */
const images = loadedWith(path.resolve('dist/cli/open-image.js'))

export default defineConfig({
  input: 'dist/cli/main.js',
  platform: 'node',
  external: [/^[^./]/],
  plugins: [quickToLoad],
  output: {
    dir: 'dist/tools',
    format: 'cjs',
    entryFileNames: '[name].cjs',
    chunkFileNames: '[name]-[hash].cjs',
    cleanDir: true,
    codeSplitting: {
      groups: [
        { name: 'early', test: (module) => early.has(module), priority: 2 },
        { name: 'images', test: (module) => images.has(module), priority: 1 },
      ],
    },
  },
})
