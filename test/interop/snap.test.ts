/**
 * `varve snap` and a real QEMU: the guest checks its own memory, so whatever is lost or mixed up on
 * the way shows as an `X` on its serial port, and where it continues tells which moment was saved.
 */

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { open, readdir } from 'node:fs/promises'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { main } from '../support/main.ts'
import { startVarve } from '../support/programs.ts'
import { until } from '../support/until.ts'
import { counterOf, qemuSystem, Vm } from '../support/vm.ts'
import { mountTmpfs } from './mounts.ts'

const folder = scratchFolder('snap')
const snap = `exec ${process.execPath} ${main} snap`
const qemuImg = peer('qemu-img')
const python = peer('python3')
const runFile = promisify(execFile)

/** Rows of which the everyday run has enough similar ones. */
const long = process.env.VARVE_LONG === '1'

/** A file in the scratch folder. */
const at = (name: string) => join(folder, name)

/** Saves a running guest; resolves to the counter before and after. */
async function saveGuest(vm: Vm, file: string, ...options: string[]): Promise<void> {
  await vm.qmp.execute('migrate', { uri: `exec:${snap} -s 1G ${options.join(' ')} save ${file}` })
  expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
}

/** The counter at which a loaded guest went on. */
async function firstCounter(vm: Vm, timeoutMs?: number): Promise<number> {
  const [first] = await vm.progress(2, timeoutMs)
  return counterOf(first)
}

qemuSystem.describe('a snapshot of a running guest', () => {
  const file = at('background.qcow2')
  let before = 0
  let after = 0

  it('is taken while the guest goes on', async () => {
    await using vm = await Vm.start({ folder, name: 'source' })
    await vm.progress(5)
    await vm.capabilities('background-snapshot')
    before = (await vm.lines()).length
    await saveGuest(vm, file)
    after = (await vm.lines()).length
    await vm.progress(5)
    expect(existsSync(file)).toBe(true)
  })

  it('is a sound image', async () => {
    await qemuImg.run('check', file)
  })

  it('is loaded before the guest runs', async () => {
    await using vm = await Vm.start({ folder, name: 'pre', incoming: `exec:${snap} load ${file}` })
    const first = await firstCounter(vm)
    // The state is that of the beginning, and the guest has gone on meanwhile.
    expect(first).toBeGreaterThanOrEqual(before)
    expect(first).toBeLessThan(after)
    expect((await vm.migration()).status).toBe('completed')
  })

  it.each(long ? [0, 10, 40, 99.9, 100] : [0, 40])(
    'is loaded after %d per cent of its pages',
    async (percent) => {
      await using vm = await Vm.start({ folder, name: `post${percent}`, incoming: 'defer' })
      await vm.capabilities('postcopy-ram')
      const uri = `exec:${snap} --json -p ${percent} load ${file} 2>${at(`post${percent}.json`)}`
      await vm.qmp.execute('migrate-incoming', { uri })
      const first = await firstCounter(vm)
      expect(first).toBeLessThan(after)
      expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
      await vm.progress(5)
      await until(() => readFileSync(at(`post${percent}.json`), 'latin1').endsWith('\n'))
      const { requests, requestMs } = JSON.parse(readFileSync(at(`post${percent}.json`), 'latin1'))
      if (percent === 0) expect(requests).toBeGreaterThan(0)
      if (requests === 0) return
      expect(requestMs.p50).toBeLessThanOrEqual(requestMs.p99)
      expect(requestMs.p99).toBeLessThanOrEqual(requestMs.most)
    },
  )

  it('needs the capability for postcopy, or says what is wrong', async () => {
    await using vm = await Vm.start({ folder, name: 'incapable', incoming: 'defer' })
    const uri = `exec:${snap} -p 0 load ${file} 2>${at('incapable.txt')}`
    await vm.qmp.execute('migrate-incoming', { uri })
    await until(() => vm.child.exitCode !== null)
    expect(vm.output).toContain('RAM postcopy is disabled')
    await until(() => /QEMU has closed/.test(readFileSync(at('incapable.txt'), 'utf8')))
  })

  it('is loaded on when the loader was killed', async () => {
    await using vm = await Vm.start({ folder, name: 'recover', incoming: 'defer' })
    await vm.capabilities('postcopy-ram')
    const pid = at('loader.pid')
    const slow = `exec:echo $$ >${pid}; ${snap} -p 0 --speed 1M load ${file}`
    await vm.qmp.execute('migrate-incoming', { uri: slow })
    await vm.migrated(['postcopy-active'])
    await vm.progress(2)
    await runFile('sh', ['-c', `kill -9 $(cat ${pid})`])
    await vm.migrated(['postcopy-paused'])
    await sleep(100)
    await vm.qmp.execute('migrate-recover', { uri: `exec:${snap} --recover load ${file}` })
    expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
    await vm.progress(5)
  })
})

