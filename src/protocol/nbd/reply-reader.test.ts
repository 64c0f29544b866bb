import { describe, expect, it } from 'vitest'
import { viewOf } from '../../bytes/view.ts'
import {
  dataHeaderSize,
  encodeDataHeader,
  encodeHoleChunk,
  errorChunk,
  holeChunkSize,
} from '../../wire/nbd/chunks.ts'
import {
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_NONE,
} from '../../wire/nbd/constants.ts'
import { compactLayout, extendedLayout, type Layout } from '../../wire/nbd/layout.ts'
import { encodeSimpleReply, simpleReplySize } from '../../wire/nbd/transmission.ts'
import { maxChunkPayload } from './limits.ts'
import { ReplyReader, type ReplySink } from './reply-reader.ts'

const request = { cookieHigh: 1, cookieLow: 2, offset: 4096 }

function bytes(size: number, fill: (view: DataView) => void): Buffer {
  const result = Buffer.alloc(size)
  fill(viewOf(result))
  return result
}

function simple(error: number): Buffer {
  return bytes(simpleReplySize, (view) => encodeSimpleReply(view, 0, request, error))
}

function chunk(layout: Layout, flags: number, type: number, length: number): Buffer {
  return bytes(layout.chunkHeaderSize, (view) =>
    layout.encodeChunkHeader(view, 0, request, flags, type, length),
  )
}

/** Every chunk a server can send, one behind the other. */
function chunks(layout: Layout): Buffer {
  return Buffer.concat([
    bytes(dataHeaderSize(layout), (view) => encodeDataHeader(layout, view, 0, request, 0, 512, 5)),
    Buffer.from('chunk'),
    bytes(holeChunkSize(layout), (view) => encodeHoleChunk(layout, view, 0, request, 0, 1024, 99)),
    errorChunk(layout, request, 0, 5, Buffer.from('bad')),
    chunk(layout, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 0),
  ])
}

const chunksSeen = ['data 512+5: chunk', 'chunk 2/0 12', 'chunk 32769/0 9', 'chunk 0/1 0']

function make(layout: Layout) {
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
  const sink: ReplySink = {
    simple(_, error) {
      log.push(`simple ${error}`)
      return error === 0 ? { length: 11, target: target('simple') } : undefined
    },
    data: (_, offset, length) => target(`data ${offset}+${length}`),
    chunk: ({ type, flags }, payload) => void log.push(`chunk ${type}/${flags} ${payload.length}`),
  }
  return { log, reader: new ReplyReader(sink, layout) }
}

const steps = [1, 2, 3, 5, 16, 17, 31, 1000]

describe('ReplyReader', () => {
  it.each(steps)('reads replies in chunks of %d bytes', (step) => {
    const { log, reader } = make(compactLayout)
    const data = Buffer.from('simple data')
    const stream = Buffer.concat([simple(0), data, chunks(compactLayout), simple(28)])
    for (let at = 0; at < stream.length; at += step) reader.receive(stream.subarray(at, at + step))
    expect(log).toEqual(['simple 0', 'simple: simple data', ...chunksSeen, 'simple 28'])
  })

  it.each(steps)('reads extended replies in chunks of %d bytes', (step) => {
    const { log, reader } = make(extendedLayout)
    const stream = chunks(extendedLayout)
    for (let at = 0; at < stream.length; at += step) reader.receive(stream.subarray(at, at + step))
    expect(log).toEqual(chunksSeen)
  })

  it.each([
    ['a magic number that is none', compactLayout, Buffer.alloc(4, 'x')],
    [
      'a chunk that is too long',
      compactLayout,
      chunk(compactLayout, 1, NBD_REPLY_TYPE_BLOCK_STATUS, maxChunkPayload + 1),
    ],
    ['a data chunk without data', compactLayout, chunk(compactLayout, 1, 1, 8)],
    ['an extended reply that nobody agreed on', compactLayout, chunks(extendedLayout)],
    ['a structured reply instead of an extended one', extendedLayout, chunks(compactLayout)],
    ['a simple reply instead of an extended one', extendedLayout, simple(0)],
    ['a chunk of 2^60 bytes', extendedLayout, chunk(extendedLayout, 1, 6, 2 ** 60)],
  ])('refuses %s', (_, layout, input) => {
    expect(() => make(layout).reader.receive(input)).toThrow(
      expect.objectContaining({ code: 'PEER' }),
    )
  })
})
