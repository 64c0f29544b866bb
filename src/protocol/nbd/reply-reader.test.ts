import { describe, expect, it } from 'vitest'
import { viewOf } from '../../bytes/view.ts'
import {
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_NONE,
} from '../../wire/nbd/constants.ts'
import {
  chunkHeaderSize,
  dataChunkHeaderSize,
  encodeChunkHeader,
  encodeDataChunkHeader,
  encodeHoleChunk,
  encodeSimpleReply,
  errorChunk,
  holeChunkSize,
  simpleReplySize,
} from '../../wire/nbd/transmission.ts'
import { maxChunkPayload } from './limits.ts'
import { ReplyReader } from './reply-reader.ts'

const cookie = { cookieHigh: 1, cookieLow: 2 }

function bytes(size: number, fill: (view: DataView) => void): Buffer {
  const result = Buffer.alloc(size)
  fill(viewOf(result))
  return result
}

/** Everything a server can say, one behind the other. */
const stream = Buffer.concat([
  bytes(simpleReplySize, (view) => encodeSimpleReply(view, 0, cookie, 0)),
  Buffer.from('simple data'),
  bytes(dataChunkHeaderSize, (view) => encodeDataChunkHeader(view, 0, cookie, 0, 512, 5)),
  Buffer.from('chunk'),
  bytes(holeChunkSize, (view) => encodeHoleChunk(view, 0, cookie, 0, 1024, 99)),
  errorChunk(cookie, 0, 5, Buffer.from('bad')),
  bytes(chunkHeaderSize, (view) =>
    encodeChunkHeader(view, 0, cookie, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 0),
  ),
  bytes(simpleReplySize, (view) => encodeSimpleReply(view, 0, cookie, 28)),
])

function make() {
  const log: string[] = []
  const target = (name: string) => {
    let text = ''
    return {
      take(at: number, part: Uint8Array) {
        expect(at).toBe(text.length)
        text += Buffer.from(part)
      },
      done: () => void log.push(`${name}: ${text}`),
    }
  }
  const reader = new ReplyReader({
    simple(_, error) {
      log.push(`simple ${error}`)
      return error === 0 ? { length: 11, target: target('simple') } : undefined
    },
    data: (_, offset, length) => target(`data ${offset}+${length}`),
    chunk: ({ type, flags }, payload) => void log.push(`chunk ${type}/${flags} ${payload.length}`),
  })
  return { log, reader }
}

describe('ReplyReader', () => {
  it.each([1, 2, 3, 5, 16, 17, 31, 1000])('reads replies in chunks of %d bytes', (step) => {
    const { log, reader } = make()
    for (let at = 0; at < stream.length; at += step) reader.receive(stream.subarray(at, at + step))
    expect(log).toEqual([
      'simple 0',
      'simple: simple data',
      'data 512+5: chunk',
      'chunk 2/0 12',
      'chunk 32769/0 9',
      'chunk 0/1 0',
      'simple 28',
    ])
  })

  it.each([
    ['a magic number that is none', Buffer.alloc(4, 'x')],
    [
      'a chunk that is too long',
      bytes(chunkHeaderSize, (view) =>
        encodeChunkHeader(view, 0, cookie, 1, NBD_REPLY_TYPE_BLOCK_STATUS, maxChunkPayload + 1),
      ),
    ],
    [
      'a data chunk without data',
      bytes(chunkHeaderSize, (view) => encodeChunkHeader(view, 0, cookie, 1, 1, 8)),
    ],
  ])('refuses %s', (_, input) => {
    expect(() => make().reader.receive(input)).toThrow(expect.objectContaining({ code: 'PEER' }))
  })
})
