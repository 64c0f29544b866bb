import { describe, expect, it } from 'vitest'
import { NBD_INFO_BLOCK_SIZE, NBD_INFO_NAME } from './constants.ts'
import {
  decodeContextReply,
  decodeContextRequest,
  decodeInfoRequest,
  decodeServerReply,
  decodeString,
  encodeContextReply,
  encodeContextRequest,
  encodeInfoExport,
  encodeInfoRequest,
  encodeInfoText,
  encodeServerReply,
  exportNameReply,
  greeting,
  infoBlockSize,
  infoExport,
  oldstyleGreeting,
  optionHeader,
  optionReplyHeader,
} from './handshake.ts'

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

describe('structures', () => {
  it('have the sizes of the specification', () => {
    expect(greeting.size).toBe(18)
    expect(optionHeader.size).toBe(16)
    expect(optionReplyHeader.size).toBe(20)
    expect(exportNameReply.size).toBe(10)
    expect(infoExport.size).toBe(12)
    expect(infoBlockSize.size).toBe(14)
    expect(oldstyleGreeting.size).toBe(152)
  })
})

describe('NBD_OPT_INFO data', () => {
  it('survives encoding and decoding', () => {
    const request = { name: 'dïsk', requests: [NBD_INFO_NAME, NBD_INFO_BLOCK_SIZE] }
    expect(decodeInfoRequest(encodeInfoRequest(request))).toEqual(request)
    expect(hex(encodeInfoRequest({ name: 'a', requests: [3] }))).toBe(
      '00000001' + '61' + '00010003',
    )
  })

  it.each([
    ['nothing', ''],
    ['a name longer than the data', '00000005' + '6161' + '0000'],
    ['a name of 4 GiB', 'ffffffff'],
    ['more requests than bytes', '00000000' + 'ffff'],
    ['bytes behind the requests', '00000000' + '0000' + '00'],
    ['a NUL in the name', '00000001' + '00' + '0000'],
    ['a name that is not UTF-8', '00000001' + 'ff' + '0000'],
  ])('is refused with %s', (_, data) => {
    expect(() => decodeInfoRequest(Buffer.from(data, 'hex'))).toThrow(
      expect.objectContaining({ code: 'PEER' }),
    )
  })
})

describe('metadata context data', () => {
  it('survives encoding and decoding', () => {
    const request = { name: 'disk', queries: ['base:allocation', 'qemu:dirty-bitmap:'] }
    expect(decodeContextRequest(encodeContextRequest(request))).toEqual(request)
    expect(decodeContextReply(encodeContextReply(7, 'base:allocation'))).toEqual({
      id: 7,
      name: 'base:allocation',
    })
  })

  it('is refused with more queries than bytes', () => {
    expect(() => decodeContextRequest(Buffer.from('00000000' + 'ffffffff', 'hex'))).toThrow(
      expect.objectContaining({ code: 'PEER' }),
    )
  })
})

describe('replies', () => {
  it('tell a description behind the name', () => {
    expect(decodeServerReply(encodeServerReply('a', 'b c'))).toEqual({
      name: 'a',
      description: 'b c',
    })
  })

  it('tell size and flags', () => {
    expect(hex(encodeInfoExport(2 ** 40, 0x4d))).toBe('0000' + '0000010000000000' + '004d')
    expect(hex(encodeInfoText(2, 'hi'))).toBe('0002' + '6869')
  })

  it('have strings of at most 4096 bytes', () => {
    expect(decodeString(Buffer.alloc(4096, 'a'))).toHaveLength(4096)
    expect(() => decodeString(Buffer.alloc(4097, 'a'))).toThrow(/4097 bytes/)
  })
})
