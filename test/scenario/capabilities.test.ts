/** docs/capabilities.md names files, and titles of tests in them: all are there. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'

const root = join(import.meta.dirname, '../..')
const page = readFileSync(join(root, 'docs/capabilities.md'), 'utf8')

/** Each file that the page names, with the titles that follow it up to the next file or cell. */
function named(): { readonly file: string; readonly titles: string[] }[] {
  const parts = page.split(/(?=`(?:src|test)\/[^`]*`)/).slice(1)
  return parts.map((part) => {
    const [, file, rest] = /^`([^`]*)`([^|\n]*)/.exec(part) ?? []
    return { file, titles: [...rest.matchAll(/\*([^*]+)\*/g)].map(([, title]) => title) }
  })
}

it('every file is there, with the tests that are said to be in it', () => {
  const missing = named().flatMap(({ file, titles }) => {
    const path = join(root, file)
    if (!existsSync(path)) return [file]
    if (titles.length === 0) return []
    const text = readFileSync(path, 'utf8').replaceAll(/\\'/g, "'")
    return titles.filter((title) => !text.includes(title)).map((title) => `${file}: ${title}`)
  })
  expect(missing).toEqual([])
})

it('every row names a test', () => {
  const rows = page.split('\n').filter((line) => /^\| [^-]/.test(line))
  const tables = rows.filter((line) => !/\bshown by \|/.test(line))
  const bare = tables.filter((line) => !/`(src|test)\/[^`]*(\.test\.ts|layer\.ts)`/.test(line))
  expect(tables.length).toBeGreaterThan(60)
  expect(bare).toEqual([])
})
