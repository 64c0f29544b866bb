/** Character devices, by the same conversations with Debian's daemon and with ours. */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { command, QmpPair } from '../support/qmp-pair.ts'

const qsd = peer('qemu-storage-daemon')

const add = (id: string, type: string, data: object = {}) =>
  command('chardev-add', { id, backend: { type, data } })
const change = (id: string, type: string, data: object = {}) =>
  command('chardev-change', { id, backend: { type, data } })
const remove = (id: string) => command('chardev-remove', { id })
const sendBreak = (id: string) => command('chardev-send-break', { id })
const inet = (host: string, port: string, more: object = {}) => ({
  type: 'inet',
  data: { host, port, ...more },
})
const unix = (path: string, more: object = {}) => ({ type: 'unix', data: { path, ...more } })
const socket = (id: string, addr: object, more: object = {}) => add(id, 'socket', { addr, ...more })
const list = command('query-chardev')
const get = (path: string, property: string) => command('qom-get', { path, property })

qsd.describe('character devices', () => {
  let pair: QmpPair
  let server: Server

  beforeAll(async () => {
    pair = await QmpPair.start(scratchFolder('qmp-chardevs'), qsd.path as string, (folder) => {
      writeFileSync(join(folder, 'in.txt'), '')
      execFileSync('mkfifo', ['two.in', 'two.out', 'one'], { cwd: folder })
    })
    server = createServer().listen(45671, '127.0.0.1')
  })

  afterAll(async () => {
    server.close()
    await pair?.[Symbol.asyncDispose]()
  })

  it('has the same kinds, and refuses others alike', async () => {
    const others = ['msmouse', 'wctablet', 'testdev', 'console', 'qemu-vdagent', 'vc', 'braille']
    await pair.same([
      command('query-chardev-backends'),
      list,
      ...others.map((type) => add('x', type)),
      ...['no-such', 'spicevmc', 'spiceport', 'dbus'].map((type) => add('x', type)),
      add('x', 'dbus', { name: 'x' }),
      add('x', 'vc', { width: 2 ** 31 }),
      add('x', 'vc', { width: '1' }),
      command('chardev-add', {}),
      command('chardev-add', { id: 'x' }),
      command('chardev-add', { id: 'x', backend: {} }),
      command('chardev-add', { id: 'x', backend: { type: 'null' } }),
      add('x', 'null', { x: 1 }),
    ])
  })

  it('takes any name, once', async () => {
    await pair.same([
      ...['n', 'n', '1a', '', 'a b'].map((id) => add(id, 'null')),
      list,
      ...['n', '1a', '', 'a b', 'a b'].flatMap((id) => [sendBreak(id), remove(id)]),
      command('chardev-remove', {}),
      command('chardev-send-break', { id: 1 }),
    ])
  })

  it('opens files alike', async () => {
    await pair.same([
      add('a', 'file'),
      add('a', 'file', { out: '/no-such/x' }),
      add('a', 'file', { out: '.' }),
      add('a', 'file', { out: 'o.txt', append: true }),
      add('b', 'file', { out: 'o2.txt', in: 'in.txt' }),
      add('c', 'file', { out: 'o3.txt', in: 'no-such' }),
      add('d', 'file', { out: 'o4.txt', logfile: 'l.txt' }),
      add('e', 'null', { logfile: '/no-such/l' }),
      add('e', 'null', { logfile: 'l2.txt', logappend: true }),
      add('f', 'pipe', { device: 'two' }),
      add('g', 'pipe', { device: 'one' }),
      add('h', 'pipe', { device: 'no-such' }),
      add('h', 'pipe', { device: 'in.txt' }),
      add('i', 'serial', { device: '/no-such' }),
      add('i', 'parallel', { device: '/no-such' }),
      list,
      ...['a', 'b', 'd', 'e', 'f', 'g', 'h', 'i'].map(remove),
    ])
  })

  it('makes terminals alike', async () => {
    await pair.same([
      add('p', 'pty'),
      add('q', 'pty'),
      list,
      get('p', 'type'),
      change('p', 'pty'),
      change('q', 'null'),
      remove('p'),
      remove('q'),
    ])
  })

  it('keeps what is written to ring buffers alike', async () => {
    const ring = (id: string, size?: unknown, type = 'ringbuf') => add(id, type, { size })
    const write = (data: unknown, format?: string) =>
      command('ringbuf-write', { device: 'q', data, format })
    const read = (size: unknown, format?: string) =>
      command('ringbuf-read', { device: 'q', size, format })
    const texts = ['hello', 'é€', 'a\0b', '', '01234567', '012345678', '0123456789abcdefghij']
    const encoded = ['%%', 'aGk', 'aGk=', 'aG=k', 'YQ\nBi', '', '/w==', 'AGEAYg==', 'wIA=']
    await pair.same([
      ...[1, 0, -1, 3, 'x', 1.5].map((size, index) => ring(`r${index}`, size)),
      ring('q', 8),
      ring('m', 16, 'memory'),
      ring('u'),
      list,
      ...texts.flatMap((text) => [write(text), read(3), read(9), read(9)]),
      ...texts.flatMap((text) => [write(text), read(2, 'base64'), read(9, 'base64')]),
      ...encoded.flatMap((text) => [write(text, 'base64'), read(9)]),
      ...encoded.flatMap((text) => [write(text, 'base64'), read(9, 'base64')]),
      ...[0, -1, 2 ** 50, 'x', undefined].map((size) => read(size)),
      read(1, 'no-such'),
      write(1),
      add('n', 'null'),
      command('ringbuf-read', { device: 'n', size: 1 }),
      command('ringbuf-write', { device: 'n', data: 'x' }),
      command('ringbuf-read', { device: 'no-such', size: -1 }),
      command('ringbuf-write', { device: 'no-such', data: 'x' }),
      ...['r0', 'r1', 'q', 'm', 'u', 'n'].map(remove),
    ])
  })

  it('listens alike', async () => {
    const local = inet('127.0.0.1', '0')
    await pair.same([
      add('a', 'socket'),
      socket('a', { type: 'unix' }),
      socket('a', unix('a.sock')),
      socket('b', unix('/no-such/s.sock')),
      socket('b', unix('x'.repeat(109))),
      socket('b', unix('b.sock'), { reconnect: 1 }),
      socket('b', unix('b.sock'), { 'tls-authz': 'x' }),
      socket('b', unix('b.sock'), { nodelay: true, wait: false }),
      socket('c', local, { telnet: true }),
      socket('d', local, { tn3270: true }),
      socket('e', local, { telnet: true, tn3270: true }),
      socket('f', inet('127.0.0.1', 'x')),
      socket('f', inet('no-host.invalid', '0')),
      socket('f', inet('', '')),
      socket('f', inet('127.0.0.1', '0', { ipv4: false })),
      socket('f', inet('127.0.0.1', '0', { ipv4: false, ipv6: false })),
      socket('f', inet('::1', '0', { ipv4: true })),
      socket('f', inet('localhost', '0', { numeric: true })),
      socket('f', inet('127.0.0.1', '0', { ipv6: false, numeric: true })),
      socket('g', inet('127.0.0.1', '45671')),
      socket('g', inet('127.0.0.1', '45671', { to: 45680 })),
      socket('h', inet('::1', '0')),
      socket('i', { type: 'fd', data: { str: '99' } }),
      socket('i', { type: 'fd', data: { str: 'x' } }, { server: false }),
      list,
      ...['a', 'c', 'f', 'h'].flatMap((id) => [get(id, 'addr'), get(id, 'connected')]),
      command('qom-list', { path: '/chardevs' }),
      command('qom-list', { path: '/chardevs/a' }),
      command('qom-set', { path: 'a', property: 'connected', value: true }),
      ...['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'].map(remove),
    ])
  })

  it('uses abstract names alike', async () => {
    const name = `varve-test-${process.pid}`
    for (const more of [{}, { tight: false }]) {
      const at = unix(name, { abstract: true, ...more })
      // Both at a time would meet.
      for (const only of [0, 1] as const) {
        await pair.alone(only, [socket('a', at), socket('b', at, { server: false }), list])
        await pair.alone(only, [remove('b'), remove('a')])
      }
      pair.sameAlone()
    }
  })

  it('connects alike', async () => {
    const client = { server: false }
    await pair.same([
      socket('a', unix('no-such.sock'), client),
      socket('a', unix('no-such.sock'), { ...client, wait: true }),
      socket('a', unix('no-such.sock'), { ...client, wait: false }),
      socket('a', unix('no-such.sock'), { ...client, reconnect: 100 }),
      socket('b', inet('127.0.0.1', '1'), client),
      socket('b', inet('127.0.0.1', 'x'), client),
      socket('b', inet('', '5'), client),
      socket('b', inet('x', ''), client),
      socket('b', inet('127.0.0.1', '45671'), { ...client, websocket: true }),
      socket('b', inet('127.0.0.1', '45671'), { ...client, telnet: true }),
      socket('c', unix('c.sock')),
      socket('d', unix('c.sock'), client),
      command('qom-get', { path: 'd', property: 'addr' }),
      list,
      get('d', 'connected'),
      remove('c'),
      // A moment, in which the end of the connection is seen.
      { until: 'gone' },
      list,
      ...['a', 'b', 'd'].map(remove),
    ])
  })

  it('sends datagrams alike', async () => {
    const udp = (id: string, remote: object, local?: object) => add(id, 'udp', { remote, local })
    const here = inet('127.0.0.1', '9')
    await pair.same([
      add('a', 'udp'),
      udp('a', here),
      udp('b', here, inet('127.0.0.1', '0')),
      udp('c', unix('no-such')),
      udp('c', { type: 'fd', data: { str: '99' } }),
      udp('c', inet('no-host.invalid', '9')),
      udp('c', inet('127.0.0.1', '')),
      udp('c', here, inet('127.0.0.1', 'x')),
      udp('c', here, inet('::1', '0')),
      udp('c', inet('', '9')),
      list,
      ...['a', 'b', 'c'].map(remove),
    ])
  })

  it('changes and shares devices alike', async () => {
    await pair.same([
      ...['n', 'o', 'r'].map((id) => add(id, 'null')),
      change('n', 'null'),
      change('n', 'no-such'),
      change('n', 'ringbuf', { size: 16 }),
      list,
      change('n', 'file', { out: '/no-such/x' }),
      list,
      change('n', 'null'),
      change('talk', 'null'),
      remove('talk'),
      add('m', 'mux', { chardev: 'o' }),
      add('l', 'mux', { chardev: 'o' }),
      add('l', 'mux', { chardev: 'no-such' }),
      add('l', 'mux'),
      change('r', 'mux', { chardev: 'o' }),
      change('o', 'null'),
      change('m', 'null'),
      ...['o', 'm', 'r'].flatMap((id) => [sendBreak(id), remove(id)]),
      command('chardev-change', { id: 'o' }),
      list,
    ])
  })
})
