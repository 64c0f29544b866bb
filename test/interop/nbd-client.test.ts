/** Our client with the servers that people have: qemu-nbd and nbdkit. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect } from 'vitest'
import { openDisk } from '../../src/disk.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random, seedNote } from '../support/random.ts'

const qemuNbd = peer('qemu-nbd')
const nbdkit = peer('nbdkit')
const folder = scratchFolder('nbd-client')
const MiB = 2 ** 20
const servers: ChildProcess[] = []

afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.kill()
    if (server.exitCode === null && server.signalCode === null) await once(server, 'exit')
  }
})

async function start(program: string, args: readonly string[], socket: string): Promise<string> {
  servers.push(spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] }))
  while (!existsSync(socket)) await sleep(10)
  return `nbd+unix:///?socket=${socket}`
}

/** Random requests of every kind, with a copy beside that says what must be read. */
async function exercise(uri: string, options: { holes: boolean }): Promise<Uint8Array> {
  const random = new Random()
  await using disk = await openDisk(uri, { format: 'raw' })
  const model = new Uint8Array(disk.size)
  for (let step = 0; step < 150; step++) {
    const [offset, length] = random.range(disk.size, 1, 200_000)
    const choice = random.next()
    if (choice < 0.4) {
      const found = new Uint8Array(length)
      await disk.read(offset, found)
      expect(Buffer.compare(found, model.subarray(offset, offset + length))).toBe(0)
    } else if (choice < 0.8) {
      const source = random.bytes(length)
      await disk.write(offset, source, { fua: random.chance(0.1) })
      model.set(source, offset)
    } else if (choice < 0.95) {
      await disk.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) })
      model.fill(0, offset, offset + length)
    } else {
      await disk.flush()
    }
  }
  await Promise.all(
    Array.from({ length: 200 }, async (_, index) => {
      const found = new Uint8Array(1000)
      await disk.read(index * 4000, found)
      expect(Buffer.compare(found, model.subarray(index * 4000, index * 4000 + 1000))).toBe(0)
    }),
  )
  let zero = 0
  let at = 0
  for await (const run of disk.extents()) {
    expect(run.offset).toBe(at)
    at += run.length
    if (run.zero) {
      zero += run.length
      expect(model.subarray(run.offset, run.offset + run.length).every((byte) => byte === 0)).toBe(
        true,
      )
    }
  }
  expect(at).toBe(disk.size)
  expect(zero > 0).toBe(options.holes)
  return model
}

qemuNbd.it(`qemu-nbd serves us a file (${seedNote})`, async () => {
  const file = join(folder, 'disk.raw')
  const socket = join(folder, 'qemu')
  writeFileSync(file, Buffer.alloc(4 * MiB))
  const args = ['-t', '-f', 'raw', '--discard=unmap', '-k', socket, file]
  const model = await exercise(await start('qemu-nbd', args, socket), { holes: true })
  expect(Buffer.compare(readFileSync(file), model)).toBe(0)
})

qemuNbd.it('qemu-nbd serves us read-only, and no other way', async () => {
  const file = join(folder, 'readonly.raw')
  const socket = join(folder, 'readonly')
  writeFileSync(file, Buffer.alloc(MiB, 1))
  const uri = await start('qemu-nbd', ['-t', '-r', '-f', 'raw', '-k', socket, file], socket)
  await expect(openDisk(uri, { format: 'raw' })).rejects.toMatchObject({ code: 'READ_ONLY' })
  await using disk = await openDisk(uri, { format: 'raw', readOnly: true })
  const found = new Uint8Array(10)
  await disk.read(MiB - 10, found)
  expect(found).toEqual(new Uint8Array(10).fill(1))
})

qemuNbd.it('qemu-nbd serves us TCP, and the end of it is heard at once', async () => {
  const file = join(folder, 'tcp.raw')
  writeFileSync(file, Buffer.alloc(MiB, 1))
  const server = spawn('qemu-nbd', ['-t', '-f', 'raw', '-b', '127.0.0.1', '-p', '10889', file])
  servers.push(server)
  const filename = 'json:{"driver":"nbd","host":"127.0.0.1","port":"10889","open-timeout":20}'
  await using disk = await openDisk(filename, { format: 'raw' })
  await disk.read(0, new Uint8Array(512))
  const reading = Array.from({ length: 20 }, () => disk.read(0, new Uint8Array(512)))
  server.kill('SIGKILL')
  const results = await Promise.allSettled([...reading, disk.read(0, new Uint8Array(512))])
  expect(results.at(-1)).toMatchObject({ status: 'rejected', reason: { code: 'IO' } })
})

const flavours: readonly [string, readonly string[], { holes: boolean }][] = [
  ['as it is', [], { holes: true }],
  ['without structured replies', ['--no-sr'], { holes: false }],
  ['without zeroing', ['--filter=nozero'], { holes: true }],
  ['without extents', ['--filter=noextents'], { holes: false }],
  ['with emulated FUA', ['--filter=fua', 'fuamode=emulate'], { holes: true }],
]

for (const [title, args, expected] of flavours) {
  nbdkit.it(`nbdkit serves us memory ${title} (${seedNote})`, async () => {
    const socket = join(folder, `nbdkit-${title.replaceAll(' ', '-')}`)
    const filters = args.filter((arg) => arg.startsWith('-'))
    const parameters = args.filter((arg) => !arg.startsWith('-'))
    const words = ['-f', '-U', socket, ...filters, 'memory', '4M', ...parameters]
    await exercise(await start('nbdkit', words, socket), expected)
  })
}

nbdkit.it(`nbdkit insists on a block size, and gets it (${seedNote})`, async () => {
  const socket = join(folder, 'nbdkit-blocksize')
  const policy = ['blocksize-minimum=4096', 'blocksize-preferred=4096', 'blocksize-maximum=64k']
  const words = ['-f', '-U', socket, '--filter=blocksize-policy', 'memory', '4M', ...policy]
  const uri = await start('nbdkit', [...words, 'blocksize-error-policy=error'], socket)
  await exercise(uri, { holes: true })
})

nbdkit.it('nbdkit fails, and we hear how', async () => {
  const socket = join(folder, 'nbdkit-error')
  const words = ['-f', '-U', socket, '--filter=error', 'memory', '4M', 'error-pwrite=ENOSPC']
  const uri = await start('nbdkit', [...words, 'error-pwrite-rate=100%'], socket)
  await using disk = await openDisk(uri, { format: 'raw' })
  await expect(disk.write(4096, new Uint8Array(4096))).rejects.toMatchObject({ code: 'NO_SPACE' })
  await disk.read(4096, new Uint8Array(4096))
})
