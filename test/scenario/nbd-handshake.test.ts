import { describe, expect, it } from 'vitest'
import { maxDrainedOption, maxOptionLength } from '../../src/export/nbd/limits.ts'
import {
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_NAME,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_ERR_UNSUP,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
} from '../../src/wire/nbd/constants.ts'
import {
  decodeContextReply,
  decodeServerReply,
  encodeContextRequest,
  encodeInfoRequest,
  infoBlockSize,
  infoExport,
} from '../../src/wire/nbd/handshake.ts'
import { WatchedLayer } from '../support/nbd-layer.ts'
import { startServer } from '../support/nbd-server.ts'
import { RawClient } from '../support/nbd-wire.ts'

const types = (replies: readonly { type: number }[]) => replies.map(({ type }) => type)

describe('greeting', () => {
  it('offers fixed newstyle without zeroes', async () => {
    await using test = await startServer()
    await using client = await RawClient.connect(test.path)
    expect((await client.take(18)).toString('hex')).toBe(
      '4e42444d41474943' + '49484156454f5054' + '0003',
    )
  })

  it('ends with client flags that nobody knows', async () => {
    await using test = await startServer()
    await using client = await RawClient.greeted(test.path, 4)
    expect(await client.closed()).toHaveLength(0)
  })

  it('is understood byte by byte', async () => {
    await using test = await startServer()
    await using client = await RawClient.connect(test.path)
    await client.take(18)
    const bytes = Buffer.concat([
      Buffer.from('00000003', 'hex'),
      Buffer.from('49484156454f5054' + '00000003' + '00000000', 'hex'),
    ])
    for (const byte of bytes) {
      client.send(Buffer.from([byte]))
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(types(await client.optionReplies())).toEqual([NBD_REP_SERVER, NBD_REP_ACK])
  })
})

describe('NBD_OPT_EXPORT_NAME', () => {
  it('tells size and flags, and 124 zeroes unless they were declined', async () => {
    await using test = await startServer({ name: 'a' })
    for (const [flags, padding] of [
      [NBD_FLAG_C_FIXED_NEWSTYLE, 124],
      [0, 124],
      [NBD_FLAG_C_FIXED_NEWSTYLE + 2, 0],
    ]) {
      await using client = await RawClient.greeted(test.path, flags)
      client.sendOption(NBD_OPT_EXPORT_NAME, Buffer.from('a'))
      const reply = await client.take(10)
      expect(reply.readBigUInt64BE(0)).toBe(2n ** 20n)
      expect(await client.take(padding)).toEqual(Buffer.alloc(padding))
      client.sendRequest({ type: 0, length: 1, cookieLow: 9 })
      expect(await client.simpleReply()).toMatchObject({ error: 0, cookieLow: 9 })
    }
  })

  it.each([
    ['an unknown name', Buffer.from('nix')],
    ['a name that is too long', Buffer.alloc(4097, 'a')],
    ['a name that is not UTF-8', Buffer.from([0xff])],
  ])('ends the session for %s', async (_, name) => {
    await using test = await startServer({ name: 'a' })
    await using client = await RawClient.greeted(test.path)
    client.sendOption(NBD_OPT_EXPORT_NAME, name)
    expect(await client.closed()).toHaveLength(0)
  })

  it('is the only option without fixed newstyle', async () => {
    await using test = await startServer()
    await using client = await RawClient.greeted(test.path, 0)
    client.sendOption(NBD_OPT_LIST)
    expect(await client.closed()).toHaveLength(0)
  })
})

describe('NBD_OPT_LIST', () => {
  it('tells names and descriptions', async () => {
    await using test = await startServer({ name: 'a', description: 'first' })
    test.server.addExport({
      name: 'bé',
      layer: new WatchedLayer(new Uint8Array(1)),
      writable: false,
    })
    await using client = await RawClient.greeted(test.path)
    const replies = await client.option(NBD_OPT_LIST)
    expect(types(replies)).toEqual([NBD_REP_SERVER, NBD_REP_SERVER, NBD_REP_ACK])
    expect(replies.slice(0, 2).map(({ data }) => decodeServerReply(data))).toEqual([
      { name: 'a', description: 'first' },
      { name: 'bé', description: '' },
    ])
  })

  it('has no data', async () => {
    await using test = await startServer()
    await using client = await RawClient.greeted(test.path)
    expect(types(await client.option(NBD_OPT_LIST, Buffer.alloc(1)))).toEqual([NBD_REP_ERR_INVALID])
  })
})

describe('NBD_OPT_INFO and NBD_OPT_GO', () => {
  it('tell what is asked for, and ignore what they do not know', async () => {
    const layer = new WatchedLayer(new Uint8Array(12345))
    layer.limits = { ...layer.limits, alignment: 8192 }
    await using test = await startServer({ name: 'a', description: 'first', layer })
    await using client = await RawClient.greeted(test.path)
    const asked = [NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE, 99]
    const data = encodeInfoRequest({ name: 'a', requests: asked })
    const info = await client.option(NBD_OPT_INFO, data)
    expect(types(info)).toEqual([3, 3, 3, 3, NBD_REP_ACK])
    expect(infoExport.decode(info[0].data).size).toBe(12345n)
    expect(info[1].data.toString('latin1', 2)).toBe('a')
    expect(info[2].data.toString('latin1', 2)).toBe('first')
    expect(infoBlockSize.decode(info[3].data)).toMatchObject({
      minimum: 1,
      preferred: 8192,
      maximum: 2 ** 25,
    })
    const go = await client.option(NBD_OPT_GO, data)
    expect(go.map(({ type, data }) => [type, data])).toEqual(
      info.map(({ type, data }) => [type, data]),
    )
    client.sendRequest({ length: 1 })
    expect(await client.simpleReply()).toMatchObject({ error: 0 })
  })

  it('leave the client in the handshake when there is no such export', async () => {
    await using test = await startServer({ name: 'a' })
    await using client = await RawClient.greeted(test.path)
    const data = encodeInfoRequest({ name: 'b', requests: [] })
    expect(types(await client.option(NBD_OPT_GO, data))).toEqual([NBD_REP_ERR_UNKNOWN])
    expect(types(await client.option(NBD_OPT_LIST))).toEqual([NBD_REP_SERVER, NBD_REP_ACK])
  })

  it('refuse data that contradicts itself', async () => {
    await using test = await startServer()
    await using client = await RawClient.greeted(test.path)
    for (const data of ['', '00000009' + '61', '00000000' + '0002' + '0000']) {
      const replies = await client.option(NBD_OPT_GO, Buffer.from(data, 'hex'))
      expect(types(replies)).toEqual([NBD_REP_ERR_INVALID])
    }
  })

  it('tell flags that fit the export and what was negotiated', async () => {
    await using test = await startServer({ name: 'rw' })
    const { server, layer } = test
    server.addExport({ name: 'ro', layer, writable: false })
    server.addExport({ name: 'one', layer, writable: true, multiConn: false })
    await using client = await RawClient.greeted(test.path)
    const writing = NBD_FLAG_SEND_TRIM + NBD_FLAG_SEND_WRITE_ZEROES
    const before = await client.exportFlags(NBD_OPT_INFO, 'rw')
    expect(before & (NBD_FLAG_SEND_DF + NBD_FLAG_READ_ONLY)).toBe(0)
    expect(before & writing).toBe(writing)
    await client.option(NBD_OPT_STRUCTURED_REPLY)
    expect(await client.exportFlags(NBD_OPT_INFO, 'rw')).toBe(before + NBD_FLAG_SEND_DF)
    const readOnly = await client.exportFlags(NBD_OPT_INFO, 'ro')
    expect(readOnly & (writing + NBD_FLAG_READ_ONLY)).toBe(NBD_FLAG_READ_ONLY)
    expect((await client.exportFlags(NBD_OPT_INFO, 'one')) & NBD_FLAG_CAN_MULTI_CONN).toBe(0)
  })
})

describe('other options', () => {
  it('NBD_OPT_ABORT is acknowledged, whatever its data, and ends the session', async () => {
    await using test = await startServer()
    await using client = await RawClient.greeted(test.path)
    expect(types(await client.option(NBD_OPT_ABORT, Buffer.alloc(3)))).toEqual([NBD_REP_ACK])
    expect(await client.closed()).toHaveLength(0)
  })

  it('unknown ones are unsupported', async () => {
    await using test = await startServer()
    await using client = await RawClient.greeted(test.path)
    for (const option of [0, 4, 12, 0xffffffff]) {
      const replies = await client.option(option, Buffer.alloc(100))
      expect(replies).toMatchObject([{ option, type: NBD_REP_ERR_UNSUP }])
    }
  })

  it('NBD_OPT_STARTTLS is refused without credentials', async () => {
    await using test = await startServer()
    await using client = await RawClient.greeted(test.path)
    expect(types(await client.option(NBD_OPT_STARTTLS))).toEqual([NBD_REP_ERR_POLICY])
  })

  it('NBD_OPT_STRUCTURED_REPLY has no data', async () => {
    await using test = await startServer()
    await using client = await RawClient.greeted(test.path)
    expect(types(await client.option(NBD_OPT_STRUCTURED_REPLY, Buffer.alloc(1)))).toEqual([
      NBD_REP_ERR_INVALID,
    ])
    expect(types(await client.option(NBD_OPT_STRUCTURED_REPLY))).toEqual([NBD_REP_ACK])
  })

  it('without the magic number end the session', async () => {
    await using test = await startServer()
    await using client = await RawClient.greeted(test.path)
    client.send(Buffer.alloc(64, 'x'))
    expect(await client.closed()).toHaveLength(0)
  })

  it('that are too long are dropped and refused; far too long ones end the session', async () => {
    await using test = await startServer()
    await using client = await RawClient.greeted(test.path)
    const long = await client.option(NBD_OPT_GO, Buffer.alloc(maxOptionLength + 1))
    expect(types(long)).toEqual([NBD_REP_ERR_TOO_BIG])
    expect(types(await client.option(NBD_OPT_LIST))).toEqual([NBD_REP_SERVER, NBD_REP_ACK])
    client.sendOption(NBD_OPT_GO, Buffer.alloc(0), maxDrainedOption + 1)
    expect(await client.closed()).toHaveLength(0)
  })
})

describe('metadata contexts', () => {
  const contexts = ['qemu:dirty-bitmap:b0', 'qemu:allocation-depth'].map((name) => ({
    name,
    statusAt: (_: number, length: number) => ({ length, flags: 0 }),
  }))
  const all = ['base:allocation', ...contexts.map(({ name }) => name)]

  async function ask(option: number, queries: string[], structured = true, name = 'a') {
    await using test = await startServer({ name: 'a', contexts })
    await using client = await RawClient.greeted(test.path)
    if (structured) await client.option(NBD_OPT_STRUCTURED_REPLY)
    const replies = await client.option(option, encodeContextRequest({ name, queries }))
    const found = replies.filter(({ type }) => type === NBD_REP_META_CONTEXT)
    return {
      final: replies.at(-1)?.type,
      names: found.map(({ data }) => decodeContextReply(data).name),
      ids: found.map(({ data }) => decodeContextReply(data).id),
    }
  }

  it.each([
    [[], all],
    [['base:'], ['base:allocation']],
    [['qemu:'], all.slice(1)],
    [['qemu:dirty-bitmap:'], ['qemu:dirty-bitmap:b0']],
    [
      ['base:allocation', 'qemu:allocation-depth'],
      ['base:allocation', 'qemu:allocation-depth'],
    ],
    [['base:nix', 'unknown:'], []],
  ])('are listed for the queries %j', async (queries, names) => {
    expect(await ask(NBD_OPT_LIST_META_CONTEXT, queries)).toMatchObject({
      names,
      final: NBD_REP_ACK,
    })
  })

  it.each([
    [[], []],
    [['base:'], []],
    [
      ['base:allocation', 'qemu:dirty-bitmap:b0', 'x-no:body'],
      ['base:allocation', 'qemu:dirty-bitmap:b0'],
    ],
  ])('are selected by full name with %j', async (queries, names) => {
    const answer = await ask(NBD_OPT_SET_META_CONTEXT, queries)
    expect(answer).toMatchObject({ names, final: NBD_REP_ACK })
    expect(new Set(answer.ids).size).toBe(names.length)
  })

  it('need structured replies and an export', async () => {
    for (const option of [NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT]) {
      expect(await ask(option, [], false)).toMatchObject({ final: NBD_REP_ERR_INVALID })
      expect(await ask(option, [], true, 'nix')).toMatchObject({ final: NBD_REP_ERR_UNKNOWN })
    }
  })

  it('may not be asked for without end', async () => {
    const queries = Array.from({ length: 300 }, () => 'a:')
    expect(await ask(NBD_OPT_SET_META_CONTEXT, queries)).toMatchObject({
      final: NBD_REP_ERR_TOO_BIG,
    })
  })
})
