import { expect, test } from 'vitest'
import type { BlockDriver } from '../block/driver.ts'
import { hasProtocol, optionsOfFilename, resolveRecorded } from './filename.ts'

const remote = {
  name: 'remote',
  kind: 'protocol',
  parseFilename: (name: string) =>
    name.startsWith('remote:') ? { host: name.slice(7) } : undefined,
} as unknown as BlockDriver

test.each([
  ['a.raw', { driver: 'file', filename: 'a.raw' }],
  ['/x/a:b', { driver: 'file', filename: '/x/a:b' }],
  ['./a:b', { driver: 'file', filename: './a:b' }],
  ['file:a.raw', { driver: 'file', filename: 'a.raw' }],
  ['remote:there', { driver: 'remote', host: 'there' }],
  ['json:{"driver":"raw","file":"x"}', { driver: 'raw', file: 'x' }],
  ['/dev/null', { driver: 'file', filename: '/dev/null' }],
])('%s', (filename, options) => {
  expect(optionsOfFilename(filename, [remote])).toEqual(options)
})

test.each(['nosuch:x', 'json:{', 'json:[]', 'json:null', 'json:7'])('%s is refused', (filename) => {
  expect(() => optionsOfFilename(filename, [])).toThrow(
    expect.objectContaining({ code: 'INVALID_ARGUMENT', path: filename }),
  )
})

test.each([
  ['base.raw', '/images/top.qcow2', '/images/base.raw'],
  ['sub/base.raw', 'images/top.qcow2', 'images/sub/base.raw'],
  ['base.raw', 'top.qcow2', 'base.raw'],
  ['base.raw', './top.qcow2', './base.raw'],
  ['/else/base.raw', '/images/top.qcow2', '/else/base.raw'],
  ['nbd://host/x', '/images/top.qcow2', 'nbd://host/x'],
])('%s, named by %s, is %s', (recorded, image, meaning) => {
  expect(resolveRecorded(recorded, image)).toBe(meaning)
})

test('a relative name means nothing where the image has none', () => {
  for (const image of [undefined, 'nbd://host/x']) {
    expect(() => resolveRecorded('base.raw', image)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    )
  }
})

test('a protocol is not looked for behind a slash', () => {
  expect(hasProtocol('nbd://host')).toBe(true)
  expect(hasProtocol('a/b:c')).toBe(false)
})
