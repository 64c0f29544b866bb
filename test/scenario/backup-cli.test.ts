/** `varve backup` against a daemon of its own, and `varve restore`: processes, sockets, signals. */
import { execFileSync } from 'node:child_process'
import { copyFile, mkdir, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeEach, expect, test } from 'vitest'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import { QmpClient } from '../../src/wire/qmp/client.ts'
import { mountTmpfs } from '../interop/mounts.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { type Daemon, runVarve, startDaemon, startVarve } from '../support/programs.ts'
import { archiveOf, patternedDisk } from '../support/vma.ts'

const MiB = 1024 * 1024
const qemuImg = peer('qemu-img')
const storageDaemon = peer('qemu-storage-daemon')
const root = scratchFolder('backup-cli')
let number = 0
let folder: string
let temporary: string

const disk0 = patternedDisk(6 * MiB + 512, 11)
const disk1 = patternedDisk(2 * MiB, 12)
const disks = [
  { name: 'disk0', content: disk0 },
  { name: 'disk1', content: disk1 },
]
/** The machine may be busy with other tests. */
const patient = { timeout: 20_000 }
const inFolder = (name: string) => join(folder, name)

beforeEach(async () => {
  folder = join(root, String(number++))
  temporary = join(folder, 'tmp')
  await mkdir(temporary, { recursive: true })
})

async function daemonWithDisks(): Promise<Daemon> {
  for (const { name, content } of disks) await writeFile(inFolder(`${name}.raw`), content)
  await writeFile(inFolder('vm.conf'), 'cores: 2\n')
  const options = (name: string) =>
    `driver=raw,file.driver=file,file.filename=${inFolder(`${name}.raw`)}`
  return await startDaemon(
    folder,
    disks.map(({ name }) => ({ name, options: options(name) })),
  )
}

function startBackup(daemon: Daemon, ...args: string[]) {
  const options = { cwd: folder, env: { TMPDIR: temporary } }
  return startVarve(['backup', '--monitor', daemon.monitor, ...args], options)
}

async function backup(daemon: Daemon, ...args: string[]) {
  return await startBackup(daemon, ...args).ended
}

async function expectRestored(archive: string, input?: Uint8Array): Promise<void> {
  expect(await runVarve(['vma', 'verify', archive], { cwd: folder, input })).toMatchObject({
    status: 0,
    stderr: '',
  })
  const restored = await runVarve(['restore', archive, 'out'], { cwd: folder, input })
  expect(restored).toMatchObject({ status: 0, stderr: '' })
  for (const { name, content } of disks) {
    expect((await readFile(inFolder(`out/disk-${name}.raw`))).equals(content), name).toBe(true)
  }
}

/** What is left of those between the daemon and standard output. */
async function pipes(): Promise<string[]> {
  return (await readdir(temporary)).filter((name) => name.startsWith('varve-'))
}

/** The guest can still write, and the daemon has nothing left of the backup. */
async function expectUnharmed(daemon: Daemon, nodes: readonly string[]): Promise<void> {
  expect(await daemon.nodes()).toEqual(nodes)
  await writeAsGuest(daemon, 'disk0', 4096, Buffer.alloc(4096, 0xab))
  expect(await pipes()).toEqual([])
}

async function writeAsGuest(daemon: Daemon, name: string, offset: number, data: Uint8Array) {
  await using graph = new Graph({ drivers })
  const server = { type: 'unix', path: daemon.nbd }
  const node = await graph.open({ driver: 'nbd', server, export: name })
  const edge = graph.attach(node, { description: 'a guest', uses: ['consistentRead', 'write'] })
  await edge.write(offset, data)
  const read = Buffer.alloc(data.length)
  await edge.read(offset, read)
  expect(read.equals(data)).toBe(true)
}

function events(text: string | Buffer): Record<string, unknown>[] {
  return text
    .toString()
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
}

