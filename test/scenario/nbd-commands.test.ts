import { describe, expect, it } from 'vitest'
import { BlockError } from '../../src/errors.ts'
import { maxDrainedPayload, maxRequestLength } from '../../src/export/nbd/limits.ts'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_RESIZE,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_EIO,
  NBD_ENOSPC,
  NBD_ENOTSUP,
  NBD_EPERM,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REPLY_TYPE_OFFSET_HOLE,
  NBD_STATE_HOLE,
  NBD_STATE_ZERO,
} from '../../src/wire/nbd/constants.ts'
import { WatchedLayer } from '../support/nbd-layer.ts'
import { patterned, startServer } from '../support/nbd-server.ts'
import { RawClient } from '../support/nbd-wire.ts'

const MiB = 2 ** 20

/** A layer that answers at once, and one that takes its time. */
const paces = [
  ['at once', false],
  ['later', true],
] as const

function patternedLayer(length: number, slow = false): WatchedLayer {
  const layer = new WatchedLayer(patterned(length, 7))
  layer.slow = slow
  return layer
}

describe.each(paces)('simple replies to a layer that answers %s', (_, slow) => {
  it('carry what was read', async () => {
    await using test = await startServer({ layer: patternedLayer(MiB, slow) })
    await using client = await RawClient.transmitting(test.path)
    for (const [offset, length] of [
      [0, 1],
      [4096, 4096],
      [12345, 70001],
      [0, MiB],
      [MiB, 0],
    ]) {
      client.sendRequest({ type: NBD_CMD_READ, offset, length, cookieLow: offset })
      expect(await client.simpleReply()).toMatchObject({ error: 0, cookieLow: offset })
      const data = await client.take(length)
      expect(data.equals(test.layer.bytes.subarray(offset, offset + length))).toBe(true)
    }
  })

  it('carry no data when reading failed', async () => {
    await using test = await startServer({ layer: patternedLayer(MiB, slow) })
    await using client = await RawClient.transmitting(test.path)
    test.layer.failure = new BlockError('IO', 'broken')
    client.sendRequest({ type: NBD_CMD_READ, length: 4096, cookieLow: 1 })
    expect(await client.simpleReply()).toMatchObject({ error: NBD_EIO, cookieLow: 1 })
    test.layer.failure = undefined
    client.sendRequest({ type: NBD_CMD_READ, length: 1, cookieLow: 2 })
    expect(await client.simpleReply()).toMatchObject({ error: 0, cookieLow: 2 })
  })
})

