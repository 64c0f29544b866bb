import { describe, expect, it } from 'vitest'
import {
  dataHeaderSize,
  encodeDataHeader,
  encodeHoleChunk,
  errorChunk,
  holeChunkSize,
} from './chunks.ts'
import {
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_STRUCTURED_REPLY_MAGIC,
} from './constants.ts'
import { compactLayout, extendedLayout } from './layout.ts'
import {
  chunkHeaderSize,
  decodeChunkHeader,
  decodeRequest,
  decodeSimpleReply,
  decodeU64,
  encodeRequest,
  encodeSimpleReply,
  requestSize,
  simpleReplySize,
} from './transmission.ts'

const cookie = { cookieHigh: 0x01020304, cookieLow: 0xfffefdfc }
const answered = { ...cookie, offset: 0x12_3456_789a }

function view(size: number): DataView {
  return new DataView(new ArrayBuffer(size))
}

function hex(bytes: DataView): string {
  return Buffer.from(bytes.buffer).toString('hex')
}

describe('request', () => {
  it('is 28 bytes in the order of the specification', () => {
    const bytes = view(requestSize)
    encodeRequest(bytes, 0, {
      flags: NBD_CMD_FLAG_FUA,
      type: NBD_CMD_WRITE,
      ...cookie,
      offset: 0x12_3456_789a,
      length: 0x1000,
    })
    expect(hex(bytes)).toBe(
      '2560951300010001' + '01020304fffefdfc' + '000000123456789a' + '00001000',
    )
  })

  it('survives encoding and decoding at the largest safe offset', () => {
    const bytes = view(requestSize + 3)
    const request = {
      flags: 0,
      type: 7,
      ...cookie,
      offset: Number.MAX_SAFE_INTEGER,
      length: 2 ** 32 - 1,
    }
    encodeRequest(bytes, 3, request)
    expect(decodeRequest(bytes, 3)).toEqual(request)
  })

  it('is none without its magic number', () => {
    expect(decodeRequest(view(requestSize), 0)).toBeUndefined()
  })

  it('has a huge offset, not a wrapped one, beyond 2^53', () => {
    const bytes = view(8)
    bytes.setBigUint64(0, 2n ** 64n - 1n)
    expect(decodeU64(bytes, 0)).toBeGreaterThan(Number.MAX_SAFE_INTEGER)
  })
})

describe('replies', () => {
  it('gives a simple reply 16 bytes', () => {
    const bytes = view(simpleReplySize)
    encodeSimpleReply(bytes, 0, cookie, 28)
    expect(hex(bytes)).toBe('67446698' + '0000001c' + '01020304fffefdfc')
    expect(decodeSimpleReply(bytes, 0)).toEqual({ error: 28, ...cookie })
  })

  it('counts the offset of a data chunk in its length', () => {
    const bytes = view(dataHeaderSize(compactLayout))
    encodeDataHeader(compactLayout, bytes, 0, answered, NBD_REPLY_FLAG_DONE, 2 ** 40, 512)
    expect(bytes.getUint32(0)).toBe(NBD_STRUCTURED_REPLY_MAGIC)
    expect(decodeChunkHeader(bytes, 0)).toEqual({
      flags: NBD_REPLY_FLAG_DONE,
      type: NBD_REPLY_TYPE_OFFSET_DATA,
      ...cookie,
      offset: undefined,
      length: 520,
    })
    expect(decodeU64(bytes, chunkHeaderSize)).toBe(2 ** 40)
  })

  it('gives a hole chunk 12 bytes of payload', () => {
    const bytes = view(holeChunkSize(compactLayout))
    encodeHoleChunk(compactLayout, bytes, 0, answered, 0, 4096, 65536)
    expect(decodeChunkHeader(bytes, 0).length).toBe(12)
    expect(hex(bytes).slice(40)).toBe('0000000000001000' + '00010000')
  })

  it('puts error, length and text into an error chunk', () => {
    const chunk = errorChunk(compactLayout, answered, NBD_REPLY_FLAG_DONE, 5, Buffer.from('no'))
    expect(Buffer.from(chunk).toString('hex').slice(8)).toBe(
      '00018001' + '01020304fffefdfc' + '00000008' + '00000005' + '0002' + '6e6f',
    )
  })
})

describe('extended headers', () => {
  it('give a request 32 bytes and a length of 64 bits', () => {
    const bytes = view(extendedLayout.requestSize)
    const flags = NBD_CMD_FLAG_PAYLOAD_LEN
    const request = { flags, type: NBD_CMD_WRITE, ...answered, length: 2 ** 41 + 3 }
    extendedLayout.encodeRequest(bytes, 0, request)
    expect(hex(bytes)).toBe(
      '21e41c7100200001' + '01020304fffefdfc' + '000000123456789a' + '0000020000000003',
    )
    expect(extendedLayout.decodeRequest(bytes, 0)).toEqual(request)
    expect(compactLayout.decodeRequest(bytes, 0)).toBeUndefined()
  })

  it('have a payload where the flag says so, and with every write, as QEMU has it', () => {
    const request = { flags: 0, type: NBD_CMD_WRITE, ...answered, length: 5 }
    const flagged = { ...request, flags: NBD_CMD_FLAG_PAYLOAD_LEN, type: NBD_CMD_READ }
    expect(extendedLayout.payloadLength(request)).toBe(5)
    expect(extendedLayout.payloadLength(flagged)).toBe(5)
    expect(extendedLayout.payloadLength({ ...request, type: NBD_CMD_READ })).toBe(0)
    expect(compactLayout.payloadLength(request)).toBe(5)
    expect(compactLayout.payloadLength(flagged)).toBe(0)
  })

  it('give a chunk 32 bytes, with the offset of its request', () => {
    const bytes = view(dataHeaderSize(extendedLayout))
    encodeDataHeader(extendedLayout, bytes, 0, answered, NBD_REPLY_FLAG_DONE, 2 ** 40, 512)
    expect(hex(bytes)).toBe(
      '6e8a278c00010001' +
        '01020304fffefdfc' +
        '000000123456789a' +
        '0000000000000208' +
        '0000010000000000',
    )
    expect(extendedLayout.decodeChunkHeader(bytes, 0)).toEqual({
      flags: NBD_REPLY_FLAG_DONE,
      type: NBD_REPLY_TYPE_OFFSET_DATA,
      ...answered,
      length: 520,
    })
  })

  it('tell block status in descriptors of 16 bytes behind their number', () => {
    const { status } = extendedLayout
    const bytes = view(status.headSize + status.size)
    status.encodeHead(bytes, 0, 7, 1)
    status.encode(bytes, status.headSize, 2 ** 33, 3)
    expect(hex(bytes)).toBe('00000007' + '00000001' + '0000000200000000' + '0000000000000003')
    expect(status.decode(bytes, status.headSize)).toEqual({ length: 2 ** 33, flags: 3 })
  })
})