qemuSystem.describe('RAM that changes while it is saved', () => {
  const forms: [string, string[]][] = [
    ['pages', []],
    ['deltas', ['xbzrle']],
    ['compressed pages', ['compress']],
  ]
  // They differ in how pages are decoded, which everyday tests without QEMU look at too.
  it.each(long ? forms : forms.slice(1, 2))(
    'is what the guest had at the end: %s',
    async (name, capabilities) => {
      await using vm = await Vm.start({ folder, name: 'busy', guest: 'guest2' })
      const file = at(`${name.slice(0, 5)}.qcow2`)
      await vm.progress(5)
      if (capabilities.length > 0) await vm.capabilities(...capabilities)
      const slow = { 'max-bandwidth': 60e6, 'downtime-limit': 1, 'xbzrle-cache-size': 2 ** 27 }
      await vm.qmp.execute('migrate-set-parameters', slow)
      await vm.qmp.execute('migrate', { uri: `exec:${snap} -s 1G save ${file}` })
      await sleep(2500)
      const fast = { 'max-bandwidth': 3e9, 'downtime-limit': 500 }
      await vm.qmp.execute('migrate-set-parameters', fast)
      expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
      const expected = await vm.physical(folder, 0x100000, 127 * 1024 * 1024)
      await until(() => existsSync(file))
      await qemuImg.run('convert', '-O', 'raw', file, at('ram.raw'))
      const found = await open(at('ram.raw'))
      const saved = Buffer.alloc(expected.length)
      await found.read(saved, 0, saved.length, 0x100000)
      await found.close()
      expect(Buffer.compare(saved, expected)).toBe(0)
    },
  )
})

qemuSystem.describe('the return path', () => {
  it('is told when the snapshot is complete, which QEMU waits for', async () => {
    await using vm = await Vm.start({ folder, name: 'return' })
    await vm.progress(3)
    await vm.capabilities('return-path')
    const file = at('return.qcow2')
    await saveGuest(vm, file)
    expect(existsSync(file)).toBe(true)
    await using next = await Vm.start({
      ...{ folder, name: 'returned', incoming: `exec:${snap} load ${file}` },
    })
    await next.progress(3)
  })
})

qemuSystem.describe('sockets', () => {
  // Taking and resuming by the monitor goes through Unix sockets.
  it.each(long ? ['tcp', 'unix'] : ['tcp'])('take the place of pipes: %s', async (kind) => {
    await using vm = await Vm.start({ folder, name: 'socket' })
    await vm.progress(3)
    await vm.capabilities('background-snapshot')
    const file = at('socket.qcow2')
    const port = await freePort()
    const uri = kind === 'tcp' ? `tcp:127.0.0.1:${port}` : `unix:${at('stream.sock')}`
    const saving = startVarve(['snap', '-s', '1G', `--uri=${uri}`, 'save', file])
    await until(() => (kind === 'tcp' ? listens(port) : existsSync(at('stream.sock'))))
    await vm.qmp.execute('migrate', { uri })
    expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
    expect((await saving.ended).stderr).toBe('')
    await using next = await Vm.start({ folder, name: 'socketed', incoming: 'defer' })
    await next.capabilities('postcopy-ram')
    await next.qmp.execute('migrate-incoming', { uri })
    const loading = startVarve(['snap', '-p', '10', `--uri=${uri}`, 'load', file])
    expect((await loading.ended).stderr).toBe('')
    await next.progress(3)
    expect(await next.migrated(['completed', 'failed'])).toBe('completed')
  })
})

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Whether a process waits for connections there; looking by a connection would be the one. */
function listens(port: number): boolean {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')} 00000000:0000 0A`
  return readFileSync('/proc/net/tcp', 'latin1').includes(wanted)
}

qemuSystem.describe('descriptors', () => {
  python.it('take the place of pipes, in both directions', async () => {
    const file = at('descriptor.qcow2')
    await using vm = await Vm.start({ folder, name: 'descriptor' })
    await vm.progress(3)
    await vm.capabilities('background-snapshot')
    // QEMU sends to a descriptor only when it was handed over by its monitor.
    const helper = fileURLToPath(new URL('send-descriptor.py', import.meta.url))
    const words = [main, 'snap', '-s', '1G', '--uri=fd:3', 'save', file]
    await runFile('python3', [helper, vm.monitor, process.execPath, ...words])
    expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
    expect(existsSync(file)).toBe(true)
    await using next = await Vm.start({
      folder,
      name: 'loaded',
      incoming: 'defer',
      stdio: ['pipe'],
    })
    await next.capabilities('postcopy-ram')
    await next.qmp.execute('migrate-incoming', { uri: 'fd:3' })
    expect(await withDescriptor(next, ['-p', '30', '--uri=fd:3', 'load', file])).toBe('')
    await next.progress(3)
    expect(await next.migrated(['completed', 'failed'])).toBe('completed')
  })
})

