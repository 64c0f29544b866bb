/** Snapshots in other forms, each opened by the program that the form is for. */

import { execFile } from 'node:child_process'
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { main } from '../support/main.ts'
import { runVarve } from '../support/programs.ts'
import { bootDisk, counterOf, qemuSystem, Vm } from '../support/vm.ts'

const folder = scratchFolder('snap-convert')
const at = (name: string) => join(folder, name)
const snap = `exec ${process.execPath} ${main} snap`
/** Rows of which the everyday run has enough similar ones. */
const long = process.env.VARVE_LONG === '1'
const qemuImg = peer('qemu-img')
const gdb = peer('gdb')
const runFile = promisify(execFile)

async function varveSnap(...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await runVarve(['snap', ...args])
  if (status !== 0) throw new Error(`snap ${args.join(' ')} ended with ${status}: ${stderr}`)
  return stdout.toString()
}

qemuSystem.describe('a snapshot in other forms', () => {
  const first = at('first.qcow2')
  const second = at('second.qcow2')
  let counter = 0
  let end = 0

  beforeAll(async () => {
    await using vm = await Vm.start({ folder, name: 'source' })
    await vm.progress(5)
    await vm.capabilities('background-snapshot')
    const save = async (options: string, file: string) => {
      await vm.qmp.execute('migrate', { uri: `exec:${snap} -s 1G ${options} save ${file}` })
      expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
    }
    await save('', first)
    await vm.progress(5)
    counter = (await vm.lines()).length
    await save(`--base ${first}`, second)
    end = (await vm.lines()).length
  }, 60_000)

  /** The guest continues where it was when the second snapshot began. */
  async function goesOn(incoming: string, name: string): Promise<void> {
    await using vm = await Vm.start({ folder, name, incoming })
    const [line] = await vm.progress(3)
    expect(counterOf(line)).toBeGreaterThanOrEqual(counter)
    expect(counterOf(line)).toBeLessThanOrEqual(end)
  }

  it('shares the pages that have not changed with the one before', async () => {
    const sizes = await Promise.all([first, second].map((path) => stat(path)))
    expect(sizes[1].size).toBeLessThan(sizes[0].size / 10)
    expect((await varveSnap('verify', first, second)).match(/: whole/g)?.length).toBe(2)
    await goesOn(`exec:${snap} load ${second}`, 'shared')
  })

  it('shares pages and is compressed at the same time', async () => {
    const file = at('shared-compressed.qcow2')
    await varveSnap('convert', '-O', 'stream', second, at('second.stream'))
    const saved = await runVarve(
      ['snap', '-s', '1G', '--compress', '--base', first, 'save', file],
      { input: await readFile(at('second.stream')) },
    )
    expect(saved).toMatchObject({ status: 0, stderr: '' })
    expect(await varveSnap('diff', second, file)).toBe('')
    expect(await varveSnap('verify', file)).toContain(': whole')
    await qemuImg.run('check', file)
    expect((await stat(file)).size).toBeLessThan((await stat(second)).size)
    await goesOn(`exec:${snap} load ${file}`, 'shared-compressed')
  })

  it('is told apart page by page', async () => {
    const { status, stdout } = await runVarve(['snap', 'diff', '--json', first, second])
    expect(status).toBe(1)
    const found = JSON.parse(stdout.toString())
    const [ram] = found.blocks
    expect(ram.name).toBe('pc.ram')
    // The guest dirties its counter and one page a turn from 8 MiB on.
    expect(ram.ranges.some(({ offset }: { offset: number }) => offset === 0x700000)).toBe(true)
    expect(found.devices).toContain('cpu')
    const { status: same } = await runVarve(['snap', 'diff', first, first])
    expect(same).toBe(0)
  })

  it('is compressed, and loaded while the guest runs', async () => {
    const file = at('compressed.qcow2')
    await varveSnap('convert', '-c', second, file)
    expect((await stat(file)).size).toBeLessThan((await stat(first)).size)
    await using vm = await Vm.start({ folder, name: 'compressed', incoming: 'defer' })
    await vm.capabilities('postcopy-ram')
    await vm.qmp.execute('migrate-incoming', { uri: `exec:${snap} -p 0 load ${file}` })
    await vm.progress(3)
    expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
    await vm.progress(3)
  })

  it('is a plain stream, which QEMU reads by itself', async () => {
    await varveSnap('convert', '-O', 'stream', second, at('stream'))
    await goesOn(`exec:cat ${at('stream')}`, 'stream')
    await varveSnap('convert', at('stream'), at('again.qcow2'))
    expect(await varveSnap('diff', second, at('again.qcow2'))).toBe('')
  })

  it.runIf(long)('is a mapped-ram file and back', async () => {
    await varveSnap('convert', '-O', 'mapped-ram', second, at('mapped'))
    expect(await varveSnap('diff', second, at('mapped'))).toBe('')
    await varveSnap('convert', at('mapped'), at('unmapped.qcow2'))
    await goesOn(`exec:${snap} load ${at('unmapped.qcow2')}`, 'mapped')
  })

  it('is an internal snapshot, which -loadvm brings back', async () => {
    await bootDisk(at('boot.raw'))
    const disk = at('disk.qcow2')
    await qemuImg.run('convert', '-f', 'raw', '-O', 'qcow2', at('boot.raw'), disk)
    await varveSnap('convert', '-O', 'internal', '--snapshot', 'one', second, disk)
    await qemuImg.run('check', disk)
    expect(await qemuImg.run('snapshot', '-l', disk)).toContain('one')
    await using vm = await Vm.start({
      ...{ folder, name: 'loadvm', drive: `file=${disk},if=ide,format=qcow2` },
      args: ['-loadvm', 'one'],
    })
    const [line] = await vm.progress(3)
    expect(counterOf(line)).toBeLessThanOrEqual(end)
    await vm.qmp.execute('human-monitor-command', { 'command-line': 'savevm two' })
    const saved = (await vm.lines()).length
    await vm.qmp.execute('quit')
    await varveSnap('convert', '--snapshot', 'two', disk, at('two.qcow2'))
    await using next = await Vm.start({
      ...{ folder, name: 'savevm', drive: `file=${disk},if=ide,format=qcow2,snapshot=on` },
      incoming: `exec:${snap} load ${at('two.qcow2')}`,
    })
    const [continued] = await next.progress(3)
    expect(counterOf(continued)).toBeGreaterThan(counterOf(line))
    expect(saved).toBeGreaterThan(0)
  })

  gdb.it('is a core file that gdb opens, with memory and registers', async () => {
    const file = at('core')
    await varveSnap('convert', '-O', 'elf', second, file)
    const shown = await runFile('gdb', [
      ...['-batch', '-nx', '-ex', 'x/2wx 0x1000000', '-ex', 'x/wx 0x1001000'],
      ...['-ex', 'p/x $rip', '-ex', 'x/2bx 0x7dfe', '-c', file],
    ])
    expect(shown.stdout).toContain('0xa5a5a5a5\t0xa5a5a5a5')
    const word = Math.imul(0x01001000, 0x9e3779b1) >>> 0
    expect(shown.stdout).toContain(`0x${word.toString(16)}`)
    expect(shown.stdout).toMatch(/\$1 = 0x7[cd]/)
    expect(shown.stdout).toMatch(/0x55\t0xaa/)
  })

  it.runIf(long)('is its RAM alone', async () => {
    await varveSnap('convert', '-O', 'raw', second, at('raw'))
    const ram = await readFile(at('raw'))
    expect(ram.length).toBe(128 * 1024 * 1024)
    expect(ram.readUInt32LE(0x1000000)).toBe(0xa5a5a5a5)
  })
})
