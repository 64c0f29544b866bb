/** NBD_OPT_EXTENDED_HEADERS: lengths of 64 bits, both in our server and in our client. */
import { describe, expect, it } from 'vitest'
import { neverAborted, plainIo, plainWriteIo, plainZeroIo } from '../../src/block/layer.ts'
import { GiB, KiB, MiB } from '../../src/bytes/range.ts'
import { viewOf } from '../../src/bytes/view.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { NbdLayer } from '../../src/protocol/nbd/layer.ts'
import { Link } from '../../src/protocol/nbd/link.ts'
import { errorChunk } from '../../src/wire/nbd/chunks.ts'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_EOVERFLOW,
  NBD_FLAG_BLOCK_STATUS_PAYLOAD,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_EXTENDED_HEADERS,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_EXT_HEADER_REQD,
  NBD_REP_ERR_INVALID,
  NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
} from '../../src/wire/nbd/constants.ts'
import { encodeContextRequest } from '../../src/wire/nbd/handshake.ts'
import { extendedLayout } from '../../src/wire/nbd/layout.ts'
import type { NbdRequest } from '../../src/wire/nbd/transmission.ts'
import { scratchFolder } from '../support/folder.ts'
import { fakeServer } from '../support/nbd-fake-server.ts'
import { patterned, startServer } from '../support/nbd-server.ts'
import { RawClient } from '../support/nbd-wire.ts'

const folder = scratchFolder('nbd-extended')
const size = 16 * GiB
const contexts = ['base:allocation', 'x:half']
const half = {
  name: 'x:half',
  statusAt: (offset: number, length: number) =>
    offset < size / 2
      ? { length: Math.min(length, size / 2 - offset), flags: 1 }
      : { length, flags: 2 },
}
let count = 0

