import { describe, expect, it } from 'vitest'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
} from '../../wire/nbd/constants.ts'
import { compactLayout, extendedLayout } from '../../wire/nbd/layout.ts'
import { encodeRequest, type NbdRequest, requestSize } from '../../wire/nbd/transmission.ts'
import { maxDrainedPayload, maxRequestLength } from './limits.ts'
import { RequestReader } from './request-reader.ts'
import { type Slab, SlabPool } from './slab.ts'

function request(type: number, length: number, cookieLow = 0): NbdRequest {
  return { flags: 0, type, cookieHigh: 0, cookieLow, offset: 0, length }
}

function bytesOf(header: NbdRequest, payload: Uint8Array = new Uint8Array(0)): Buffer {
  const bytes = Buffer.alloc(requestSize + payload.length)
  encodeRequest(new DataView(bytes.buffer, bytes.byteOffset), 0, header)
  bytes.set(payload, requestSize)
  return bytes
}

function extended(header: NbdRequest, payload = ''): Buffer {
  const head = Buffer.alloc(extendedLayout.requestSize)
  extendedLayout.encodeRequest(new DataView(head.buffer, head.byteOffset), 0, header)
  return Buffer.concat([head, Buffer.from(payload)])
}

function make(layout = compactLayout) {
  const seen: { request: NbdRequest; payload: string | undefined; pooled: boolean }[] = []
  const violations: string[] = []
  const state = { places: Number.POSITIVE_INFINITY }
  const pool = new SlabPool()
  const reader = new RequestReader(
    {
      mayBegin: () => state.places > 0,
      request(taken, payload, slab?: Slab) {
        state.places--
        seen.push({
          request: taken,
          payload: payload && Buffer.from(payload).toString(),
          pooled: slab !== undefined,
        })
        if (slab) pool.release(slab)
        return false
      },
      violation: (what) => violations.push(what),
    },
    pool,
    layout,
  )
  return { seen, violations, state, reader }
}

const stream = Buffer.concat([
  bytesOf(request(NBD_CMD_READ, 4096, 1)),
  bytesOf(request(NBD_CMD_WRITE, 5, 2), Buffer.from('hello')),
  bytesOf(request(NBD_CMD_WRITE, 0, 3)),
  bytesOf(request(NBD_CMD_READ, 1, 4)),
])

describe('RequestReader', () => {
  it('hands on payloads where they lie', () => {
    const { seen, reader } = make()
    reader.receive(stream)
    expect(seen.map(({ request }) => request.cookieLow)).toEqual([1, 2, 3, 4])
    expect(seen[1]).toMatchObject({ payload: 'hello', pooled: false })
  })

  it.each([1, 2, 3, 7, 27, 28, 29, 33])('reads the same in chunks of %d bytes', (step) => {
    const { seen, reader } = make()
    for (let at = 0; at < stream.length; at += step) reader.receive(stream.subarray(at, at + step))
    expect(seen.map(({ request }) => request.cookieLow)).toEqual([1, 2, 3, 4])
    expect(seen[1].payload).toBe('hello')
  })

  it('keeps requests back while the sink is busy', () => {
    const { seen, state, reader } = make()
    state.places = 1
    reader.receive(stream)
    reader.receive(bytesOf(request(NBD_CMD_READ, 1, 5)))
    expect(seen).toHaveLength(1)
    expect(reader.waiting).toBe(true)
    state.places = 10
    reader.proceed()
    expect(seen.map(({ request }) => request.cookieLow)).toEqual([1, 2, 3, 4, 5])
    expect(reader.waiting).toBe(false)
  })

  it('drops the payload of a write that is too long, and goes on', () => {
    const { seen, reader } = make()
    reader.receive(bytesOf(request(NBD_CMD_WRITE, maxRequestLength + 512, 1)))
    for (let left = maxRequestLength + 512; left > 0; left -= 1024 * 1024) {
      reader.receive(Buffer.alloc(Math.min(left, 1024 * 1024)))
    }
    reader.receive(bytesOf(request(NBD_CMD_READ, 1, 2)))
    expect(seen.map(({ request, payload }) => [request.cookieLow, payload])).toEqual([
      [1, undefined],
      [2, undefined],
    ])
  })

  it('gives up on garbage and on payloads beyond all reason', () => {
    const garbage = make()
    garbage.reader.receive(Buffer.alloc(requestSize, 'x'))
    expect(garbage.violations).toEqual(['a request without the magic number'])
    const endless = make()
    endless.reader.receive(bytesOf(request(NBD_CMD_WRITE, maxDrainedPayload + 1)))
    expect(endless.violations).toHaveLength(1)
  })

  it.each([1, 31, 32, 33, 1000])('reads extended requests in chunks of %d bytes', (step) => {
    const { seen, violations, reader } = make(extendedLayout)
    const flags = NBD_CMD_FLAG_PAYLOAD_LEN
    const all = Buffer.concat([
      extended({ ...request(NBD_CMD_READ, 2 ** 40, 1) }),
      extended({ ...request(NBD_CMD_WRITE, 5, 2), flags }, 'hello'),
      extended({ ...request(NBD_CMD_WRITE, 5, 3) }, 'qemu!'),
      extended({ ...request(NBD_CMD_BLOCK_STATUS, 12, 4), flags }, 'twelve bytes'),
      extended({ ...request(NBD_CMD_READ, 4, 5), flags }, 'drop'),
      extended({ ...request(NBD_CMD_READ, 2 ** 63, 6), flags }),
    ])
    for (let at = 0; at < all.length; at += step) reader.receive(all.subarray(at, at + step))
    expect(seen.map(({ request, payload }) => [request.cookieLow, payload])).toEqual([
      [1, undefined],
      [2, 'hello'],
      [3, 'qemu!'],
      [4, 'twelve bytes'],
      [5, undefined],
    ])
    expect(violations).toHaveLength(1)
  })

  it('takes nothing after it was stopped', () => {
    const { seen, reader } = make()
    reader.receive(stream.subarray(0, requestSize * 2 + 2))
    reader.stop()
    reader.receive(stream.subarray(requestSize * 2 + 2))
    expect(seen).toHaveLength(1)
  })
})
