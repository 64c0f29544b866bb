/** Data flows one way through the folders: the table of docs/architecture.md, held against the imports. */
import { globSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'

const root = path.resolve(import.meta.dirname, '../..')
const source = path.join(root, 'src')

/** Places of what stands in `src/`, in the order of the table; what stands in one row has one place. */
function placesOfTable(): Map<string, number> {
  const page = readFileSync(path.join(root, 'docs/architecture.md'), 'utf8')
  const rows = [...page.matchAll(/^\| (`[^|]+`) +\|/gm)].map(([, names]) => names)
  return new Map(
    rows.flatMap((names, place) =>
      [...names.matchAll(/`([\w.-]+)\/?`/g)].map(([, name]): [string, number] => [name, place]),
    ),
  )
}

function importsOf(file: string): string[] {
  const text = readFileSync(file, 'utf8')
  return [...text.matchAll(/(?:from |import\()'(\.[^']+)'/g)].map(([, name]) =>
    path.resolve(path.dirname(file), name),
  )
}

const topOf = (file: string) => path.relative(source, file).split(path.sep)[0]

test('each folder imports only what stands above it', () => {
  const places = placesOfTable()
  const files = globSync('**/*.ts', { cwd: source })
    .filter((file) => !file.endsWith('.test.ts'))
    .map((file) => path.join(source, file))
  const unknown = new Set(files.map(topOf).filter((name) => !places.has(name)))
  expect([...unknown]).toEqual([])
  const upward = files.flatMap((file) =>
    importsOf(file)
      .filter((imported) => places.get(topOf(imported))! > places.get(topOf(file))!)
      .map((imported) => `${path.relative(root, file)} imports ${path.relative(root, imported)}`),
  )
  expect(upward).toEqual([])
  expect(files.length).toBeGreaterThan(500)
})