test.each(['out.vma', 'out.vma.zst', 'out.vma.gz'])('to %s, and back', async (name) => {
  const daemon = await daemonWithDisks()
  const { status, stdout, stderr } = await backup(daemon, '--config', 'vm.conf', name)
  expect([status, stderr]).toEqual([0, ''])
  const size = (await stat(inFolder(name))).size
  expect(size).toBeLessThan(8 * MiB)
  expect(stdout.toString()).toMatch(
    /^out\.vma\S*: 8 MiB \(\d+% zero\) stored in [\d.]+ MiB, [\d.]+ s, \S+ MiB\/s, uuid [-0-9a-f]{36}\n$/,
  )
  await expectRestored(name)
  expect(await readFile(inFolder('out/vm.conf'), 'utf8')).toBe('cores: 2\n')
})

test('to standard output, with progress for a program beside it', async () => {
  const daemon = await daemonWithDisks()
  const { status, stdout, stderr } = await backup(daemon, '--progress', 'json', '-')
  expect(status).toBe(0)
  expect(events(stderr).at(-1)).toMatchObject({
    event: 'done',
    file: '-',
    bytes: 8 * MiB + 512,
    archiveSize: stdout.length,
  })
  await expectRestored('-', stdout)
  expect(await pipes()).toEqual([])
})

test('progress as JSON lines grows to the whole, then tells the result', async () => {
  const daemon = await daemonWithDisks()
  const args = ['--speed', '16M', '--progress', 'json', 'out.vma']
  const lines = events((await backup(daemon, ...args)).stdout)
  const progress = lines.slice(0, -1) as { event: string; done: number; total: number }[]
  expect(progress.every(({ event, total }) => event === 'progress' && total > 8 * MiB)).toBe(true)
  const done = progress.map((line) => line.done)
  expect(done).toEqual(done.toSorted((one, other) => one - other))
  expect(done.at(-1)).toBe(8 * MiB + 512)
  expect(lines.at(-1)).toMatchObject({ event: 'done', file: 'out.vma', bytes: 8 * MiB + 512 })
})

test('some disks under other names, and several configuration files', async () => {
  const daemon = await daemonWithDisks()
  await copyFile(inFolder('vm.conf'), inFolder('other.conf'))
  const configs = ['--config', 'vm.conf', '--config', inFolder('other.conf')]
  const args = ['--device', 'disk1=drive-scsi1', ...configs, 'out.vma']
  expect((await backup(daemon, ...args)).stderr).toBe('')
  const listed = await runVarve(['vma', 'list', '--json', 'out.vma'], { cwd: folder })
  expect(JSON.parse(listed.stdout.toString())).toMatchObject({
    configs: [{ name: 'vm.conf' }, { name: 'other.conf' }],
    devices: [{ name: 'drive-scsi1', size: 2 * MiB }],
  })
})

test('what a guest writes meanwhile is not in it', async () => {
  const daemon = await daemonWithDisks()
  const running = startBackup(daemon, '--speed', '4M', '--progress', 'json', 'out.vma')
  await running.saw(/progress/)
  for (const { name, content } of disks) {
    await writeAsGuest(daemon, name, content.length - MiB, Buffer.alloc(MiB - 512, 0xcd))
  }
  expect((await running.ended).status).toBe(0)
  await expectRestored('out.vma')
})

test.each(['out.vma', '-'])('Ctrl-C while writing %s leaves nothing', async (name) => {
  const daemon = await daemonWithDisks()
  const nodes = await daemon.nodes()
  const before = await readdir(folder)
  const running = startBackup(daemon, '--speed', '500k', '--progress', 'json', name)
  await running.saw(/progress/)
  running.child.kill('SIGINT')
  const { status, stderr } = await running.ended
  expect(status).toBe(130)
  expect(stderr).toMatch(/varve backup: cancelled; nothing is left of the archive\n$/)
  expect(await readdir(folder)).toEqual(before)
  await expectUnharmed(daemon, nodes)
  await backup(daemon, 'again.vma')
})

