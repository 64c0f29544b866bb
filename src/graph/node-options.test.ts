import { expect, test } from 'vitest'
import {
  checkCommonOptions,
  childDefaults,
  nested,
  rootDefaults,
  takeCommonOptions,
} from './node-options.ts'

test('dotted keys make objects, and join those that are there', () => {
  expect(nested({ 'file.filename': 'x', file: { driver: 'file' }, a: undefined })).toEqual({
    file: { driver: 'file', filename: 'x' },
  })
  const given = { file: { driver: 'file' }, 'file.filename': 'x' }
  expect(nested(given)).toEqual({ file: { driver: 'file', filename: 'x' } })
  expect(given.file).toEqual({ driver: 'file' })
})

test.each(['__proto__.x', 'a.constructor.b', 'prototype'])('%s is no option', (key) => {
  expect(() => nested({ [key]: 1 })).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
  expect(({} as Record<string, unknown>).x).toBeUndefined()
})

test('a key cannot be a value and an object', () => {
  const refused = expect.objectContaining({ code: 'INVALID_ARGUMENT' })
  expect(() => nested({ file: 'node', 'file.filename': 'x' })).toThrow(refused)
  expect(() => nested({ 'file.filename': 'x', file: 'node' })).toThrow(refused)
})

test('common options are taken out, the rest is the driver’s', () => {
  const { common, rest } = takeCommonOptions(
    { driver: 'raw', 'node-name': 'disk', 'cache.direct': 'on', discard: 'on', size: 5 },
    rootDefaults,
  )
  expect(common).toMatchObject({ driver: 'raw', nodeName: 'disk', direct: true, discard: 'unmap' })
  expect(rest).toEqual({ size: 5 })
})

test('detect-zeroes=unmap needs discard=unmap', () => {
  const { common } = takeCommonOptions({ 'detect-zeroes': 'unmap' }, rootDefaults)
  expect(() => checkCommonOptions(common)).toThrow(
    expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
  )
})

test('children inherit how they are reached, backing files never the right to write', () => {
  const { common } = takeCommonOptions({ 'force-share': true, 'cache.direct': true }, rootDefaults)
  expect(childDefaults('file', common)).toMatchObject({
    readOnly: false,
    direct: true,
    forceShare: true,
    discard: 'unmap',
  })
  expect(childDefaults('backing', common).readOnly).toBe(true)
})
