/** New images in what is there already, an export of an NBD server: the same as by qemu-img. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { Pair } from '../support/img.ts'

const qemu = peer('qemu-img', 'qemu-io', 'qemu-nbd')
const url = 'nbd+unix:///?socket=sock'

let pair: Pair
const servers: ChildProcess[] = []

beforeEach(async () => {
  pair = new Pair()
  await pair.prepare('qemu-img', 'create', '-q', '-f', 'qcow2', 'a.qcow2', '1M')
  await pair.prepare('qemu-io', '-c', 'write -P 7 64k 100k', 'a.qcow2')
})

afterEach(async () => {
  for (const server of servers.splice(0)) {
    const ended = once(server, 'exit')
    server.kill()
    await ended
  }
  pair[Symbol.dispose]()
})

/** A MiB of the letter z on either side. */
async function serve(...options: string[]): Promise<void> {
  for (const cwd of [pair.ours, pair.theirs]) {
    writeFileSync(`${cwd}/z.raw`, Buffer.alloc(1024 * 1024, 'z'))
    const words = ['-t', '-e', '0', '-f', 'raw', '-k', `${cwd}/sock`, ...options, 'z.raw']
    servers.push(spawn('qemu-nbd', words, { cwd, stdio: 'ignore' }))
    while (!existsSync(`${cwd}/sock`)) await sleep(5)
  }
}

function sameBytes(): void {
  const [ours, theirs] = [pair.ours, pair.theirs].map((at) => readFileSync(`${at}/z.raw`))
  // Behind its L1 table, which is the last, QEMU leaves what was there.
  const used = theirs.lastIndexOf(0) + 1
  expect(ours.subarray(0, used).equals(theirs.subarray(0, used))).toBe(true)
}

qemu.describe('on an NBD server', () => {
  it.each([
    `create -f raw ${url} 1M`,
    `create -f raw ${url} 100k`,
    `create -f raw -o preallocation=off ${url} 100k`,
    `create -f qcow2 ${url} 100k`,
    `create -f qcow2 ${url} 100M`,
    `convert -O raw a.qcow2 ${url}`,
    `dd if=a.qcow2 of=${url}`,
    `dd -f qcow2 -O raw bs=64k count=3 if=a.qcow2 of=${url}`,
  ])('%s', async (line) => {
    await serve()
    expect(await pair.same(line)).toBe(0)
    sameBytes()
  })

  it.each([
    `convert -f qcow2 -O qcow2 a.qcow2 ${url}`,
    `convert -f qcow2 -O qcow2 -o cluster_size=2k a.qcow2 ${url}`,
  ])('%s shows the same', async (line) => {
    await serve()
    expect(await pair.same(line)).toBe(0)
    const images = [pair.ours, pair.theirs].map((at) => `${at}/z.raw`)
    await qemu.run('compare', '-U', '-s', '-f', 'qcow2', '-F', 'qcow2', ...images)
    await qemu.run('check', '-U', '-f', 'qcow2', images[0])
  })

  it.each([
    `create -f raw ${url} 2M`,
    `create -f raw -o preallocation=falloc ${url} 100k`,
    `create -f raw -o nocow=on ${url} 100k`,
    `convert -O raw -f raw a.qcow2 -S 0 nbd+unix:///x?socket=sock`,
    `resize -f raw ${url} 2M`,
    `resize -f raw --shrink ${url} 512k`,
    `resize -f raw ${url} 1M`,
    `create -f raw -o help ${url}`,
    `create -f qcow2 -o help ${url}`,
    'create -f raw null-co:// 1M',
    'create -f qcow2 -o help null-co://',
    'convert -O raw a.qcow2 null-co://',
    'dd if=a.qcow2 of=null-co://',
  ])('%s is answered in the same way', async (line) => {
    await serve()
    await pair.same(line)
  })

  it('is refused where nobody may write', async () => {
    await serve('-r')
    expect(await pair.same(`create -f raw ${url} 1M`)).toBe(1)
    expect(await pair.same(`convert -O raw a.qcow2 ${url}`)).toBe(1)
    expect(await pair.same(`convert -n -O raw a.qcow2 ${url}`)).toBe(1)
  })
})
