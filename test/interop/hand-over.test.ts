/**
 * One image passed between a running QEMU and us, as a live migration passes it: after `migrate`
 * QEMU has let go of it, and `cont` takes it back.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { createImage } from '../../src/create-image.ts'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import { scratchFolder } from '../support/folder.ts'
import { qemuSystem, Vm } from '../support/vm.ts'

const folder = scratchFolder('qemu-hand-over')

/** What a command of QEMU's own qemu-io printed, or the monitor said of it. */
async function io(vm: Vm, command: string): Promise<string> {
  const before = vm.output.length
  const line = `qemu-io -d /machine/peripheral/disk-device/virtio-backend "${command}"`
  const said = await vm.qmp.execute('human-monitor-command', { 'command-line': line })
  // What it prints may come a moment later.
  for (let wait = 0; wait < 50 && !vm.output.slice(before).includes('ops'); wait++) await sleep(20)
  return `${said}${vm.output.slice(before)}`
}

async function migrate(vm: Vm): Promise<void> {
  await vm.qmp.execute('migrate', { uri: 'exec:cat > /dev/null' })
  expect(await vm.migrated(['completed', 'failed'])).toBe('completed')
}

qemuSystem.describe('an image passed between QEMU and us', () => {
  it('shows each what the other has written', async () => {
    const filename = `${folder}/disk.qcow2`
    const node = { driver: 'qcow2', 'node-name': 'disk', file: { driver: 'file', filename } }
    await using graph = new Graph({ drivers })
    await createImage(graph, { filename, format: 'qcow2', options: { size: 16 * MiB } })
    const blockdev = `driver=qcow2,node-name=disk,file.driver=file,file.filename=${filename}`
    await using machine = await Vm.start({
      folder,
      name: 'vm',
      args: ['-blockdev', blockdev, '-device', 'virtio-blk-pci,drive=disk,id=disk-device'],
    })
    const disk = await graph.open({ ...node, active: false })
    const guest = graph.attach(disk, { description: 'a test', uses: ['consistentRead', 'write'] })
    for (let turn = 1; turn <= 3; turn++) {
      expect(await io(machine, `write -P ${turn} ${turn}M 64k`)).toMatch(/wrote 65536\/65536/)
      await expect(graph.activate()).rejects.toMatchObject({ code: 'BUSY' })
      await migrate(machine)
      await graph.activate()
      const found = new Uint8Array(65536)
      await guest.read(turn * MiB, found)
      expect(Buffer.compare(found, new Uint8Array(65536).fill(turn))).toBe(0)
      await guest.write((8 + turn) * MiB, new Uint8Array(65536).fill(100 + turn))
      await graph.inactivate()
      await machine.qmp.execute('cont')
      const seen = await io(machine, `read -P ${100 + turn} ${8 + turn}M 64k`)
      expect(seen).toMatch(/read 65536\/65536 bytes/)
      expect(seen).not.toMatch(/Pattern verification failed/)
    }
    await migrate(machine)
    await graph.activate()
    const check = await disk.layer.check?.run({
      repair: 'none',
      signal: new AbortController().signal,
    })
    expect(check).toMatchObject({ corruptions: 0, leaks: 0 })
  })
})
