/** The executables differ in the command they start and in nothing else. */
import { readFileSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'

const root = fileURLToPath(new URL('../../', import.meta.url))
const { bin } = JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as {
  bin: Record<string, string>
}
const commands: Record<string, string> = { 'varve-storage-daemon': 'daemon ' }
const model = readFileSync(`${root}${bin['varve-vma']}`, 'utf8')

it.each(Object.keys(bin).filter((name) => name !== 'varve'))('%s', (name) => {
  const path = `${root}${bin[name]}`
  const command = commands[name] ?? `${name.replace('varve-', '')} `
  expect(statSync(path).mode % 0o1000).toBe(0o755)
  const expected = model.replace('varve-vma', name).replace(' vma "', ` ${command}"`)
  expect(readFileSync(path, 'utf8')).toBe(expected)
})
