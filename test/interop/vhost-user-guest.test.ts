/**
 * A machine of QEMU's whose disk is a vhost-user-blk export of the daemon: it boots from it, writes to it and checks
 * it all the time, while a backup runs below; the image is right afterwards.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { createImage } from '../../src/create-image.ts'
import { StorageDaemon } from '../../src/daemon/storage-daemon.ts'
import { sys } from '../../src/sys/current.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { qemuSystem, Vm } from '../support/vm.ts'

const qemuImg = peer('qemu-img')
const folder = scratchFolder('vhost-user-guest')
const guest = fileURLToPath(new URL('../images/disk-guest.bin', import.meta.url))
const size = 8 * MiB

async function addImage(daemon: StorageDaemon, name: string): Promise<void> {
  const filename = `${folder}/${name}.qcow2`
  await createImage(daemon.graph, { filename, format: 'qcow2', options: { size } })
  const file = { driver: 'file', filename }
  await daemon.execute('blockdev-add', { driver: 'qcow2', 'node-name': name, file })
}

/** What a machine needs to have the export at that path as its disk. */
const machine = (path: string) => ({
  folder,
  memory: 16,
  drive: 'if=none,id=none',
  args: [
    ...['-object', 'memory-backend-memfd,id=mem,size=16M,share=on'],
    ...['-machine', 'memory-backend=mem', '-chardev', `socket,id=v,path=${path},reconnect=1`],
    ...['-device', 'vhost-user-blk-pci,chardev=v,num-queues=2,bootindex=0'],
  ],
})

async function exportDisk(daemon: StorageDaemon, id: string): Promise<string> {
  const path = `${folder}/${id}.sock`
  await daemon.execute('block-export-add', {
    ...{ type: 'vhost-user-blk', id, 'node-name': 'disk', writable: true },
    ...{ 'num-queues': 2, addr: { type: 'unix', path } },
  })
  return path
}

qemuSystem.describe('a guest with a vhost-user-blk disk', () => {
  it.skipIf(!sys().sharedMemory)(
    'finds nothing but what it wrote, also while a backup runs, when its disk was gone, and after it has moved',
    async () => {
      await using daemon = new StorageDaemon()
      await addImage(daemon, 'disk')
      await addImage(daemon, 'saved')
      await daemon.graph.node('disk').write(0, readFileSync(guest))
      await using vm = await Vm.start({ ...machine(await exportDisk(daemon, 'v')), name: 'vm' })
      await vm.progress(150, 60_000)
      await daemon.execute('blockdev-backup', {
        ...{ 'job-id': 'b', device: 'disk', target: 'saved', sync: 'full', speed: 2 * MiB },
      })
      const job = daemon.jobs.get('b')
      await vm.progress(150, 60_000)
      await job.done
      await vm.progress(150, 60_000)
      // The guest stands still for a moment, and goes on with what was under way.
      await vm.qmp.execute('stop')
      await vm.qmp.execute('cont')
      // The export goes and comes back; what the guest has asked for meanwhile waits.
      await daemon.execute('block-export-del', { id: 'v', mode: 'hard' })
      await exportDisk(daemon, 'v')
      await vm.progress(150, 60_000)
      // Pages that the device writes to reach the other machine, too: it logs them.
      const other = machine(await exportDisk(daemon, 'w'))
      const incoming = `unix:${folder}/incoming`
      await using moved = await Vm.start({ ...other, name: 'moved', incoming })
      await vm.qmp.execute('migrate', { uri: incoming })
      expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
      // Each sector has been read back many times by now.
      const lines = [...(await vm.lines()), ...(await moved.progress(500, 60_000))]
      expect(lines.filter((line) => !line.endsWith('.')).length).toBeLessThan(2)
      await moved[Symbol.asyncDispose]()
      await vm[Symbol.asyncDispose]()
      for (const id of ['v', 'w']) await daemon.execute('block-export-del', { id })
      await daemon[Symbol.asyncDispose]()
      if (!qemuImg.path) return
      for (const name of ['disk', 'saved']) {
        execFileSync('qemu-img', ['check', '-q', `${folder}/${name}.qcow2`])
      }
    },
  )
})
