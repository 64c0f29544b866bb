import { describe, expect, it } from 'vitest'
import { parseSizeText, sizeText } from './size-text.ts'

describe('sizes as text', () => {
  it.each([
    [0, '0 B'],
    [512, '512 B'],
    [999, '999 B'],
    [1000, '0.977 KiB'],
    [1536, '1.5 KiB'],
    [1022976, '999 KiB'],
    [1024000, '0.977 MiB'],
    [1047552, '0.999 MiB'],
    [1073217536, '1 GiB'],
    [10726681088, '9.99 GiB'],
    [123456789504, '115 GiB'],
    [2 ** 50, '1 PiB'],
    // Halfway between two: to the even one.
    [164352, '160 KiB'],
    [165376, '162 KiB'],
    [999.5 * 1024, '1e+03 KiB'],
    [1.125 * 1024, '1.12 KiB'],
  ])('of %d bytes', (bytes, text) => {
    expect(sizeText(bytes)).toBe(text)
  })
})

describe('sizes as arguments', () => {
  it.each([
    ['0', 0],
    ['1b', 1],
    [' 1M', 2 ** 20],
    ['1.5k', 1536],
    ['0.3M', 314573],
    ['0.0005k', 1],
    ['1.1k', 1126],
    ['.5k', undefined],
    ['1.0', 1],
    ['1.5', undefined],
    ['1.5b', undefined],
    ['1e3', undefined],
    ['-5', undefined],
    ['1MB', undefined],
    ['', undefined],
    ['0x1000', 4096],
    ['0x10k', 16384],
    ['2T', 2 ** 41],
    ['1E', 2 ** 60],
  ])('%j', (text, bytes) => {
    const parsed = parseSizeText(text)
    expect(parsed.kind === 'size' ? parsed.bytes : undefined).toBe(bytes)
  })

  it('tells too much from nonsense', () => {
    expect(parseSizeText('9E').kind).toBe('range')
    expect(parseSizeText('9X').kind).toBe('syntax')
  })
})
