/** NBD_OPT_EXTENDED_HEADERS with QEMU 10, which speaks them as server and as client. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect } from 'vitest'
import { type Io, neverAborted, plainIo, plainWriteIo, plainZeroIo } from '../../src/block/layer.ts'
import { GiB, MiB } from '../../src/bytes/range.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { NbdLayer } from '../../src/protocol/nbd/layer.ts'
import { Link } from '../../src/protocol/nbd/link.ts'
import { newerPeer, peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random, seedNote } from '../support/random.ts'

const folder = scratchFolder('nbd-extended')
const qemuNbd = newerPeer('qemu-nbd')
const olderNbd = peer('qemu-nbd')
const qemuImg = newerPeer('qemu-img')
const size = 64 * GiB
const servers: ChildProcess[] = []

afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.kill()
    if (server.exitCode === null && server.signalCode === null) await once(server, 'exit')
  }
})

/** A server of theirs over an empty file of 64 GiB, and our client. */
async function openTheirs(program: string): Promise<{ link: Link; layer: NbdLayer }> {
  const [path, file] = [join(folder, `${servers.length}.sock`), join(folder, 'disk.raw')]
  writeFileSync(file, '')
  truncateSync(file, size)
  const args = ['-t', '-f', 'raw', '--discard=unmap', '-k', path, file]
  servers.push(spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] }))
  while (!existsSync(path)) await sleep(10)
  const address = { type: 'unix', path } as const
  const patience = { openTimeoutMs: 5000, reconnectDelayMs: 0 }
  const options = { address, exportName: '', contexts: ['base:allocation'], ...patience }
  const link = await Link.open(options, neverAborted)
  return { link, layer: new NbdLayer(link, link.facts, 'nbd') }
}

qemuNbd.it(`qemu-nbd takes our long requests, and our data (${seedNote})`, async () => {
  const { link, layer } = await openTheirs(qemuNbd.path ?? '')
  await using _ = layer
  expect(link.extended).toBe(true)
  const random = new Random()
  expect(await layer.extentAt(0, size, plainIo)).toMatchObject({ kind: 'zero', length: size })
  const at = 33 * GiB + random.below(MiB) * 512
  const data = random.bytes(100 * 512)
  await layer.write(at, data, { ...plainWriteIo, fua: true })
  const found = new Uint8Array(data.length)
  await layer.read(at, found, plainIo)
  expect(Buffer.compare(found, data)).toBe(0)
  const hole = await layer.extentAt(0, size, plainIo)
  expect(hole).toMatchObject({ kind: 'zero' })
  expect(hole.length).toBeGreaterThan(32 * GiB)
  await layer.writeZeroes(512, size - 512, { ...plainZeroIo, mayUnmap: true })
  await layer.read(at, found, plainIo)
  expect(found.every((byte) => byte === 0)).toBe(true)
  await layer.discard(0, size, plainIo)
  expect(await layer.extentAt(0, size, plainIo)).toMatchObject({ kind: 'zero', length: size })
  await expect(layer.read(size - 512, new Uint8Array(1024), plainIo)).resolves.toBeUndefined()
})

olderNbd.it(
  'the qemu-nbd of the system gets structured replies from us, and short requests, where it is older',
  async () => {
    const { link, layer } = await openTheirs(olderNbd.path ?? '')
    await using _ = layer
    // CI runs this suite once more with the newer one in front of it.
    const { PATH = '', VARVE_QEMU10: newer = '' } = process.env
    expect(link.extended).toBe(PATH.split(':').includes(newer))
    await layer.writeZeroes(0, 70 * MiB, plainZeroIo)
    const first = await layer.extentAt(0, size, plainIo)
    expect(first.kind).toBe('zero')
  },
)

class Watched extends MemoryLayer {
  longest = 0
  override extentAt(offset: number, length: number, io: Io) {
    this.longest = Math.max(this.longest, length)
    return super.extentAt(offset, length, io)
  }
}

qemuImg.it('qemu-img asks us for status of more than 4 GiB, and copies', async () => {
  const path = join(folder, 'ours.sock')
  const disk = new Watched({ size })
  const random = new Random()
  const data = random.bytes(3 * MiB)
  disk.write(40 * GiB, data, plainWriteIo)
  await using server = await NbdServer.listen({ path })
  server.addExport({ name: '', layer: disk, writable: true })
  const uri = `nbd+unix:///?socket=${path}`
  const map = JSON.parse(await qemuImg.run('map', '-f', 'raw', '--output=json', uri))
  expect(map).toMatchObject([
    { start: 0, length: 40 * GiB, data: false, zero: true },
    { start: 40 * GiB, length: 3 * MiB, data: true },
    { length: 24 * GiB - 3 * MiB, data: false, zero: true },
  ])
  expect(disk.longest).toBeGreaterThan(4 * GiB)
  const copy = join(folder, 'copy.qcow2')
  await qemuImg.run('convert', '-f', 'raw', '-O', 'qcow2', uri, copy)
  await qemuImg.run('compare', '-f', 'raw', '-F', 'qcow2', uri, copy)
  disk.writeZeroes(40 * GiB, MiB, plainZeroIo)
  await qemuImg.run('convert', '-n', '-f', 'qcow2', '-O', 'raw', copy, uri)
  const found = new Uint8Array(data.length)
  disk.read(40 * GiB, found, plainIo)
  expect(Buffer.compare(found, data)).toBe(0)
})