test('a second Ctrl-C gives up waiting for a daemon that hangs', async () => {
  const daemon = await daemonWithDisks()
  const nodes = await daemon.nodes()
  const running = startBackup(daemon, '--speed', '500k', '--progress', 'json', 'out.vma')
  await running.saw(/progress/)
  daemon.child.kill('SIGSTOP')
  running.child.kill('SIGINT')
  // Two signals at once would count as one.
  await sleep(1000)
  expect(running.child.exitCode).toBe(null)
  running.child.kill('SIGINT')
  const { status, stderr } = await running.ended
  expect(status).toBe(130)
  expect(stderr).toMatch(/varve backup: gave up waiting for the daemon/)
  daemon.child.kill('SIGCONT')
  await expect.poll(() => daemon.nodes(), patient).toEqual(nodes)
  expect(await readdir(folder)).not.toContain('out.vma')
})

test('when the daemon is gone that is what is said', async () => {
  const daemon = await daemonWithDisks()
  const running = startBackup(daemon, '--speed', '500k', '--progress', 'json', 'out.vma')
  await running.saw(/progress/)
  daemon.child.kill('SIGKILL')
  const { status, stderr } = await running.ended
  expect(status).toBe(1)
  expect(stderr).toBe(
    `varve backup: the connection to the monitor at '${daemon.monitor}' was lost\n`,
  )
  expect(await readdir(folder)).not.toContain('out.vma')
})

test('an output that nobody reads any more ends the backup, not the guest', async () => {
  const daemon = await daemonWithDisks()
  const nodes = await daemon.nodes()
  const running = startBackup(daemon, '--speed', '4M', '-')
  await running.saw(/^VMA/)
  running.child.stdout?.destroy()
  const { status, stderr } = await running.ended
  expect(status).toBe(1)
  expect(stderr).toMatch(/^varve backup: Could not write the output: .*(EPIPE|Broken pipe)\n$/)
  await expect.poll(() => daemon.nodes(), patient).toEqual(nodes)
  await expectUnharmed(daemon, nodes)
})

