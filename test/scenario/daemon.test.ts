/** The daemon at its work: clients that write, archives of one moment, monitors that misbehave. */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { StorageDaemon } from '../../src/daemon/storage-daemon.ts'
import { openDisk } from '../../src/disk.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { QmpTalk, varveDaemon } from '../support/qmp-talk.ts'
import { Random, seedNote } from '../support/random.ts'

const folder = scratchFolder('daemon-scenario')
const exec = promisify(execFile)
const qemuIo = peer('qemu-io')

/** A daemon that exports `count` disks of random data for writing. */
async function serving(name: string, count = 1) {
  const home = join(folder, name)
  mkdirSync(home)
  const random = new Random()
  const daemon = new StorageDaemon()
  const disks = Array.from({ length: count }, (_, index) => `disk${index}`)
  const path = join(home, 'nbd.sock')
  await daemon.execute('nbd-server-start', { addr: { type: 'unix', data: { path } } })
  for (const disk of disks) {
    const filename = join(home, `${disk}.raw`)
    const data = Buffer.alloc(4 * MiB)
    for (let at = 0; at < data.length; at += MiB) data.set(random.bytes(MiB / 2), at)
    writeFileSync(filename, data)
    const file = { driver: 'file', filename }
    await daemon.execute('blockdev-add', { driver: 'raw', 'node-name': disk, file })
    const options = { type: 'nbd', id: disk, 'node-name': disk, writable: true }
    await daemon.execute('block-export-add', options)
  }
  const url = (disk: string) => `nbd+unix:///${disk}?socket=${path}`
  const contents = (disk: string) => readFileSync(join(home, `${disk}.raw`))
  return { daemon, home, random, disks, url, contents }
}

async function finished(daemon: StorageDaemon) {
  for (;;) {
    const status = (await daemon.execute('query-backup')) as Record<string, unknown>
    if (status.status !== 'active') return status
    await sleep(5)
  }
}

async function stored(archive: string, device: string): Promise<Buffer> {
  const options = { driver: 'vma', device, file: { driver: 'file', filename: archive } }
  await using disk = await openDisk(`json:${JSON.stringify(options)}`, { readOnly: true })
  const data = Buffer.alloc(disk.size)
  await disk.read(0, data)
  return data
}

describe('a backup into an archive', () => {
  qemuIo.it(`holds all disks as they were, while clients write (${seedNote})`, async () => {
    const { daemon, home, random, disks, url, contents } = await serving('writing', 2)
    await using _ = daemon
    const before = disks.map(contents)
    const archive = join(home, 'out.vma')
    const config = join(home, 'vm.conf')
    writeFileSync(config, 'cores: 2\n')
    // Slow enough that the clients' writes come first.
    const { UUID } = (await daemon.execute('backup', {
      'backup-file': archive,
      'config-file': config,
      devices: [{ 'node-name': 'disk0' }, { 'node-name': 'disk1', name: 'drive-scsi1' }],
      speed: 4 * MiB,
    })) as { UUID: string }
    expect(await daemon.execute('query-backup')).toMatchObject({ status: 'active', uuid: UUID })
    await expect(
      daemon.execute('backup', { 'backup-file': join(home, 'second.vma') }),
    ).rejects.toThrow('previous backup not finished')
    await Promise.all(disks.map((disk) => exec('qemu-io', qemuIoWrites(url(disk), random))))
    expect(await finished(daemon)).toMatchObject({
      status: 'done',
      total: 8 * MiB,
      transferred: 8 * MiB,
      'backup-file': archive,
      uuid: UUID,
    })
    expect(contents('disk0').equals(before[0])).toBe(false)
    expect((await stored(archive, 'disk0')).equals(before[0])).toBe(true)
    expect((await stored(archive, 'drive-scsi1')).equals(before[1])).toBe(true)
    expect([...daemon.graph.nodes.keys()].filter((name) => name.startsWith('disk'))).toEqual(disks)
  })

  it('takes the exported disks unless some are named, and names that are not there', async () => {
    const { daemon, home, disks } = await serving('choice', 2)
    await using _ = daemon
    const backup = (args: object) => daemon.execute('backup', args)
    const file = (name: string) => ({ 'backup-file': join(home, name) })
    await backup(file('all.vma'))
    expect(await finished(daemon)).toMatchObject({ status: 'done', total: 8 * MiB })
    await backup({ ...file('one.vma'), devlist: ' disk1 ;' })
    expect(await finished(daemon)).toMatchObject({ status: 'done', total: 4 * MiB })
    await expect(backup({ ...file('no.vma'), devlist: 'x' })).rejects.toThrow("node-name='x'")
    await expect(backup({ ...file('no.vma'), 'config-file': '/nonexistent' })).rejects.toThrow(
      "Could not open '/nonexistent': No such file or directory",
    )
    for (const id of disks) await daemon.execute('block-export-del', { id })
    await expect(backup(file('no.vma'))).rejects.toThrow('nothing is exported')
    expect(existsSync(join(home, 'no.vma'))).toBe(false)
  })

  it('leaves nothing behind when it is cancelled', async () => {
    const { daemon, home } = await serving('cancelled')
    await using _ = daemon
    const archive = join(home, 'out.vma')
    await daemon.execute('backup-cancel')
    await daemon.execute('backup', { 'backup-file': archive, speed: 65536 })
    await daemon.execute('backup-cancel')
    const ended = await finished(daemon)
    expect(ended).toMatchObject({ status: 'error', errmsg: 'backup canceled' })
    expect(existsSync(archive)).toBe(false)
    expect([...daemon.graph.nodes.values()].map(({ driver }) => driver).sort()).toEqual([
      'file',
      'raw',
    ])
  })

  it('can be cancelled while its FIFO waits for a reader, and other commands go on', async () => {
    const { daemon, home } = await serving('fifo')
    await using _ = daemon
    const fifo = join(home, 'fifo')
    await exec('mkfifo', [fifo])
    const started = daemon.execute('backup', { 'backup-file': fifo })
    const refused = expect(started).rejects.toThrow('backup canceled')
    await sleep(30)
    await daemon.execute('blockdev-add', { driver: 'null-co', 'node-name': 'meanwhile' })
    await daemon.execute('backup-cancel')
    await refused
    expect(existsSync(fifo)).toBe(true)
  })

  it('can be written into a FIFO', async () => {
    const { daemon, home, contents } = await serving('pipe')
    await using _ = daemon
    const fifo = join(home, 'fifo')
    const copy = join(home, 'copy.vma')
    await exec('mkfifo', [fifo])
    const reading = exec('cp', [fifo, copy])
    await daemon.execute('backup', { 'backup-file': fifo })
    await reading
    expect(await finished(daemon)).toMatchObject({ status: 'done' })
    expect((await stored(copy, 'disk0')).equals(contents('disk0'))).toBe(true)
  })
})

