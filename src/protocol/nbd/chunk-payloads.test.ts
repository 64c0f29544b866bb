import { describe, expect, it } from 'vitest'
import { compactLayout, extendedLayout } from '../../wire/nbd/layout.ts'
import { errorValueIn, holeOf, statusOf } from './chunk-payloads.ts'

const bytes = (hex: string) => Buffer.from(hex, 'hex')

describe('payloads of chunks', () => {
  it('tell holes and errors', () => {
    expect(holeOf(bytes('0000000100000000' + '00001000'))).toEqual({
      offset: 2 ** 32,
      length: 4096,
    })
    expect(holeOf(bytes('00'))).toBeUndefined()
    expect(errorValueIn(bytes('00000005' + '0002' + '6e6f'))).toBe(5)
    expect(errorValueIn(bytes('00000000' + '0000'))).toBe(22)
    expect(errorValueIn(bytes('00000005' + '0009' + '6e6f'))).toBeUndefined()
  })

  const short = bytes('00000007' + '0000100000000003' + '0000020000000000')
  const long = '0000000200000000' + '0000000000000003'

  it('tell status, the short form with either layout', () => {
    const runs = [
      { length: 4096, flags: 3 },
      { length: 512, flags: 0 },
    ]
    for (const layout of [compactLayout, extendedLayout]) {
      expect(statusOf(layout, 5, short)).toEqual({ contextId: 7, runs })
    }
    for (const count of ['00000000', '00000001']) {
      expect(statusOf(extendedLayout, 6, bytes(`00000007${count}${long}`))).toEqual({
        contextId: 7,
        runs: [{ length: 2 ** 33, flags: 3 }],
      })
    }
  })

  it.each([
    ['the long form that was not agreed on', compactLayout, 6, `0000000700000001${long}`],
    ['a number of descriptors that is another', extendedLayout, 6, `0000000700000002${long}`],
    ['no descriptor', extendedLayout, 6, '0000000700000000'],
    ['no descriptor, short', compactLayout, 5, '00000007'],
    ['nothing', extendedLayout, 6, ''],
    ['half a descriptor', compactLayout, 5, '0000000700001000'],
    ['a run of no length', compactLayout, 5, '00000007' + '0000000000000003'],
  ])('do not tell status with %s', (_, layout, type, hex) => {
    expect(statusOf(layout, type, bytes(hex))).toBeUndefined()
  })
})
