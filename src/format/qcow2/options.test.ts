import { describe, expect, it } from 'vitest'
import { parseOptions } from './options.ts'

describe('options of an open image', () => {
  it('leave to the image what they do not name', () => {
    const { backing, settings } = parseOptions({ file: 'f' })
    expect(backing).toBeUndefined()
    expect(settings).toMatchObject({ lazyRefcounts: undefined, cacheCleanSeconds: 600 })
    expect([...settings.discards]).toEqual(['request', 'snapshot'])
  })

  it('tell no backing file from the one that the image names', () => {
    expect(parseOptions({ file: 'f', backing: null }).backing).toBeNull()
    expect(parseOptions({ file: 'f', backing: 'node' }).backing).toBe('node')
  })

  it('share a cache size between the two caches', () => {
    const bytes = (options: Record<string, unknown>) => {
      const { l2CacheBytes, refcountCacheBytes } = parseOptions({ file: 'f', ...options }).settings
      return [l2CacheBytes, refcountCacheBytes]
    }
    expect(bytes({ 'cache-size': '1M' })).toEqual([768 * 1024, 256 * 1024])
    expect(bytes({ 'cache-size': 1000, 'l2-cache-size': 900 })).toEqual([900, 100])
    expect(bytes({ 'l2-cache-size': 4096 })).toEqual([4096, undefined])
  })

  it.each([
    [{}, 'INVALID_ARGUMENT', "Parameter 'file' is missing"],
    [{ file: 'f', nosuch: 1 }, 'INVALID_ARGUMENT', "Parameter 'nosuch' is unexpected"],
    [
      { file: 'f', 'cache-size': 1, 'l2-cache-size': 2 },
      'INVALID_ARGUMENT',
      'l2-cache-size may not exceed cache-size',
    ],
    [
      { file: 'f', 'overlap-check': 'some' },
      'INVALID_ARGUMENT',
      "Unsupported value 'some' for qcow2 option 'overlap-check'. Allowed are any of the following: none, constant, cached, all",
    ],
    [
      { file: 'f', 'cache-clean-interval': -1 },
      'INVALID_ARGUMENT',
      "Parameter 'cache-clean-interval' expects a number of seconds, 0 or more",
    ],
    [{ file: 'f', encrypt: { foo: 1 } }, 'INVALID_ARGUMENT', "Parameter 'foo' is unexpected"],
  ])('are refused: %o', (options, code, message) => {
    expect(() => parseOptions(options)).toThrowError(expect.objectContaining({ code, message }))
  })

  it('accept the overlap checks of QEMU, as a word or one by one', () => {
    parseOptions({ file: 'f', 'overlap-check': 'all' })
    parseOptions({ file: 'f', 'overlap-check': { template: 'cached', 'active-l2': false } })
  })
})
