/**
 * Monitors behind TLS and a WebSocket, of Debian's daemon and of ours, by clients that neither wrote:
 * Node's own TLS and WebSocket. QEMU 7.2 greets such a client and then hears nothing of what it says,
 * so only the greeting is compared; ours is talked to.
 */
import { once } from 'node:events'
import { mkdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { type ConnectionOptions, connect, createServer as createTlsServer } from 'node:tls'
import { beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { makePki } from '../support/certificates.ts'
import { scratchFolder } from '../support/folder.ts'
import { command, QmpPair } from '../support/qmp-pair.ts'
import { QmpTalk, varveDaemon } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon')
const folder = scratchFolder('chardev-layers')
const pki = (name: string) => join(folder, 'pki', name)
const pem = (name: string) => readFileSync(pki(name))
const asClient = () => ({ cert: pem('client-cert.pem'), key: pem('client-key.pem') })
let count = 0

async function freePort(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return String(port)
}

const objects = [
  ['--object', `tls-creds-x509,id=server,endpoint=server,dir=${join(folder, 'pki')}`],
  ['--object', `tls-creds-x509,id=client,endpoint=client,dir=${join(folder, 'pki')}`],
  ['--object', 'authz-simple,id=nobody,identity=CN=nobody'],
].flat()

/** Starts a daemon with one more monitor, with `options` for its socket. */
async function serve(program: readonly string[], port: string, options: string): Promise<QmpTalk> {
  const place = join(folder, String(count++))
  mkdirSync(place)
  const socket = `socket,id=more,host=127.0.0.1,port=${port},server=on,wait=off,${options}`
  const more = [...objects, '--chardev', socket, '--monitor', 'chardev=more']
  return await QmpTalk.start(program, place, more)
}

/** Hears the greeting and asks so many questions, each when the one before has been answered. */
class Client {
  readonly #send: (text: string) => void
  readonly #close: () => void
  #left: number
  #text = ''

  constructor(questions: number, send: (text: string) => void, close: () => void) {
    this.#left = questions
    this.#send = send
    this.#close = close
  }

  hear(text: string): void {
    this.#text += text
    if (!this.#text.endsWith('\n')) return
    if (this.#left-- > 0) this.#send(`${JSON.stringify({ execute: 'qmp_capabilities' })}\n`)
    else this.#close()
  }

  /** What the answers are about; nothing when it was turned away. */
  get heard(): string[] {
    const lines = this.#text.split('\n').filter((line) => line !== '')
    return lines.flatMap((line) => Object.keys(JSON.parse(line)))
  }
}

async function throughTls(
  port: string,
  questions: number,
  options: ConnectionOptions,
): Promise<string[]> {
  const trust = { ca: pem('ca-cert.pem'), servername: 'localhost' }
  const socket = connect({ host: '127.0.0.1', port: Number(port), ...trust, ...options })
  const client = new Client(
    questions,
    (text) => socket.write(text),
    () => socket.destroy(),
  )
  socket.setEncoding('utf8').on('data', (text: string) => client.hear(text))
  socket.on('error', () => {})
  await once(socket, 'close')
  return client.heard
}

async function throughWebSocket(
  port: string,
  questions: number,
  protocols: readonly string[],
): Promise<string[]> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/`, [...protocols])
  socket.binaryType = 'arraybuffer'
  return await new Promise((resolve) => {
    const send = (text: string) => {
      // A message may end anywhere.
      for (const part of [text.slice(0, 5), text.slice(5)]) socket.send(Buffer.from(part))
    }
    const client = new Client(questions, send, () => {
      // Theirs may not answer that.
      socket.close()
      resolve(client.heard)
    })
    socket.onmessage = ({ data }) => client.hear(Buffer.from(data as ArrayBuffer).toString())
    socket.onerror = () => resolve(client.heard)
    socket.onclose = () => resolve(client.heard)
  })
}

qsd.describe('a monitor', () => {
  beforeAll(() => {
    makePki(join(folder, 'pki'))
  })

  /** What a client hears of theirs, and of ours, of which it asks two questions. */
  async function heard(
    options: string,
    client: (port: string, questions: number) => Promise<string[]>,
  ): Promise<[theirs: string[], ours: string[]]> {
    const port = await freePort()
    const both: string[][] = []
    for (const [program, questions] of [
      [[qsd.path as string], 0],
      [varveDaemon, 2],
    ] as const) {
      await using daemon = await serve(program, port, options)
      both.push(await client(port, questions))
      // It does not end by itself when such a client was there.
      if (questions === 0) daemon.process.kill('SIGKILL')
    }
    return both as [string[], string[]]
  }

  it.each([
    [true, 'with a certificate', () => asClient(), 'tls-creds=server'],
    [false, 'without one', () => ({}), 'tls-creds=server'],
    [false, 'by one who may not come in', () => asClient(), 'tls-creds=server,tls-authz=nobody'],
    [false, 'with rules that are not there', () => asClient(), 'tls-creds=server,tls-authz=none'],
  ] as const)('is reached (%s) through TLS %s', async (reached, _, client, options) => {
    const [theirs, ours] = await heard(options, (port, questions) =>
      throughTls(port, questions, client()),
    )
    expect(theirs).toEqual(reached ? ['QMP'] : [])
    expect(ours).toEqual(reached ? ['QMP', 'return', 'error'] : [])
  })

  it.each([
    [true, ['binary']],
    [true, ['other', 'binary']],
    [false, ['other']],
    [true, []],
  ])('is reached (%s) through a WebSocket for %j', async (reached, protocols) => {
    const [theirs, ours] = await heard('websocket=on', (port, questions) =>
      throughWebSocket(port, questions, protocols),
    )
    expect(theirs).toEqual(reached ? ['QMP'] : [])
    expect(ours).toEqual(reached ? ['QMP', 'return', 'error'] : [])
  })

  it('is reached through a WebSocket in TLS', async () => {
    const port = await freePort()
    await using _daemon = await serve(varveDaemon, port, 'websocket=on,tls-creds=server')
    const { WebSocket: Foreign } = await import('ws')
    const socket = new Foreign(`wss://localhost:${port}/`, 'binary', {
      ...{ ca: pem('ca-cert.pem'), ...asClient() },
    })
    const [greeting] = await once(socket, 'message')
    expect(String(greeting)).toMatch(/^\{"QMP": /)
    socket.close()
  })

  it.each(['theirs', 'ours'])('connects by itself through TLS: %s', async (whose) => {
    const tls = { cert: pem('server-cert.pem'), key: pem('server-key.pem'), ca: pem('ca-cert.pem') }
    const server = createTlsServer({ ...tls, requestCert: true }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as { port: number }
    const place = join(folder, `client-${whose}`)
    mkdirSync(place)
    const program = whose === 'ours' ? varveDaemon : [qsd.path as string]
    const socket = `socket,id=more,host=localhost,port=${port},server=off,tls-creds=client`
    const arrived = once(server, 'secureConnection')
    await using _daemon = await QmpTalk.start(program, place, [
      ...[...objects, '--chardev', socket, '--monitor', 'chardev=more'],
    ])
    const [connection] = await arrived
    expect(connection.authorized).toBe(true)
    const [greeting] = await once(connection.setEncoding('utf8'), 'data')
    expect(greeting).toMatch(/^\{"QMP": /)
    connection.destroy()
    server.close()
  })

  it('whose TLS cannot be is refused alike', async () => {
    await using pair = await QmpPair.start(join(folder, 'pair'), qsd.path as string, () => {})
    const inet = { type: 'inet', data: { host: '127.0.0.1', port: await freePort() } }
    const unix = { type: 'unix', data: { path: 'u.sock' } }
    const object = (type: string, id: string, more: object) =>
      command('object-add', { 'qom-type': type, id, ...more })
    const add = (addr: object, more: object) =>
      command('chardev-add', { id: 'a', backend: { type: 'socket', data: { addr, ...more } } })
    const end = command('chardev-remove', { id: 'a' })
    const dir = join(folder, 'pki')
    await pair.same([
      object('tls-creds-x509', 's', { dir, endpoint: 'server' }),
      object('tls-creds-x509', 'c', { dir, endpoint: 'client' }),
      object('secret', 'x', { data: 'abc' }),
      ...['no-such', 'x', 'c'].map((id) => add(inet, { 'tls-creds': id })),
      add(inet, { server: false, 'tls-creds': 's' }),
      add(inet, { server: false, 'tls-creds': 'c', 'tls-authz': 'x' }),
      add(inet, { 'tls-authz': 'x' }),
      add(inet, { server: false, websocket: true }),
      ...['s', 'no-such'].map((id) => add(unix, { 'tls-creds': id })),
      add(unix, { server: false, 'tls-creds': 'c' }),
      ...[
        add(inet, { 'tls-creds': 's', wait: false }),
        add(inet, { 'tls-creds': 's', 'tls-authz': 'x', telnet: true }),
        add(inet, { websocket: true, telnet: true }),
        add(inet, { websocket: true, 'tls-creds': 's' }),
        add(unix, { websocket: true }),
      ].flatMap((step) => [step, command('query-chardev'), end]),
      add(inet, { 'tls-creds': 's', wait: false }),
      command('object-del', { id: 's' }),
      end,
    ])
  })
})