describe.each(paces)('structured replies to a layer that answers %s', (_, slow) => {
  it('are one chunk for a short read of data, and one for zeroes', async () => {
    await using test = await startServer({ layer: patternedLayer(MiB, slow) })
    test.layer.bytes.fill(0, 8192, 16384)
    await using client = await RawClient.transmitting(test.path, { structured: true })
    client.sendRequest({ type: NBD_CMD_READ, offset: 4096, length: 4096, cookieLow: 1 })
    const data = await client.chunk()
    expect(data).toMatchObject({ type: NBD_REPLY_TYPE_OFFSET_DATA, flags: NBD_REPLY_FLAG_DONE })
    expect(data.payload.readBigUInt64BE(0)).toBe(4096n)
    expect(data.payload.subarray(8).equals(test.layer.bytes.subarray(4096, 8192))).toBe(true)
    client.sendRequest({ type: NBD_CMD_READ, offset: 8192, length: 4096, cookieLow: 2 })
    const hole = await client.chunk()
    expect(hole).toMatchObject({ type: NBD_REPLY_TYPE_OFFSET_HOLE, flags: NBD_REPLY_FLAG_DONE })
    expect(hole.payload.toString('hex')).toBe('0000000000002000' + '00001000')
  })

  it('cover a long read with chunks of data and holes, the last of them empty', async () => {
    await using test = await startServer({ layer: patternedLayer(3 * MiB, slow) })
    test.layer.bytes.fill(0, MiB, 2 * MiB)
    await using client = await RawClient.transmitting(test.path, { structured: true })
    const offset = 1000
    const length = 3 * MiB - 2000
    client.sendRequest({ type: NBD_CMD_READ, offset, length, cookieLow: 5 })
    const got = Buffer.alloc(length, 0xee)
    let covered = 0
    let chunk = await client.chunk()
    for (; chunk.type !== NBD_REPLY_TYPE_NONE; chunk = await client.chunk()) {
      expect(chunk).toMatchObject({ flags: 0, cookieLow: 5 })
      const at = Number(chunk.payload.readBigUInt64BE(0)) - offset
      const hole = chunk.type === NBD_REPLY_TYPE_OFFSET_HOLE
      const part = hole ? Buffer.alloc(chunk.payload.readUInt32BE(8)) : chunk.payload.subarray(8)
      part.copy(got, at)
      covered += part.length
    }
    expect(chunk.flags).toBe(NBD_REPLY_FLAG_DONE)
    expect(covered).toBe(length)
    expect(got.equals(test.layer.bytes.subarray(offset, offset + length))).toBe(true)
    const read = test.layer.calls.reduce((sum, call) => sum + call.length, 0)
    expect(read).toBeLessThan(length - MiB + 2 * 4096)
  })

  it('are not fragmented when the client says so', async () => {
    await using test = await startServer({ layer: patternedLayer(3 * MiB, slow) })
    test.layer.bytes.fill(0, MiB, 2 * MiB)
    await using client = await RawClient.transmitting(test.path, { structured: true })
    client.sendRequest({ type: NBD_CMD_READ, flags: NBD_CMD_FLAG_DF, length: 3 * MiB })
    const chunk = await client.chunk()
    expect(chunk).toMatchObject({ type: NBD_REPLY_TYPE_OFFSET_DATA, flags: NBD_REPLY_FLAG_DONE })
    expect(chunk.payload.subarray(8).equals(test.layer.bytes)).toBe(true)
  })

  it.each([4096, 2 * MiB])(
    'tell of an error in words when %d bytes cannot be read',
    async (length) => {
      await using test = await startServer({ layer: patternedLayer(2 * MiB, slow) })
      await using client = await RawClient.transmitting(test.path, { structured: true })
      test.layer.failure = new BlockError('IO', '/secret/path is broken')
      client.sendRequest({ type: NBD_CMD_READ, length, cookieLow: 3 })
      const chunk = await client.chunk()
      expect(chunk).toMatchObject({
        type: NBD_REPLY_TYPE_ERROR,
        flags: NBD_REPLY_FLAG_DONE,
        cookieLow: 3,
      })
      expect(chunk.payload.readUInt32BE(0)).toBe(NBD_EIO)
      expect(chunk.payload.toString('utf8', 6)).toBe(
        `read of ${length} bytes at 0: Input/output error`,
      )
      test.layer.failure = undefined
      client.sendRequest({ type: NBD_CMD_FLUSH, cookieLow: 4 })
      expect(await client.simpleReply()).toMatchObject({ error: 0, cookieLow: 4 })
    },
  )
})