test('what cannot be done is one clear error, and nothing is left', async () => {
  const daemon = await daemonWithDisks()
  const nodes = await daemon.nodes()
  const before = await readdir(folder)
  const cases: [string[], RegExp][] = [
    [['/dev/full'], /'\/dev\/full': No space left on device/],
    [['vm.conf'], /vm\.conf': it exists already/],
    [['no/out.vma'], /no\/out\.vma': No such file or directory/],
    [['--device', 'ide0', 'out.vma'], /ide0/],
    [['--config', 'x', 'out.vma'], /x': No such file/],
    [['--speed', 'fast', 'out.vma'], /'fast' is no rate; write bytes/],
    [[], /missing required argument 'file'; 'varve backup --help' shows/],
  ]
  for (const [args, message] of cases) {
    const { status, stderr } = await backup(daemon, ...args)
    expect(stderr).toMatch(message)
    expect(stderr).toMatch(/^varve backup: [^\n]*\n$/)
    expect(status).toBe(1)
    expect(await readdir(folder)).toEqual(before)
  }
  await expectUnharmed(daemon, nodes)
})

test('with fleecing, while a guest overwrites everything; the spill file has no name', async () => {
  const daemon = await daemonWithDisks()
  const spill = ['--fleecing', 'tmp', '--spill-limit', '512k', '--on-spill-full', 'slow']
  const running = startBackup(daemon, ...spill, '--speed', '8M', '--progress', 'json', 'out.vma')
  await running.saw(/progress/)
  for (let at = 5 * MiB; at >= 0; at -= MiB) {
    await writeAsGuest(daemon, 'disk0', at, Buffer.alloc(MiB, 0x5a))
  }
  expect(await pipes()).toEqual([])
  await using client = await QmpClient.connect(daemon.monitor)
  const state = (await client.execute('query-backup')) as Record<string, number>
  expect(state['spill-peak']).toBeGreaterThan(0)
  expect(state['spill-peak']).toBeLessThanOrEqual(512 * 1024)
  expect(await running.ended).toMatchObject({ status: 0, stderr: '' })
  await expectRestored('out.vma')
})

test('with fleecing and no patience: the backup is given up, the guest goes on', async () => {
  const daemon = await daemonWithDisks()
  const nodes = await daemon.nodes()
  const spill = ['--fleecing=tmp', '--spill-limit=64k', '--on-spill-full=give-up']
  const running = startBackup(daemon, ...spill, '--speed', '1M', '--progress', 'json', 'out.vma')
  await running.saw(/progress/)
  await writeAsGuest(daemon, 'disk0', 3 * MiB, Buffer.alloc(2 * MiB, 0x5a))
  const { status, stderr } = await running.ended
  expect(stderr).toMatch(/^varve backup: the spill area is full[^\n]*\n$/)
  expect(status).toBe(1)
  await expectUnharmed(daemon, nodes)
})

test.each(['quit', 'SIGTERM'] as const)(
  'with fleecing, and the daemon ends by %s: the disk is whole, nothing is left',
  async (way) => {
    const daemon = await daemonWithDisks()
    const spill = ['--fleecing', 'tmp', '--spill-limit', '1M', '--on-spill-full', 'slow']
    const running = startBackup(daemon, ...spill, '--speed', '1M', '--progress', 'json', 'out.vma')
    await running.saw(/progress/)
    const written = Buffer.alloc(512 * 1024, 0x5a)
    await writeAsGuest(daemon, 'disk0', 5 * MiB, written)
    if (way === 'SIGTERM') daemon.child.kill('SIGTERM')
    else {
      const client = await QmpClient.connect(daemon.monitor)
      // The connection may go before the answer has come.
      await client.execute('quit').catch(() => {})
      await client[Symbol.asyncDispose]().catch(() => {})
    }
    expect(await daemon.ended).toMatchObject({ status: 0, stderr: '' })
    const { status, stderr } = await running.ended
    expect(stderr).toMatch(/^varve backup: [^\n]*\n$/)
    expect(status).toBe(1)
    expect(await readdir(folder)).not.toContain('out.vma')
    expect(await readdir(temporary)).toEqual(['node-compile-cache'])
    const expected = Buffer.from(disk0)
    written.copy(expected, 5 * MiB)
    expect((await readFile(inFolder('disk0.raw'))).equals(expected)).toBe(true)
  },
)

test('what only fleecing knows is refused without it', async () => {
  const { status, stderr } = await runVarve([
    'backup',
    '--monitor',
    'x',
    '--spill-limit',
    '1M',
    'y',
  ])
  expect(stderr).toBe('varve backup: --spill-limit and --on-spill-full need --fleecing\n')
  expect(status).toBe(1)
})

test('Ctrl-C while the daemon waits for the reader of a FIFO ends the waiting', async () => {
  const daemon = await daemonWithDisks()
  const nodes = await daemon.nodes()
  execFileSync('mkfifo', [inFolder('fifo')])
  const running = startBackup(daemon, 'fifo')
  await using client = await QmpClient.connect(daemon.monitor)
  const status = async () => JSON.stringify(await client.execute('query-backup'))
  await expect.poll(status, patient).toMatch(/"status":"active"/)
  running.child.kill('SIGINT')
  expect(await running.ended).toMatchObject({
    status: 130,
    stderr: 'varve backup: interrupted before the backup began\n',
  })
  expect(await status()).toMatch(/"status":"error","errmsg":"backup canceled"/)
  await expectUnharmed(daemon, nodes)
})

test("another's backup is left alone", async () => {
  const daemon = await daemonWithDisks()
  const first = startBackup(daemon, '--speed', '4M', '--progress', 'json', 'out.vma')
  await first.saw(/progress/)
  const { status, stderr } = await backup(daemon, 'other.vma')
  expect([status, stderr]).toEqual([1, 'varve backup: previous backup not finished\n'])
  expect((await first.ended).status).toBe(0)
  await expectRestored('out.vma')
})

test('a monitor that is not there, and none at all', async () => {
  const gone = await runVarve(['backup', '--monitor', 'no.sock', 'x.vma'], { cwd: folder })
  expect(gone.stderr).toBe(
    `varve backup: Could not connect to the monitor at '${inFolder('no.sock')}': No such file or directory\n`,
  )
  const none = await runVarve(['backup', 'x.vma'], { cwd: folder })
  expect(none.stderr).toMatch(/required option '--monitor <socket>' not specified/)
  expect([gone.status, none.status]).toEqual([1, 1])
})

qemuImg.describe('restored as qcow2', () => {
  test('images are sound and equal for qemu-img', async () => {
    const daemon = await daemonWithDisks()
    await backup(daemon, 'out.vma.zst')
    const args = ['restore', '--format', 'qcow2', 'out.vma.zst', 'out']
    expect(await runVarve(args, { cwd: folder })).toMatchObject({ status: 0, stderr: '' })
    for (const { name } of disks) {
      const image = inFolder(`out/disk-${name}.qcow2`)
      await qemuImg.run('check', '-f', 'qcow2', image)
      await qemuImg.run('compare', '-f', 'raw', '-F', 'qcow2', inFolder(`${name}.raw`), image)
    }
  })
})

storageDaemon.it("a daemon without the command is told apart: QEMU's own", async () => {
  const { spawn } = await import('node:child_process')
  const monitor = inFolder('qemu.sock')
  const chardev = ['--chardev', `socket,id=m,path=${monitor},server=on,wait=off`]
  const child = spawn(storageDaemon.path!, [...chardev, '--monitor', 'chardev=m'])
  try {
    await expect
      .poll(
        () =>
          stat(monitor).then(
            () => true,
            () => false,
          ),
        patient,
      )
      .toBe(true)
    const { status, stderr } = await runVarve(['backup', '--monitor', monitor, 'x.vma'])
    expect(status).toBe(1)
    expect(stderr).toMatch(/has no command 'backup'; start the disks with 'varve daemon'/)
  } finally {
    child.kill()
  }
})

test('an archive that was damaged is refused, with nothing left behind', async () => {
  const daemon = await daemonWithDisks()
  await backup(daemon, 'out.vma')
  const bytes = await readFile(inFolder('out.vma'))
  bytes[bytes.length - 100_000] ^= 1
  await rm(inFolder('out.vma'))
  await writeFile(inFolder('out.vma'), bytes)
  const { status, stderr } = await runVarve(['restore', 'out.vma', 'out'], { cwd: folder })
  expect(status).toBe(1)
  expect(stderr).toMatch(/^varve restore: out\.vma: the extent at byte \d+ is damaged/)
  expect(await readdir(folder)).not.toContain('out')
})

test('Ctrl-C while the writer of a FIFO is waited for ends a restore', async () => {
  execFileSync('mkfifo', [inFolder('fifo')])
  const running = startVarve(['restore', '--progress', 'json', 'fifo', 'out'], { cwd: folder })
  await using fifo = await open(inFolder('fifo'), 'w')
  await fifo.write((await archiveOf(disks)).subarray(0, 4 * MiB))
  await running.saw(/progress/)
  expect(await readdir(folder)).toContain('out')
  running.child.kill('SIGINT')
  expect(await running.ended).toMatchObject({
    status: 130,
    stderr: 'varve restore: interrupted; what was not complete is removed\n',
  })
  expect(await readdir(folder)).not.toContain('out')
})

const full = mountTmpfs(join(root, 'full'), 2 * MiB)
afterAll(() => full.down())
const onFull = full.path === undefined ? test.skip : test
const note = full.path === undefined ? ` [skipped: ${full.refused}]` : ''

onFull.each(['raw', 'qcow2'])(
  `a disk that gets full: nothing is left there, and the guest goes on; %s${note}`,
  async (format) => {
    const daemon = await daemonWithDisks()
    const nodes = await daemon.nodes()
    const path = full.path!
    const failed = await backup(daemon, join(path, 'out.vma'))
    expect(failed.stderr).toMatch(/^varve backup: .*out\.vma': No space left on device\n$/)
    await expectUnharmed(daemon, nodes)

    expect((await backup(daemon, 'out.vma')).status).toBe(0)
    const args = ['restore', '--format', format, 'out.vma', join(path, 'out')]
    const restored = await runVarve(args, { cwd: folder })
    expect(restored.stderr).toMatch(/^varve restore: [^\n]*No space left on device\n$/)
    expect([failed.status, restored.status]).toEqual([1, 1])
    expect(await readdir(path)).toEqual([])
  },
)
