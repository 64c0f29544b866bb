/**
 * `varve snap` and QEMU 10: what is new in it (a command in the stream, devices in front of RAM,
 * mapped-ram, several channels, addresses as objects), and snapshots that go from 7.2 to 10 and back.
 * The other suites run against it too: `PATH=$VARVE_QEMU10:$PATH vitest run test/interop/snap*`.
 */

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, expect, it } from 'vitest'
import { newerPeer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { main } from '../support/main.ts'
import { runVarve, startVarve } from '../support/programs.ts'
import { until } from '../support/until.ts'
import { bootDisk, counterOf, qemuSystem, Vm, type VmOptions } from '../support/vm.ts'

const folder = scratchFolder('snap-qemu-10')
const at = (name: string) => join(folder, name)
const snap = `exec ${process.execPath} ${main} snap`
/** Rows of which the everyday run has enough similar ones. */
const long = process.env.VARVE_LONG === '1'
const qemu10 = newerPeer('qemu-system-x86_64')

async function varveSnap(...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await runVarve(['snap', ...args])
  if (status !== 0) throw new Error(`snap ${args.join(' ')} ended with ${status}: ${stderr}`)
  return stdout.toString()
}

type Start = Omit<VmOptions, 'folder' | 'name'>

async function start(name: string, options: Start = {}): Promise<Vm> {
  return await Vm.start({ folder, name, qemu: qemu10, ...options })
}

async function migrate(vm: Vm, uri: string): Promise<void> {
  await vm.qmp.execute('migrate', { uri })
  expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
}

/** Loads, and returns the counter at which the guest goes on. */
async function loaded(vm: Vm, uri: string): Promise<number> {
  await vm.qmp.execute('migrate-incoming', { uri })
  const [line] = await vm.progress(3)
  expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
  return counterOf(line)
}

/** SeaBIOS waits half a minute for the AHCI disk of q35 in QEMU 10, and boots others at once. */
async function virtioDisk(): Promise<string> {
  const path = at('virtio.raw')
  if (!existsSync(path)) await bootDisk(path)
  return `file=${path},if=virtio,format=raw,snapshot=on,file.locking=off`
}

qemu10.describe('a snapshot of QEMU 10', () => {
  const file = at('ten.qcow2')
  let counter = 0

  beforeAll(async () => {
    await using vm = await start('source')
    await vm.progress(5)
    counter = (await vm.lines()).length
    // Not in the background: so the stream has SWITCHOVER_START.
    await migrate(vm, `exec:${snap} -s 1G save ${file}`)
  }, 60_000)

  it.each(long ? [0, 10, 50, 99.9, 100] : [0])('goes on after %d per cent', async (percent) => {
    await using vm = await start(`post${percent}`, { incoming: 'defer' })
    await vm.capabilities('postcopy-ram')
    expect(await loaded(vm, `exec:${snap} -p ${percent} load ${file}`)).toBeGreaterThan(counter)
  })

  it.runIf(long)('is loaded on when the loader was killed', async () => {
    await using vm = await start('recover', { incoming: 'defer' })
    await vm.capabilities('postcopy-ram')
    const socket = at('recover.sock')
    await vm.qmp.execute('migrate-incoming', { uri: `unix:${socket}` })
    const args = ['snap', '-p', '0', '--speed=1M', `--uri=unix:${socket}`, 'load', file]
    const loading = startVarve(args)
    await vm.migrated(['postcopy-active'])
    await vm.progress(2)
    loading.child.kill('SIGKILL')
    await vm.migrated(['postcopy-paused'])
    await vm.qmp.execute('migrate-recover', { uri: `exec:${snap} --recover load ${file}` })
    expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
    await vm.progress(3)
  })

  it('is a mapped-ram file that QEMU loads', async () => {
    await varveSnap('convert', '-O', 'mapped-ram', file, at('made'))
    const ways = [[], ['multifd'], ['multifd', 'direct-io']]
    for (const [index, way] of (long ? ways : ways.slice(1, 2)).entries()) {
      await using vm = await start(`made${index}`, { incoming: 'defer' })
      await vm.capabilities('mapped-ram', ...way.filter((name) => name !== 'direct-io'))
      if (way.includes('direct-io')) {
        await vm.qmp.execute('migrate-set-parameters', { 'direct-io': true })
      }
      expect(await loaded(vm, `file:${at('made')}`)).toBeGreaterThan(counter)
    }
  })

  it.runIf(long)('is a file that QEMU loads without a program', async () => {
    await varveSnap('convert', '-O', 'stream', file, at('stream'))
    await using vm = await start('stream', { incoming: 'defer' })
    expect(await loaded(vm, `file:${at('stream')}`)).toBeGreaterThan(counter)
  })

  it.runIf(long)('is loaded by a command without a shell', async () => {
    const exec = (...args: string[]) => {
      const addr = { transport: 'exec', args: [process.execPath, main, 'snap', ...args] }
      return { channels: [{ 'channel-type': 'main', addr }] }
    }
    await using vm = await start('channels', { incoming: 'defer' })
    await vm.qmp.execute('migrate-incoming', exec('load', file))
    await vm.progress(3)
    await vm.qmp.execute('migrate', exec('-s', '1G', 'save', at('channels.qcow2')))
    expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
    await varveSnap('verify', at('channels.qcow2'))
  })
})

qemu10.describe('a mapped-ram file of QEMU 10', () => {
  const ways: [string, string[], Readonly<Record<string, string | boolean>>][] = [
    ['on one channel', [], {}],
    ['on several channels', ['multifd'], {}],
    ['past the page cache', ['multifd'], { 'direct-io': true }],
    ['with zeroes written', [], { 'zero-page-detection': 'none' }],
  ]

  it.each(long ? ways : ways.slice(1, 2))('is a snapshot: %s', async (_, names, parameters) => {
    const [mapped, file] = [at('mapped'), at('unmapped.qcow2')]
    await using vm = await start('mapping', { guest: 'guest2' })
    await vm.progress(5)
    await vm.capabilities('mapped-ram', ...names)
    await vm.qmp.execute('migrate-set-parameters', { 'max-bandwidth': 60e6, ...parameters })
    await migrate(vm, `file:${mapped}`)
    const expected = await vm.physical(folder, 0x100000, 127 * 1024 * 1024)
    await varveSnap('convert', mapped, file)
    await varveSnap('convert', '-O', 'raw', mapped, at('mapped.raw'))
    expect(readFileSync(at('mapped.raw')).subarray(0x100000).equals(expected)).toBe(true)
    const counter = (await vm.lines()).length
    await using next = await start('unmapped', { incoming: 'defer', guest: 'guest2' })
    await next.capabilities('postcopy-ram')
    expect(await loaded(next, `exec:${snap} -p 0 load ${file}`)).toBeGreaterThanOrEqual(counter - 1)
  })
})

qemu10.describe('from one QEMU to another', () => {
  const both: [string, Start, Start][] = [
    ['7.2 to 10', { qemu: qemuSystem }, {}],
    ['10 to 7.2', {}, { qemu: qemuSystem }],
  ]
  const machines = long ? ['pc-i440fx-7.2', 'pc-q35-7.2'] : ['pc-i440fx-7.2']
  const rows = both.flatMap(([name, from, to]) => {
    return machines.map((machine) => [name, machine, from, to] as const)
  })

  it.each(long ? rows : rows.slice(0, 1))('%s goes a %s', async (_, machine, from, to) => {
    const file = at('crossing.qcow2')
    const common = { args: ['-machine', machine], drive: await virtioDisk() }
    await using vm = await start('from', { ...common, ...from })
    await vm.progress(5)
    const counter = (await vm.lines()).length
    await vm.capabilities('background-snapshot')
    await migrate(vm, `exec:${snap} -s 1G save ${file}`)
    for (const percent of long ? [undefined, 0] : [0]) {
      await using next = await start('to', { ...common, ...to, incoming: 'defer' })
      if (percent !== undefined) await next.capabilities('postcopy-ram')
      const options = percent === undefined ? '' : `-p ${percent}`
      const first = await loaded(next, `exec:${snap} ${options} load ${file}`)
      expect(first).toBeGreaterThanOrEqual(counter)
    }
  })
})

qemu10.describe('machines that are new in QEMU 10', () => {
  it.runIf(long)('are saved, and go on before all of their RAM is there', async () => {
    const file = at('memory.qcow2')
    const options = {
      drive: await virtioDisk(),
      args: [
        ...['-machine', 'pc-q35-10.0', '-m', '128,maxmem=1G', '-smp', '2'],
        ...['-object', 'memory-backend-ram,id=m0,size=256M'],
        ...['-device', 'virtio-mem-pci,memdev=m0,requested-size=64M'],
        ...['-device', 'qemu-xhci', '-device', 'usb-tablet', '-device', 'virtio-scsi-pci'],
        ...['-device', 'VGA', '-device', 'virtio-balloon-pci'],
      ],
    }
    await using vm = await start('memory', options)
    await vm.progress(5)
    const counter = (await vm.lines()).length
    await migrate(vm, `exec:${snap} -s 1G save ${file}`)
    const { devices } = JSON.parse(await varveSnap('inspect', '--json', file))
    expect(devices.some(({ early }: { early: boolean }) => early)).toBe(true)
    for (const percent of [undefined, 0]) {
      await using next = await start('remembered', { ...options, incoming: 'defer' })
      if (percent !== undefined) await next.capabilities('postcopy-ram')
      const given = percent === undefined ? '' : `-p ${percent}`
      expect(await loaded(next, `exec:${snap} ${given} load ${file}`)).toBeGreaterThan(counter)
    }
  })
})

qemu10.describe('several channels', () => {
  const peers = long ? [qemu10, qemuSystem] : [qemu10]

  it.each(peers)('are refused by name, and the guest goes on', async (qemu) => {
    await using vm = await start('multifd', { qemu })
    await vm.progress(3)
    await vm.capabilities('multifd')
    const socket = at('multifd.sock')
    const file = at('multifd.qcow2')
    const saving = startVarve(['snap', '-s', '1G', `--uri=unix:${socket}`, 'save', file])
    await until(() => existsSync(socket))
    await vm.qmp.execute('migrate', { uri: `unix:${socket}` })
    const { status, stderr } = await saving.ended
    expect(status).toBe(1)
    expect(stderr).toMatch(/multifd/)
    expect(existsSync(file)).toBe(false)
    expect(await vm.migrated(['completed', 'failed'])).toBe('failed')
    await vm.progress(3)
  })

  it('are off while a snapshot is taken', async () => {
    await using vm = await start('taken')
    await vm.progress(3)
    await vm.capabilities('multifd')
    const file = at('taken.qcow2')
    await varveSnap('take', '--qmp', vm.monitor, file)
    const list = (await vm.qmp.execute('query-migrate-capabilities')) as {
      capability: string
      state: boolean
    }[]
    expect(list.filter(({ state }) => state).map(({ capability }) => capability)).toEqual([
      'multifd',
    ])
    await vm.progress(2)
    await using next = await start('resumed', { incoming: 'defer' })
    await varveSnap('resume', '--qmp', next.monitor, '-p0', file)
    await next.progress(3)
  })
})