describe.each(paces)('writing to a layer that answers %s', (_, slow) => {
  it('stores the payload, however it is cut', async () => {
    await using test = await startServer({ layer: patternedLayer(2 * MiB, slow) })
    await using client = await RawClient.transmitting(test.path)
    const payload = patterned(MiB + 77, 99)
    client.sendRequest({ type: NBD_CMD_WRITE, offset: 4097, length: payload.length }, payload)
    expect(await client.simpleReply()).toMatchObject({ error: 0 })
    expect(
      Buffer.from(test.layer.bytes.subarray(4097, 4097 + payload.length)).equals(payload),
    ).toBe(true)
  })

  it('passes FUA on', async () => {
    await using test = await startServer({ layer: patternedLayer(MiB, slow) })
    await using client = await RawClient.transmitting(test.path)
    const flags = NBD_CMD_FLAG_FUA
    client.sendRequest({ type: NBD_CMD_WRITE, flags, length: 512 }, Buffer.alloc(512))
    client.sendRequest({ type: NBD_CMD_WRITE_ZEROES, flags, length: 512 })
    await client.simpleReply()
    await client.simpleReply()
    expect(test.layer.calls.map(({ verb, io }) => [verb, io.fua])).toEqual([
      ['write', true],
      ['writeZeroes', true],
    ])
  })

  it('flushes where the layer has no FUA, and after a trim', async () => {
    await using test = await startServer({ layer: patternedLayer(MiB, slow) })
    test.layer.capabilities = { ...test.layer.capabilities, fua: 'none' }
    await using client = await RawClient.transmitting(test.path)
    const flags = NBD_CMD_FLAG_FUA
    const requests: [number, Buffer | undefined][] = [
      [NBD_CMD_WRITE, Buffer.alloc(512)],
      [NBD_CMD_WRITE_ZEROES, undefined],
      [NBD_CMD_TRIM, undefined],
    ]
    for (const [type, payload] of requests) {
      client.sendRequest({ type, flags, length: 512 }, payload)
      expect(await client.simpleReply()).toMatchObject({ error: 0 })
    }
    expect(test.layer.calls.map(({ verb }) => verb)).toEqual([
      'write',
      'flush',
      'writeZeroes',
      'flush',
      'discard',
      'flush',
    ])
  })

  it('reports a full disk', async () => {
    await using test = await startServer({ layer: patternedLayer(MiB, slow) })
    await using client = await RawClient.transmitting(test.path)
    test.layer.failure = new BlockError('NO_SPACE', 'full')
    client.sendRequest({ type: NBD_CMD_WRITE, length: 512 }, Buffer.alloc(512))
    expect(await client.simpleReply()).toMatchObject({ error: NBD_ENOSPC })
  })
})

describe('write zeroes', () => {
  it('may unmap unless told not to, and is fast or refused when asked to be', async () => {
    await using test = await startServer()
    await using client = await RawClient.transmitting(test.path)
    for (const flags of [0, NBD_CMD_FLAG_NO_HOLE, NBD_CMD_FLAG_FAST_ZERO]) {
      client.sendRequest({ type: NBD_CMD_WRITE_ZEROES, flags, offset: 512, length: MiB - 512 })
      await client.simpleReply()
    }
    expect(test.layer.calls.map(({ io }) => [io.mayUnmap, io.fastOnly])).toEqual([
      [true, false],
      [false, false],
      [true, true],
    ])
  })

  it('says NBD_ENOTSUP only for fast zeroes', async () => {
    await using test = await startServer()
    test.layer.failure = new BlockError('UNSUPPORTED', 'slow')
    await using client = await RawClient.transmitting(test.path)
    client.sendRequest({ type: NBD_CMD_WRITE_ZEROES, flags: NBD_CMD_FLAG_FAST_ZERO, length: 1 })
    expect(await client.simpleReply()).toMatchObject({ error: NBD_ENOTSUP })
    client.sendRequest({ type: NBD_CMD_WRITE_ZEROES, length: 1 })
    expect(await client.simpleReply()).toMatchObject({ error: NBD_EINVAL })
  })
})

describe('cache', () => {
  it('reads the range', async () => {
    await using test = await startServer()
    await using client = await RawClient.transmitting(test.path)
    client.sendRequest({ type: NBD_CMD_CACHE, offset: 100, length: MiB - 100 })
    expect(await client.simpleReply()).toMatchObject({ error: 0 })
    const read = test.layer.calls.reduce((sum, call) => sum + call.length, 0)
    expect(read).toBe(MiB - 100)
  })
})

