import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { scratchFolder } from '../../../test/support/folder.ts'
import { parseQmpAddress, QmpClient, type QmpEvent } from './client.ts'

const folder = scratchFolder('qmp-client')
let server: Server | undefined
const sockets = new Set<Socket>()
let count = 0

afterEach(async () => {
  for (const socket of sockets) socket.destroy()
  await new Promise((resolve) => (server ? server.close(resolve) : resolve(undefined)))
  server = undefined
})

interface Request {
  readonly execute: string
  readonly arguments?: unknown
  readonly id: number
}

/** A monitor whose replies are what `answer` writes. */
async function monitor(
  answer: (request: Request, socket: Socket) => void,
  greeting = '{"QMP": {"version": {}, "capabilities": []}}\r\n',
): Promise<string> {
  const path = join(folder, `${count++}.sock`)
  server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.write(greeting)
    socket.on('data', (data) => {
      for (const line of data.toString().split('\r\n').filter(Boolean)) {
        const request = JSON.parse(line) as Request
        if (request.execute === 'qmp_capabilities') reply(socket, request.id, {})
        else answer(request, socket)
      }
    })
  })
  await new Promise<void>((resolve) => server!.listen(path, resolve))
  return path
}

function reply(socket: Socket, id: number, value: unknown): void {
  socket.write(`${JSON.stringify({ return: value, id })}\r\n`)
}

test('replies are matched by id, in whatever order they come', async () => {
  const held: Request[] = []
  const path = await monitor((request, socket) => {
    held.push(request)
    if (held.length < 2) return
    for (const { id, execute } of held.toReversed()) reply(socket, id, execute)
  })
  await using client = await QmpClient.connect(path)
  expect(await Promise.all([client.execute('one'), client.execute('two')])).toEqual(['one', 'two'])
})

test('a refusal carries its class and text', async () => {
  const path = await monitor(({ id }, socket) => {
    socket.write(`{"error": {"class": "CommandNotFound", "desc": "no such thing"}, "id": ${id}}\n`)
  })
  await using client = await QmpClient.connect(`unix:${path}`)
  await expect(client.execute('x')).rejects.toMatchObject({
    code: 'UNSUPPORTED',
    class: 'CommandNotFound',
    message: 'no such thing',
  })
})

test('events between replies reach the listener', async () => {
  const path = await monitor(({ id }, socket) => {
    socket.write('{"event": "STOP", "timestamp": {}}\n{"event": "GO", "data": {"a": 1}}\n')
    reply(socket, id, {})
  })
  await using client = await QmpClient.connect(path)
  const events: QmpEvent[] = []
  client.on('event', (event) => events.push(event))
  await client.execute('x')
  expect(events).toEqual([
    { event: 'STOP', data: {} },
    { event: 'GO', data: { a: 1 } },
  ])
})

test('when the connection is lost everything that waits fails, and what comes later', async () => {
  const path = await monitor((_, socket) => socket.destroy())
  await using client = await QmpClient.connect(path)
  const message = `the connection to the monitor at '${path}' was lost`
  const both = await Promise.allSettled([client.execute('one'), client.execute('two')])
  expect(both.map((each) => each.status === 'rejected' && each.reason.message)).toEqual([
    message,
    message,
  ])
  expect(client.lost.reason).toMatchObject({ code: 'CLOSED', message })
  await expect(client.execute('three')).rejects.toThrow(message)
})

test.each([
  ['nobody listens', undefined, /Could not connect .*nobody.*: No such file/],
  ['no greeting comes', '', /does not greet; it may be serving another client/],
  ['something else is there', 'SSH-2.0-hello\r\n', /does not speak QMP/],
])('%s: one clear error', async (_, greeting, message) => {
  const path = greeting === undefined ? join(folder, 'nobody') : await monitor(() => {}, greeting)
  await expect(QmpClient.connect(path, { greetingMs: 50 })).rejects.toThrow(message)
})

test('a connection that is being made can be given up', async () => {
  const path = await monitor(() => {}, '')
  const reason = new Error('enough')
  const signal = AbortSignal.abort(reason)
  await expect(QmpClient.connect(path, { signal })).rejects.toBe(reason)
  const later = new AbortController()
  setTimeout(() => later.abort(reason), 10)
  await expect(QmpClient.connect(path, { signal: later.signal })).rejects.toBe(reason)
})

test.each([
  ['/run/a.sock', { path: '/run/a.sock' }],
  ['a.sock', { path: 'a.sock' }],
  ['unix:host:4', { path: 'host:4' }],
  ['./host:4', { path: './host:4' }],
  ['localhost:4444', { host: 'localhost', port: 4444 }],
  ['tcp:10.0.0.1:4444', { host: '10.0.0.1', port: 4444 }],
  ['[::1]:4444', { host: '::1', port: 4444 }],
  [':4444', { host: 'localhost', port: 4444 }],
])('the address %s', (text, parsed) => {
  expect(parseQmpAddress(text)).toEqual(parsed)
})

test('a port that is none is refused', () => {
  expect(() => parseQmpAddress('host:70000')).toThrow(/1 to 65535/)
})
