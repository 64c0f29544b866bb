/**
 * The tools of QEMU 10 and varve: images and disks over NBD, in both directions, and a running
 * machine whose own jobs write to exports of ours. Suites that compare data rather than texts run
 * with QEMU 10's programs as they are: `.ci/run` has the list.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { createImage } from '../../src/create-image.ts'
import { StorageDaemon } from '../../src/daemon/storage-daemon.ts'
import { newerPeer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs } from '../support/img.ts'
import { Random, seedNote } from '../support/random.ts'
import { Vm } from '../support/vm.ts'

const folder = scratchFolder('qemu-10')
const at = (name: string) => join(folder, name)
const long = process.env.VARVE_LONG === '1'
const qemuImg = newerPeer('qemu-img')
const qemuIo = newerPeer('qemu-io')
const qemu = newerPeer('qemu-system-x86_64')
const guest = fileURLToPath(new URL('../images/disk-guest.bin', import.meta.url))
const size = 8 * MiB

async function ours(...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await runOurs(folder, args)
  if (status !== 0) throw new Error(`img ${args.join(' ')}: ${stderr}`)
  return stdout
}

qemuImg.describe('images of varve and QEMU 10', () => {
  const options = [
    'compat=0.10,cluster_size=4k',
    'cluster_size=512,refcount_bits=64',
    'extended_l2=on,cluster_size=128k,compression_type=zstd',
    'lazy_refcounts=on,refcount_bits=1,preallocation=metadata',
    'data_file=DATA,data_file_raw=on',
    'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10',
  ]

  it.each(long ? options : options.slice(2, 3))(`show the same: %s (${seedNote})`, async (text) => {
    const random = new Random()
    const secret = ['--object', 'secret,id=s,data=open sesame']
    const open = (name: string) => {
      const key = text.includes('encrypt') ? ',encrypt.key-secret=s' : ''
      return `driver=qcow2,file.filename=${at(name)}${key}`
    }
    for (const name of ['by-us', 'by-them']) {
      const o = text.replace('DATA', at(`${name}.data`))
      const args = ['create', '-q', ...secret, '-f', 'qcow2', '-o', o, at(name), `${size}`]
      if (name === 'by-us') await ours(...args)
      else await qemuImg.run(...args)
    }
    for (let round = 0; round < 8; round++) {
      const [offset, length] = random.range(size, 512, MiB)
      const write = `${random.pick(['write -P 7', 'write -P 200', 'write -z'])} ${offset} ${length}`
      for (const name of ['by-us', 'by-them']) {
        await qemuIo.run(...secret, '-c', write, '--image-opts', open(name))
      }
    }
    const raw = (name: string) => at(`${name}.raw`)
    for (const name of ['by-us', 'by-them']) {
      const [from, to] = [['--image-opts', open(name)], raw(name)]
      await qemuImg.run('check', '-q', ...secret, ...from)
      await ours('check', '-q', ...secret, ...from)
      await ours('convert', ...secret, '-O', 'raw', ...from, to)
      await qemuImg.run('convert', ...secret, '-O', 'raw', ...from, `${to}2`)
      expect(readFileSync(to).equals(readFileSync(`${to}2`))).toBe(true)
    }
    expect(readFileSync(raw('by-us')).equals(readFileSync(raw('by-them')))).toBe(true)
  })
})

qemu.describe('a machine of QEMU 10', () => {
  it('mirrors and backs up its disk to exports of ours, and goes on there', async () => {
    await using daemon = new StorageDaemon()
    const path = at('nbd.sock')
    await daemon.execute('nbd-server-start', { addr: { type: 'unix', data: { path } } })
    const names = ['disk', 'mirror', 'backup']
    for (const name of names) {
      const filename = at(`${name}.qcow2`)
      await createImage(daemon.graph, { filename, format: 'qcow2', options: { size } })
      const file = { driver: 'file', filename }
      await daemon.execute('blockdev-add', { driver: 'qcow2', 'node-name': name, file })
      if (name === 'disk') {
        await daemon.graph.node('disk').write(0, readFileSync(guest))
        await daemon.execute('blockdev-del', { 'node-name': 'disk' })
        continue
      }
      await daemon.execute('block-export-add', {
        ...{ type: 'nbd', id: name, 'node-name': name, name, writable: true },
      })
    }
    const drive = `file=${at('disk.qcow2')},format=qcow2,if=none,id=d,node-name=disk`
    const args = ['-device', 'ide-hd,drive=d,id=ide']
    await using vm = await Vm.start({ folder, name: 'vm', memory: 16, qemu, drive, args })
    await vm.progress(300)
    const target = async (name: string) => {
      const server = { type: 'unix', path }
      const node = { driver: 'nbd', 'node-name': name, server, export: name, discard: 'unmap' }
      await vm.qmp.execute('blockdev-add', node)
      return name
    }
    const jobs = async () => (await vm.qmp.execute('query-jobs')) as { status: string }[]
    const job = { device: 'disk', sync: 'full', speed: 16 * MiB }
    await vm.qmp.execute('blockdev-backup', {
      ...{ ...job, 'job-id': 'b', target: await target('backup') },
    })
    await vm.progress(200)
    while ((await jobs()).length > 0) await sleep(20)
    await vm.qmp.execute('blockdev-mirror', {
      ...{ ...job, 'job-id': 'm', target: await target('mirror'), 'copy-mode': 'write-blocking' },
    })
    await vm.progress(200)
    while ((await jobs())[0]?.status !== 'ready') await sleep(20)
    await vm.qmp.execute('job-complete', { id: 'm' })
    while ((await jobs()).length > 0) await sleep(20)
    expect(JSON.stringify(vm.events)).not.toContain('"error"')
    const block = JSON.stringify(await vm.qmp.execute('query-block'))
    expect(block).toContain('"node-name":"mirror"')
    const lines = await vm.progress(1000, 60_000)
    expect(lines.filter((line) => !line.endsWith('.'))).toEqual([])
    await vm[Symbol.asyncDispose]()
    await daemon[Symbol.asyncDispose]()
    for (const name of names) await qemuImg.run('check', '-q', at(`${name}.qcow2`))
    // The backup is of the moment at which it began: the guest's program is in it.
    await qemuIo.run('-r', '-c', 'read -P 0 7M 1M', at('backup.qcow2'))
    await ours('convert', '-O', 'raw', at('backup.qcow2'), at('backup.raw'))
    const program = readFileSync(guest)
    expect(readFileSync(at('backup.raw')).subarray(0, program.length).equals(program)).toBe(true)
  })
})