describe('block status', () => {
  const hole = NBD_STATE_HOLE + NBD_STATE_ZERO
  const start = () => {
    const layer = new WatchedLayer(patterned(MiB, 3))
    layer.bytes.fill(0, 4096, 12288)
    layer.bytes.fill(0, MiB - 4096)
    return startServer({
      layer,
      contexts: [{ name: 'x-odd:half', statusAt: (offset, length) => half(offset, length) }],
    })
  }
  const half = (offset: number, length: number) =>
    offset < MiB / 2
      ? { length: Math.min(length, MiB / 2 - offset), flags: 7 }
      : { length, flags: 0x80000000 }

  it('joins runs of one status', async () => {
    await using test = await start()
    const options = { structured: true, contexts: ['base:allocation'] }
    await using client = await RawClient.transmitting(test.path, options)
    expect(await client.status(0, MiB)).toEqual([
      [4096, 0],
      [8192, hole],
      [MiB - 16384, 0],
      [4096, hole],
    ])
    expect(await client.status(5000, 2000)).toEqual([[2000, hole]])
    expect(await client.status(0, MiB, NBD_CMD_FLAG_REQ_ONE)).toEqual([[4096, 0]])
  })

  it('has a chunk for each context', async () => {
    await using test = await start()
    const options = { structured: true, contexts: ['base:allocation', 'x-odd:half'] }
    await using client = await RawClient.transmitting(test.path, options)
    client.sendRequest({ type: NBD_CMD_BLOCK_STATUS, offset: MiB / 2 - 512, length: 1024 })
    const first = await client.chunk()
    const second = await client.chunk()
    expect([first.type, first.flags]).toEqual([NBD_REPLY_TYPE_BLOCK_STATUS, 0])
    expect(first.payload.toString('hex')).toBe('00000000' + '00000400' + '00000000')
    expect([second.type, second.flags]).toEqual([NBD_REPLY_TYPE_BLOCK_STATUS, NBD_REPLY_FLAG_DONE])
    expect(second.payload.toString('hex')).toBe(
      '00000001' + '00000200' + '00000007' + '00000200' + '80000000',
    )
  })

  it('looks through backing files only when somebody did it for the export', async () => {
    const layer = new WatchedLayer(patterned(MiB, 3))
    const backing = (offset: number, length: number) =>
      ({ kind: 'backing', offset, length }) as const
    layer.extentAt = backing as never
    await using test = await startServer({ layer })
    test.server.addExport({ name: 'chain', layer, writable: true, chainExtentAt: backing })
    for (const [name, flags] of [
      ['', 0],
      ['chain', hole],
    ] as const) {
      const options = { name, structured: true, contexts: ['base:allocation'] }
      await using client = await RawClient.transmitting(test.path, options)
      expect(await client.status(0, MiB)).toEqual([[MiB, flags]])
    }
  })

  it('is refused without a context', async () => {
    await using test = await start()
    await using client = await RawClient.transmitting(test.path, { structured: true })
    client.sendRequest({ type: NBD_CMD_BLOCK_STATUS, length: 512 })
    expect((await client.chunk()).payload.readUInt32BE(0)).toBe(NBD_EINVAL)
  })
})