describe('an export', () => {
  qemuIo.it('is in use while a client has it, and goes when that is wanted', async () => {
    const { daemon, url } = await serving('used')
    await using _ = daemon
    const child = exec('qemu-io', [
      '-f',
      'raw',
      '-c',
      'read 0 512',
      '-c',
      'sleep 60000',
      url('disk0'),
    ])
    const gone = child.catch(() => {})
    const { read } = daemon.graph.node('disk0').statistics
    while (read.operations === 0) await sleep(5)
    const remove = (mode: string) => daemon.execute('block-export-del', { id: 'disk0', mode })
    await expect(remove('safe')).rejects.toThrow("export 'disk0' still in use")
    expect(await daemon.execute('query-block-exports')).toMatchObject([{ 'shutting-down': false }])
    await remove('hard')
    await daemon.execute('blockdev-del', { 'node-name': 'disk0' })
    child.child.kill()
    await gone
  })

  it('keeps the size of its disk', async () => {
    const { daemon } = await serving('size')
    await using _ = daemon
    await expect(
      daemon.execute('block_resize', { 'node-name': 'disk0', size: MiB }),
    ).rejects.toThrow('resize')
  })
})

describe('a monitor that is sent', () => {
  it('100 MiB of brackets answers with errors, in bounded memory', async () => {
    const { talk, send, peak } = await flooded('brackets')
    await using _ = talk
    const chunk = Buffer.alloc(MiB, '[')
    await send(Array.from({ length: 100 }, () => chunk))
    expect(await peak()).toBeLessThan(400 * MiB)
    expect((await talk.say({ execute: 'query-version' })).replies).toHaveLength(1)
  })

  it('a string of 100 MiB refuses it, in bounded memory', async () => {
    const { talk, send, peak } = await flooded('string')
    await using _ = talk
    const chunk = Buffer.alloc(MiB, 'a')
    const reply = await send([
      Buffer.from('{"execute": "'),
      ...Array.from({ length: 100 }, () => chunk),
    ])
    expect(reply).toContain('JSON token size limit exceeded')
    expect(await peak()).toBeLessThan(500 * MiB)
  })

  it('random bytes goes on serving', async () => {
    const { talk, send } = await flooded('garbage')
    await using _ = talk
    const random = new Random()
    const noise = Array.from({ length: 50 }, () => random.bytes(10_000))
    await send(noise)
    expect((await talk.say({ execute: 'query-version' })).replies).toHaveLength(1)
  })
})

/** A daemon in a process of its own, and a way to send bytes to it from a client of their own. */
async function flooded(name: string) {
  const home = join(folder, `flood-${name}`)
  mkdirSync(home)
  const talk = await QmpTalk.start(varveDaemon, home)
  /** Settles, with the beginning of the answers, when all of it was read. */
  const send = async (chunks: readonly Uint8Array[]): Promise<string> => {
    const socket = connect(join(home, 'qmp.sock'))
    let heard = ''
    const closed = new Promise((resolve) => socket.once('close', resolve))
    socket.on('data', (chunk: Buffer) => {
      if (heard.length < 4096) heard += chunk
    })
    for (const chunk of chunks) {
      if (!socket.write(chunk)) await new Promise((resolve) => socket.once('drain', resolve))
    }
    socket.end()
    await closed
    return heard
  }
  const peak = async () => {
    const status = readFileSync(`/proc/${talk.process.pid}/status`, 'utf8')
    return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) * 1024
  }
  return { talk, send, peak }
}

function qemuIoWrites(url: string, random: Random): string[] {
  const commands: string[] = []
  for (let count = 0; count < 30; count++) {
    const [offset, length] = random.range(4 * MiB, 512, 200_000)
    commands.push('-c', `write -q -P ${random.below(256)} ${offset} ${length}`)
  }
  return ['-f', 'raw', ...commands, '-c', 'flush', url]
}
