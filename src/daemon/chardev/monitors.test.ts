/** Monitors on each kind of character device: what a client at the other end sees. */
import { execFileSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import {
  closeSync,
  constants,
  openSync,
  readFileSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { type Duplex, PassThrough } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { scratchFolder } from '../../../test/support/folder.ts'
import { until } from '../../../test/support/until.ts'
import { sys } from '../../sys/current.ts'
import { StorageDaemon } from '../storage-daemon.ts'
import type { ChardevData, ChardevKind } from './chardev.ts'

const folder = scratchFolder('chardev')
const greeting = /^\{"QMP": .*\}\r\n/
const { O_RDWR, O_NONBLOCK, O_NOCTTY } = constants

/** A monitor on a new device; with what `chardev-add` returned. */
async function monitored<K extends ChardevKind>(
  daemon: StorageDaemon,
  type: K,
  data: ChardevData<K>,
): Promise<{ readonly pty?: string }> {
  const added = await daemon.execute('chardev-add', { id: 'c', backend: { type, data } })
  daemon.addMonitor('c')
  return added as { pty?: string }
}

/** What comes from a descriptor or a stream, as text. */
class Listener {
  text = ''

  constructor(source: Duplex | number) {
    if (typeof source === 'number') {
      const bytes = Buffer.alloc(65536)
      this.look = () => {
        try {
          this.text += bytes.toString('utf8', 0, readSync(source, bytes))
        } catch {}
      }
    } else {
      source.on('data', (chunk) => {
        this.text += chunk
      })
    }
  }

  look = () => {}

  async hears(what: RegExp | string): Promise<void> {
    await until(() => {
      this.look()
      return typeof what === 'string' ? this.text.includes(what) : what.test(this.text)
    })
  }
}

const negotiate = '{"execute":"qmp_capabilities"}'
const query = '{"execute":"query-version","id":"asked"}'

it('writes to a ring buffer, from which nothing comes', async () => {
  await using daemon = new StorageDaemon()
  await monitored(daemon, 'ringbuf', { size: 4096 })
  const read = () => daemon.execute('ringbuf-read', { device: 'c', size: 4096 })
  expect(await read()).toMatch(greeting)
  await daemon.execute('ringbuf-write', { device: 'c', data: negotiate })
  expect(await read()).toBe(negotiate)
})

it('takes commands from a file, and answers into another', async () => {
  await using daemon = new StorageDaemon()
  const [input, out] = [join(folder, 'commands'), join(folder, 'answers')]
  writeFileSync(input, negotiate + query)
  writeFileSync(out, 'before\n')
  await monitored(daemon, 'file', { in: input, out, append: true })
  await until(() => readFileSync(out, 'utf8').includes('"id": "asked"'))
  expect(readFileSync(out, 'utf8')).toMatch(/^before\n\{"QMP": /)
})

it.each(['one', 'two'])('serves %s named pipe(s)', async (count) => {
  await using daemon = new StorageDaemon()
  const device = join(folder, `pipe-${count}`)
  const names = count === 'one' ? [device, device] : [`${device}.in`, `${device}.out`]
  execFileSync('mkfifo', [...new Set(names)])
  await monitored(daemon, 'pipe', { device })
  // With one pipe the monitor may read what it wrote itself, as in QEMU.
  if (count === 'one') return
  const [input, output] = names.map((name) => openSync(name, O_RDWR + O_NONBLOCK))
  const listener = new Listener(output)
  await listener.hears(greeting)
  writeSync(input, negotiate + query)
  await listener.hears('"id": "asked"')
  for (const fd of [input, output]) closeSync(fd)
})

it.skipIf(!sys().supported.ioctl)('greets everybody who opens its terminal', async () => {
  await using daemon = new StorageDaemon()
  const { pty = '' } = await monitored(daemon, 'pty', {})
  for (const _ of [1, 2]) {
    const fd = openSync(pty, O_RDWR + O_NONBLOCK + O_NOCTTY)
    const listener = new Listener(fd)
    await listener.hears(greeting)
    writeSync(fd, negotiate + query)
    await listener.hears('"id": "asked"')
    // More than the terminal holds at a time; and nothing of what was sent comes back.
    writeSync(fd, '{"execute":"query-commands"}{"execute":"query-commands","id":"long"}')
    await listener.hears('"id": "long"')
    expect(listener.text).not.toContain('"execute"')
    closeSync(fd)
    // Whoever opens it again at once is taken for the same client.
    await sleep(200)
  }
})

it.skipIf(!sys().supported.ioctl)('takes a terminal for a serial line', async () => {
  await using other = new StorageDaemon()
  const { pty = '' } = await monitored(other, 'pty', {})
  await using daemon = new StorageDaemon()
  // Two monitors that complain of each other's greetings, for as long as they are let.
  const backend = { type: 'serial', data: { device: pty } }
  await daemon.execute('chardev-add', { id: 's', backend })
  const streams: Duplex[] = []
  daemon.chardevs.attach('s', async (stream) => {
    streams.push(stream)
  })
  const listener = new Listener(streams[0])
  await listener.hears(greeting)
  streams[0].write(negotiate + query)
  await listener.hears('"id": "asked"')
})

it('sends and takes datagrams', async () => {
  await using daemon = new StorageDaemon()
  const client = createSocket('udp4').bind(0, '127.0.0.1')
  await once(client, 'listening')
  const inet = (port: number) =>
    ({ type: 'inet', data: { host: '127.0.0.1', port: String(port) } }) as const
  const first = once(client, 'message')
  await monitored(daemon, 'udp', { remote: inet(client.address().port), local: inet(0) })
  const [bytes, { port }] = await first
  expect(String(bytes)).toMatch(greeting)
  const second = once(client, 'message')
  client.send(negotiate, port, '127.0.0.1')
  expect(String((await second)[0])).toBe('{"return": {}}\r\n')
  client.close()
})

it('logs what it writes', async () => {
  await using daemon = new StorageDaemon()
  const path = join(folder, 'logged.sock')
  const logfile = join(folder, 'log')
  await monitored(daemon, 'socket', { addr: { type: 'unix', data: { path } }, logfile })
  const client = connect(path)
  const listener = new Listener(client)
  client.write(negotiate + query)
  await listener.hears('"id": "asked"')
  expect(readFileSync(logfile, 'utf8')).toBe(listener.text)
  client.destroy()
})

it('speaks telnet', async () => {
  await using daemon = new StorageDaemon()
  const path = join(folder, 'telnet.sock')
  await monitored(daemon, 'socket', { addr: { type: 'unix', data: { path } }, telnet: true })
  const client = connect(path)
  const chunks: Buffer[] = []
  client.on('data', (chunk) => chunks.push(chunk))
  client.write(Buffer.from('fffb01', 'hex'))
  client.write(negotiate)
  client.write(Buffer.from('fffd', 'hex'))
  await until(() => Buffer.concat(chunks).includes('{"return": {}}'))
  const seen = Buffer.concat(chunks)
  expect(seen.subarray(0, 12).toString('hex')).toBe('fffb01fffb03fffb00fffd00')
  expect(String(seen.subarray(12))).toMatch(greeting)
  client.write(Buffer.concat([Buffer.from('03', 'hex'), Buffer.from(query)]))
  await until(() => Buffer.concat(chunks).includes('"id": "asked"'))
  expect(String(Buffer.concat(chunks))).not.toContain('error')
  client.destroy()
})

it('shares a device between two monitors', async () => {
  const [input, output] = [new PassThrough(), new PassThrough()]
  await using daemon = new StorageDaemon({ stdio: () => ({ input, output }) })
  const listener = new Listener(output)
  await daemon.chardevs.add('base', { type: 'stdio', data: {} })
  await daemon.chardevs.add('mux', { type: 'mux', data: { chardev: 'base' } })
  for (const _ of [1, 2]) daemon.addMonitor('mux')
  expect(() => daemon.addMonitor('base')).toThrow("Device 'base' is in use")
  await listener.hears(/(\{"QMP": .*\}\r\n){2}/)
  input.write(negotiate + query)
  await listener.hears('"id": "asked"')
  input.write(`\x01c${query}`)
  await listener.hears('Expecting capabilities negotiation')
  input.write('\x01h\x01x')
  await listener.hears('print this help')
  await daemon.quitting
})