describe('requests that cannot be', () => {
  const past = { offset: MiB - 511, length: 512 }
  it.each([
    ['read behind the end', { type: NBD_CMD_READ, ...past }, NBD_EINVAL],
    ['read at 2^63', { type: NBD_CMD_READ, offset: 2 ** 63, length: 1 }, NBD_EINVAL],
    ['trim behind the end', { type: NBD_CMD_TRIM, ...past }, NBD_EINVAL],
    ['cache behind the end', { type: NBD_CMD_CACHE, ...past }, NBD_EINVAL],
    ['zeroes behind the end', { type: NBD_CMD_WRITE_ZEROES, ...past }, NBD_ENOSPC],
    ['a flush with a length', { type: NBD_CMD_FLUSH, length: 1 }, NBD_EINVAL],
    ['an unknown command', { type: 99 }, NBD_EINVAL],
    ['a resize', { type: NBD_CMD_RESIZE, length: 512 }, NBD_EINVAL],
    ['a flag of another command', { type: NBD_CMD_READ, flags: NBD_CMD_FLAG_REQ_ONE }, NBD_EINVAL],
    ['DF without structured replies', { type: NBD_CMD_READ, flags: NBD_CMD_FLAG_DF }, NBD_EINVAL],
    ['an unknown flag', { type: NBD_CMD_FLUSH, flags: 0x8000 }, NBD_EINVAL],
    ['a read that is too long', { type: NBD_CMD_READ, length: maxRequestLength + 1 }, NBD_EINVAL],
  ])('get their error: %s', async (_, request, error) => {
    await using test = await startServer()
    await using client = await RawClient.transmitting(test.path)
    client.sendRequest({ ...request, cookieLow: 1 })
    expect(await client.simpleReply()).toEqual({ error, cookieHigh: 0, cookieLow: 1 })
    client.sendRequest({ type: NBD_CMD_READ, length: 1, cookieLow: 2 })
    expect(await client.simpleReply()).toMatchObject({ error: 0, cookieLow: 2 })
    expect(test.layer.calls.map(({ verb }) => verb)).toEqual(['read'])
  })

  it('writes on a read-only export get NBD_EPERM, and their payload is skipped', async () => {
    await using test = await startServer({ writable: false })
    await using client = await RawClient.transmitting(test.path)
    const payload = Buffer.alloc(100_000, 0x25)
    client.sendRequest({ type: NBD_CMD_WRITE, length: payload.length }, payload)
    client.sendRequest({ type: NBD_CMD_TRIM, length: 1 })
    client.sendRequest({ type: NBD_CMD_WRITE_ZEROES, length: 1 })
    for (let count = 0; count < 3; count++) {
      expect(await client.simpleReply()).toMatchObject({ error: NBD_EPERM })
    }
    expect(test.layer.calls).toEqual([])
  })

  it('a write behind the end gets NBD_ENOSPC', async () => {
    await using test = await startServer()
    await using client = await RawClient.transmitting(test.path)
    client.sendRequest({ type: NBD_CMD_WRITE, ...past }, Buffer.alloc(512))
    expect(await client.simpleReply()).toMatchObject({ error: NBD_ENOSPC })
  })

  it('unaligned ones get NBD_EINVAL where the export needs alignment', async () => {
    await using test = await startServer({ alignment: 512 })
    await using client = await RawClient.transmitting(test.path)
    for (const request of [
      { offset: 1, length: 512 },
      { offset: 512, length: 511 },
    ]) {
      client.sendRequest({ type: NBD_CMD_READ, ...request })
      expect(await client.simpleReply()).toMatchObject({ error: NBD_EINVAL })
    }
  })

  it('a write that is too long is skipped and refused', async () => {
    await using test = await startServer()
    await using client = await RawClient.transmitting(test.path)
    const length = maxRequestLength + 1
    client.sendRequest({ type: NBD_CMD_WRITE, length, cookieLow: 1 }, Buffer.alloc(length))
    expect(await client.simpleReply()).toMatchObject({ error: NBD_EINVAL, cookieLow: 1 })
    client.sendRequest({ type: NBD_CMD_FLUSH, cookieLow: 2 })
    expect(await client.simpleReply()).toMatchObject({ error: 0, cookieLow: 2 })
  })

  it('a write beyond all reason ends the connection', async () => {
    await using test = await startServer()
    await using client = await RawClient.transmitting(test.path)
    client.sendRequest({ type: NBD_CMD_WRITE, length: maxDrainedPayload + 1 })
    expect(await client.closed()).toHaveLength(0)
  })
})

describe('disconnecting', () => {
  it('answers what is under way first', async () => {
    await using test = await startServer()
    test.layer.hold()
    await using client = await RawClient.transmitting(test.path)
    client.sendRequest({ type: NBD_CMD_WRITE, length: 3, cookieLow: 1 }, Buffer.from('abc'))
    client.sendRequest({ type: NBD_CMD_FLUSH, cookieLow: 2 })
    client.sendRequest({ type: NBD_CMD_DISC })
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(client.pending).toBe(0)
    test.layer.letGo()
    expect(await client.simpleReply()).toMatchObject({ error: 0, cookieLow: 1 })
    expect(await client.simpleReply()).toMatchObject({ error: 0, cookieLow: 2 })
    expect(await client.closed()).toHaveLength(0)
    expect(Buffer.from(test.layer.bytes.subarray(0, 3)).toString()).toBe('abc')
  })

  it('by closing one direction does the same', async () => {
    await using test = await startServer()
    test.layer.slow = true
    await using client = await RawClient.transmitting(test.path)
    client.socket.end(RawClient.request({ type: NBD_CMD_FLUSH, cookieLow: 1 }))
    expect(await client.simpleReply()).toMatchObject({ error: 0, cookieLow: 1 })
  })
})