/** Whether a process takes SIGHUP, the last signal that ours does; Node takes SIGINT anyway. */
function takesSignals(pid: string): boolean {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1')
  const caught = /SigCgt:\s*([0-9a-f]+)/.exec(status)?.[1] ?? '0'
  return Number.parseInt(caught.slice(-1), 16) % 2 === 1
}

/** Runs varve with our end of QEMU's descriptor 3 as its own; resolves to what it complains of. */
async function withDescriptor(vm: Vm, args: readonly string[]): Promise<string> {
  const ours = vm.child.stdio[3] as Socket
  const child = spawn(process.execPath, [main, 'snap', ...args], {
    stdio: ['ignore', 'ignore', 'pipe', ours],
  })
  // Only varve reads from it.
  ours.pause()
  ours.destroy()
  let complaints = ''
  child.stderr?.on('data', (chunk) => {
    complaints += chunk
  })
  await once(child, 'close')
  return complaints
}

qemuSystem.describe('a saver that fails', () => {
  const small = at('small')

  it.each([
    ['an option that does not exist', (file: string) => `${snap} --sise 1G save ${file}`],
    ['an image that is too small', (file: string) => `${snap} -s 64M save ${file}`],
    ['a folder that does not exist', (file: string) => `${snap} -s 1G save ${small}/${file}`],
  ])('leaves the guest running: %s', async (_, command) => {
    await using vm = await Vm.start({ folder, name: 'failing' })
    await vm.progress(3)
    await vm.capabilities('background-snapshot')
    const file = at('failed.qcow2')
    await vm.qmp.execute('migrate', { uri: `exec:${command(file)} 2>${at('failed.txt')}` })
    await vm.migrated(['completed', 'failed'])
    await vm.progress(5)
    expect(existsSync(file)).toBe(false)
    expect(readFileSync(at('failed.txt'), 'utf8')).toMatch(/^varve-snap: /)
  })

  it('leaves the guest running when its disk is full', async ({ skip }) => {
    const mount = mountTmpfs(at('full'), 20 * 1024 * 1024)
    if (mount.path === undefined) return skip(mount.refused)
    try {
      await using vm = await Vm.start({ folder, name: 'full' })
      await vm.progress(3)
      const file = join(mount.path, 'full.qcow2')
      for (const capability of ['background-snapshot', undefined]) {
        if (capability) await vm.capabilities(capability)
        const uri = `exec:${snap} -s 1G save ${file} 2>${at('full.txt')}`
        await vm.qmp.execute('migrate', { uri })
        const status = await vm.migrated(['completed', 'failed'])
        await until(() => /No space left/.test(readFileSync(at('full.txt'), 'utf8')))
        expect(await readdir(mount.path)).toEqual([])
        // An ordinary migration that QEMU takes for complete leaves the guest stopped.
        if (status === 'completed' && !capability) await vm.qmp.execute('cont')
        await vm.progress(3)
        if (capability) {
          const off = [{ capability, state: false }]
          await vm.qmp.execute('migrate-set-capabilities', { capabilities: off })
        }
      }
    } finally {
      mount.down()
    }
  })

  it('leaves the guest running when it is interrupted before there is any RAM', async () => {
    await using vm = await Vm.start({ folder, name: 'early' })
    await vm.progress(3)
    await vm.capabilities('background-snapshot')
    const pid = at('early.pid')
    const file = at('early.qcow2')
    const saver = `echo $$ >${pid}; ${snap} -s 1G save ${file} 2>/dev/null`
    await vm.qmp.execute('migrate', { uri: `exec:${saver}` })
    await until(() => existsSync(pid) && takesSignals(readFileSync(pid, 'latin1').trim()))
    await runFile('sh', ['-c', `kill -INT $(cat ${pid})`]).catch(() => {})
    await vm.migrated(['completed', 'failed'])
    await vm.progress(3)
  })

  it('leaves the guest running when it is killed', async () => {
    await using vm = await Vm.start({ folder, name: 'killing' })
    await vm.progress(3)
    await vm.qmp.execute('migrate-set-parameters', { 'max-bandwidth': 20e6 })
    const pid = at('saver.pid')
    const file = at('killed.qcow2')
    await vm.qmp.execute('migrate', { uri: `exec:echo $$ >${pid}; ${snap} -s 1G save ${file}` })
    await sleep(1000)
    await runFile('sh', ['-c', `kill -9 $(cat ${pid})`])
    expect(await vm.migrated(['completed', 'failed'])).toBe('failed')
    await vm.progress(5)
    expect(existsSync(file)).toBe(false)
  })
})