/** 16 GiB of zeroes, but for 1 MiB of data at 5 GiB. */
async function large() {
  const path = `${folder}/socket${count++}`
  const disk = new MemoryLayer({ size })
  disk.write(5 * GiB, patterned(MiB, 1), plainWriteIo)
  const server = await NbdServer.listen({ path })
  server.addExport({ name: '', layer: disk, writable: true, contexts: [half] })
  return { path, disk, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

async function answerTo(client: RawClient, fields: Partial<NbdRequest>, payload?: Uint8Array) {
  client.sendRequest({ cookieLow: 9, ...fields }, payload)
  const { type, cookieLow, flags, payload: told } = await client.chunk()
  expect({ cookieLow, flags }).toEqual({ cookieLow: 9, flags: 1 })
  const error = type === NBD_REPLY_TYPE_ERROR ? told.readUInt32BE(0) : 0
  return { type, error, payload: told }
}

/** Of a block status request: the part of the export, and the contexts by number. */
function statusPayload(length: number, ...ids: number[]): Buffer {
  const payload = Buffer.alloc(8 + 4 * ids.length)
  payload.writeBigUInt64BE(BigInt(length))
  for (const [index, id] of ids.entries()) payload.writeUInt32BE(id, 8 + 4 * index)
  return payload
}

describe('the option', () => {
  it('is agreed on once, has no data, and bars structured replies', async () => {
    await using test = await startServer()
    await using client = await RawClient.greeted(test.path)
    const type = async (option: number, data?: Uint8Array) =>
      (await client.option(option, data)).at(-1)?.type
    expect(await type(NBD_OPT_EXTENDED_HEADERS, Buffer.alloc(4))).toBe(NBD_REP_ERR_INVALID)
    expect(await type(NBD_OPT_STRUCTURED_REPLY)).toBe(NBD_REP_ACK)
    expect(await type(NBD_OPT_EXTENDED_HEADERS)).toBe(NBD_REP_ACK)
    expect(await type(NBD_OPT_EXTENDED_HEADERS)).toBe(NBD_REP_ERR_INVALID)
    expect(await type(NBD_OPT_STRUCTURED_REPLY)).toBe(NBD_REP_ERR_EXT_HEADER_REQD)
  })

  it('ends the session of whoever goes on with NBD_OPT_EXPORT_NAME', async () => {
    await using test = await startServer()
    await using client = await RawClient.greeted(test.path)
    await client.option(NBD_OPT_EXTENDED_HEADERS)
    client.sendOption(NBD_OPT_EXPORT_NAME)
    expect(await client.closed()).toHaveLength(0)
  })

  it('tells of payloads of block status where there are contexts', async () => {
    await using test = await startServer()
    const shown = NBD_FLAG_SEND_DF + NBD_FLAG_BLOCK_STATUS_PAYLOAD
    await using client = await RawClient.greeted(test.path)
    const flags = async (option: number) => (await client.exportFlags(option, '')) & shown
    expect(await flags(NBD_OPT_INFO)).toBe(0)
    await client.option(NBD_OPT_EXTENDED_HEADERS)
    expect(await flags(NBD_OPT_INFO)).toBe(NBD_FLAG_SEND_DF)
    const queries = ['base:allocation']
    await client.option(NBD_OPT_SET_META_CONTEXT, encodeContextRequest({ name: '', queries }))
    expect(await flags(NBD_OPT_GO)).toBe(shown)
  })
})

describe('the server', () => {
  it('answers requests of more than 4 GiB', async () => {
    await using test = await large()
    await using client = await RawClient.transmitting(test.path, { extended: true, contexts })
    const none = { type: NBD_REPLY_TYPE_NONE, error: 0 }
    const zeroes = { type: NBD_CMD_WRITE_ZEROES, offset: 6 * GiB, length: 10 * GiB }
    expect(await answerTo(client, zeroes)).toMatchObject(none)
    const trim = { type: NBD_CMD_TRIM, offset: 0, length: 5 * GiB }
    expect(await answerTo(client, trim)).toMatchObject(none)
    client.sendRequest({ type: NBD_CMD_BLOCK_STATUS, length: size })
    const [first, second] = [await client.chunk(), await client.chunk()]
    expect([first.type, second.type]).toEqual(new Array(2).fill(NBD_REPLY_TYPE_BLOCK_STATUS_EXT))
    const runs = ({ payload }: { payload: Buffer }) =>
      Array.from({ length: payload.readUInt32BE(4) }, (_, index) =>
        extendedLayout.status.decode(viewOf(payload), 8 + 16 * index),
      )
    expect(runs(first)).toEqual([
      { length: 5 * GiB, flags: 3 },
      { length: MiB, flags: 0 },
      { length: 11 * GiB - MiB, flags: 3 },
    ])
    expect(runs(second)).toEqual([
      { length: size / 2, flags: 1 },
      { length: size / 2, flags: 2 },
    ])
    const whole = { type: NBD_CMD_WRITE_ZEROES, offset: 0, length: size }
    expect(await answerTo(client, whole)).toMatchObject(none)
    expect(await client.status(0, size, NBD_CMD_FLAG_REQ_ONE)).toEqual([[size, 3]])
  })

  it('answers reads and writes in chunks that repeat the offset', async () => {
    await using test = await large()
    await using client = await RawClient.transmitting(test.path, { extended: true })
    const data = patterned(4096, 7)
    const at = { offset: 9 * GiB, length: data.length }
    // QEMU does not announce its payload.
    for (const flags of [0, NBD_CMD_FLAG_PAYLOAD_LEN]) {
      const write = { type: NBD_CMD_WRITE, flags, ...at }
      expect(await answerTo(client, write, data)).toMatchObject({ type: NBD_REPLY_TYPE_NONE })
    }
    client.sendRequest({ type: NBD_CMD_READ, ...at, cookieLow: 3 })
    const header = extendedLayout.decodeChunkHeader(viewOf(await client.take(32)), 0)
    expect(header).toMatchObject({
      type: NBD_REPLY_TYPE_OFFSET_DATA,
      cookieLow: 3,
      ...{ flags: 1 },
    })
    expect(header).toMatchObject({ offset: 9 * GiB, length: 8 + data.length })
    const payload = await client.take(header.length)
    expect(payload.readBigUInt64BE(0)).toBe(BigInt(9 * GiB))
    expect(payload.subarray(8).equals(data)).toBe(true)
  })

  it('tells of the contexts alone that a payload names', async () => {
    await using test = await large()
    await using client = await RawClient.transmitting(test.path, { extended: true, contexts })
    const ask = (payload: Buffer) => {
      const flags = NBD_CMD_FLAG_PAYLOAD_LEN
      const { length } = payload
      return answerTo(client, { type: NBD_CMD_BLOCK_STATUS, flags, length }, payload)
    }
    const { type, payload } = await ask(statusPayload(size, 1))
    expect(type).toBe(NBD_REPLY_TYPE_BLOCK_STATUS_EXT)
    expect([payload.readUInt32BE(0), payload.readUInt32BE(4)]).toEqual([1, 2])
    for (const [why, wrong] of Object.entries({
      'no context': statusPayload(4096),
      'one twice': statusPayload(4096, 1, 1),
      'an unknown one': statusPayload(4096, 7),
      'half a number': statusPayload(4096, 0).subarray(0, 10),
      'not even a length': Buffer.alloc(4),
      'more than there is': statusPayload(size + 1, 0),
      'no length': statusPayload(0, 0),
      'more numbers than anybody selects': statusPayload(4096, ...new Array(10_000).fill(0)),
    })) {
      expect((await ask(wrong)).error, why).toBe(NBD_EINVAL)
    }
    expect((await ask(statusPayload(4096, 0))).error).toBe(0)
  })

  it('refuses what has too many bytes, or a payload out of place, and goes on', async () => {
    await using test = await large()
    await using client = await RawClient.transmitting(test.path, { extended: true })
    const flags = NBD_CMD_FLAG_PAYLOAD_LEN
    const refused = async (fields: Partial<NbdRequest>, payload?: Uint8Array) =>
      (await answerTo(client, fields, payload)).error
    expect(await refused({ type: NBD_CMD_READ, length: 33 * MiB })).toBe(NBD_EINVAL)
    expect(await refused({ type: NBD_CMD_READ, length: 2 ** 63 })).toBe(NBD_EINVAL)
    expect(await refused({ type: NBD_CMD_CACHE, length: 8 * GiB })).toBe(NBD_EINVAL)
    expect(await refused({ type: NBD_CMD_TRIM, offset: 1, length: size })).toBe(NBD_EINVAL)
    expect(await refused({ type: NBD_CMD_TRIM, offset: 2 ** 63, length: 2 ** 63 })).toBe(NBD_EINVAL)
    const payload = Buffer.alloc(100 * KiB, 'x')
    const { length } = payload
    expect(await refused({ type: NBD_CMD_READ, flags, length }, payload)).toBe(NBD_EINVAL)
    expect(await refused({ type: 99, flags, length }, payload)).toBe(NBD_EINVAL)
    expect(await refused({ type: NBD_CMD_READ, length: 4096 })).toBe(0)
    client.sendRequest({ type: NBD_CMD_DISC })
    expect(await client.closed()).toHaveLength(0)
  })

  it.each([2 ** 32, 2 ** 62])('leaves a client that announces %d bytes', async (length) => {
    await using test = await large()
    await using client = await RawClient.transmitting(test.path, { extended: true })
    client.sendRequest({ type: NBD_CMD_WRITE, flags: NBD_CMD_FLAG_PAYLOAD_LEN, length })
    expect(await client.closed()).toHaveLength(0)
  })
})

async function open(path: string, reconnectDelayMs = 0): Promise<NbdLayer> {
  const address = { type: 'unix', path } as const
  const limits = { openTimeoutMs: 0, reconnectDelayMs }
  const options = { address, exportName: '', contexts: ['base:allocation'], ...limits }
  const link = await Link.open(options, neverAborted)
  return new NbdLayer(link, link.facts, 'nbd')
}

describe('the client', () => {
  it('asks for more than 4 GiB at a time', async () => {
    await using test = await large()
    await using layer = await open(test.path)
    expect(await layer.extentAt(5 * GiB + MiB, 11 * GiB - MiB, plainIo)).toMatchObject({
      kind: 'zero',
      length: 11 * GiB - MiB,
    })
    await layer.writeZeroes(0, size, plainZeroIo)
    await layer.discard(0, size, plainIo)
    expect(await layer.extentAt(0, size, plainIo)).toMatchObject({ kind: 'zero', length: size })
  })

  const flags =
    NBD_FLAG_HAS_FLAGS + NBD_FLAG_SEND_TRIM + NBD_FLAG_SEND_WRITE_ZEROES + NBD_FLAG_SEND_DF

  it('comes down to the length of writes where a server refuses longer zeroes', async () => {
    const lengths: number[] = []
    await using server = await fakeServer({
      ...{ size, flags, extended: true },
      onRequest(request, socket) {
        lengths.push(request.length)
        const tooLong = request.length > 32 * MiB
        socket.write(tooLong ? errorReply(request, NBD_EOVERFLOW) : reply(request, 0))
      },
    })
    await using layer = await open(server.path)
    await layer.writeZeroes(0, 80 * MiB, plainZeroIo)
    await layer.writeZeroes(0, 40 * MiB, plainZeroIo)
    expect(lengths.map((length) => length / MiB)).toEqual([80, 32, 32, 16, 32, 8])
  })

  it('does not go on with a server that has come back without them', async () => {
    await using server = await fakeServer({ flags, extended: true })
    await using layer = await open(server.path, 5000)
    const zeroing = layer.writeZeroes(0, MiB, plainZeroIo)
    await server.stop()
    await server.start({ flags, structured: true })
    await expect(zeroing).rejects.toMatchObject({ code: 'PEER' })
  })

  it.each([
    ['an offset that is not that of its request', (r: NbdRequest) => reply({ ...r, offset: 1 }, 0)],
    ['more bytes than anybody wants', (r: NbdRequest) => reply(r, 1, Buffer.alloc(520), 2 ** 60)],
    ['a simple reply', () => Buffer.from('6744669800000000', 'hex')],
    ['status', (r: NbdRequest) => reply(r, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, Buffer.alloc(24))],
  ])('leaves a server that sends %s', async (_, answer) => {
    await using server = await fakeServer({
      ...{ flags, extended: true },
      onRequest: (request, socket) => void socket.write(answer(request)),
    })
    await using layer = await open(server.path)
    await expect(layer.read(512, new Uint8Array(512), plainIo)).rejects.toMatchObject({
      code: 'PEER',
    })
  })
})

function reply(
  request: NbdRequest,
  type: number,
  payload = Buffer.alloc(0),
  length = payload.length,
): Buffer {
  const chunk = Buffer.alloc(32)
  extendedLayout.encodeChunkHeader(viewOf(chunk), 0, request, 1, type, length)
  return Buffer.concat([chunk, payload])
}

function errorReply(request: NbdRequest, error: number): Uint8Array {
  return errorChunk(extendedLayout, request, 1, error, Buffer.from('too long'))
}
