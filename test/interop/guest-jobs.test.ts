/**
 * A machine of QEMU's boots from an NBD export of the daemon, and writes to that disk and checks it
 * all the time, while snapshots, stream, commit, mirror and backup run below it.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { createImage } from '../../src/create-image.ts'
import { StorageDaemon } from '../../src/daemon/storage-daemon.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { qemuSystem, Vm } from '../support/vm.ts'

const qemuImg = peer('qemu-img')
const folder = scratchFolder('guest-jobs')
const guest = fileURLToPath(new URL('../images/disk-guest.bin', import.meta.url))
const size = 8 * MiB

/** An image that the daemon opens under that name. */
async function addImage(daemon: StorageDaemon, name: string, more: object = {}): Promise<void> {
  const filename = `${folder}/${name}.qcow2`
  await createImage(daemon.graph, { filename, format: 'qcow2', options: { size } })
  const file = { driver: 'file', filename }
  await daemon.execute('blockdev-add', { driver: 'qcow2', 'node-name': name, file, ...more })
}

qemuSystem.describe('a guest whose disk is worked on', () => {
  it('finds nothing but what it wrote', async () => {
    await using daemon = new StorageDaemon()
    await addImage(daemon, 'base')
    await daemon.graph.node('base').write(0, readFileSync(guest))
    const socket = `${folder}/nbd.sock`
    await daemon.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
    await daemon.execute('block-export-add', {
      type: 'nbd',
      id: 'e0',
      'node-name': 'base',
      name: 'disk',
      writable: true,
    })
    await using vm = await Vm.start({
      folder,
      name: 'vm',
      memory: 16,
      drive: `file=nbd:unix:${socket}:exportname=disk,format=raw,if=ide,cache=none`,
    })
    await vm.progress(300)

    await addImage(daemon, 'top', { backing: null })
    await daemon.execute('blockdev-snapshot', { node: 'base', overlay: 'top' })
    await vm.progress(300)

    // A guest that dirties more than a limit lets pass is never caught up with: no limit there.
    const run = async (command: string, args: object, ready = false) => {
      const id = command.replace('block', 'j')
      await daemon.execute(command, { 'job-id': id, speed: ready ? 0 : 4 * MiB, ...args })
      const job = daemon.jobs.get(id)
      await vm.progress(200)
      if (ready) {
        while (job.status !== 'ready') {
          expect(job.error, command).toBeUndefined()
          await sleep(10)
        }
        await vm.progress(100)
        await daemon.execute('job-complete', { id })
      }
      if (job.status === 'running')
        await daemon.execute('block-job-set-speed', { device: id, speed: 0 })
      await job.done
      await vm.progress(300)
    }

    await addImage(daemon, 'saved')
    await run('blockdev-backup', { device: 'top', target: 'saved', sync: 'full' })
    await run('block-commit', { device: 'top' }, true)
    await daemon.execute('blockdev-del', { 'node-name': 'top' })
    await addImage(daemon, 'second', { backing: null })
    await daemon.execute('blockdev-snapshot', { node: 'base', overlay: 'second' })
    await run('block-stream', { device: 'second' })
    await addImage(daemon, 'elsewhere')
    await run('blockdev-mirror', { device: 'second', target: 'elsewhere', sync: 'full' }, true)

    // Each sector has been read back many times by now.
    const lines = await vm.progress(2000, 60_000)
    expect(lines.filter((line) => !line.endsWith('.'))).toEqual([])
    await vm[Symbol.asyncDispose]()
    await daemon[Symbol.asyncDispose]()
    if (!qemuImg.path) return
    for (const name of ['base', 'saved', 'elsewhere']) {
      execFileSync('qemu-img', ['check', '-q', `${folder}/${name}.qcow2`])
    }
  })
})
