/** One image passed back and forth between two owners, as live migrations do. */
import { execFileSync } from 'node:child_process'
import { expect, it } from 'vitest'
import { DirtyBitmap } from '../../src/bitmap/dirty-bitmap.ts'
import { MiB } from '../../src/bytes/range.ts'
import { createImage } from '../../src/create-image.ts'
import { drivers } from '../../src/drivers.ts'
import { ShownBitmaps } from '../../src/export/nbd/bitmaps.ts'
import { removeBitmap } from '../../src/graph/bitmap-actions.ts'
import type { Edge } from '../../src/graph/edge.ts'
import { Graph } from '../../src/graph/graph.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random, seedNote } from '../support/random.ts'

const folder = scratchFolder('hand-over')
const size = 8 * MiB

/** An owner with the image open and a guest on it. Locks hold between open files, so one process does. */
async function owner(filename: string, active: boolean): Promise<{ graph: Graph; guest: Edge }> {
  const graph = new Graph({ drivers })
  const node = await graph.open({
    driver: 'qcow2',
    'node-name': 'disk',
    active,
    discard: 'unmap',
    file: { driver: 'file', filename },
  })
  const guest = graph.attach(node, {
    description: 'a guest',
    uses: ['consistentRead', 'write', 'resize'],
    shares: ['consistentRead'],
  })
  return { graph, guest }
}

async function newImage(name: string): Promise<string> {
  const filename = `${folder}/${name}.qcow2`
  await using graph = new Graph({ drivers })
  await createImage(graph, { filename, format: 'qcow2', options: { size, cluster_size: 4096 } })
  return filename
}

it(`shows each owner what the other has written (${seedNote})`, async () => {
  const random = new Random()
  const filename = await newImage('passed')
  const owners = [await owner(filename, true), await owner(filename, false)]
  await using _first = owners[0].graph
  await using _second = owners[1].graph
  const expected = new Uint8Array(size)
  for (let turn = 0; turn < 12; turn++) {
    const { graph, guest } = owners[turn % 2]
    for (let count = 0; count < 20; count++) {
      const length = 512 * (1 + random.below(64))
      const offset = 512 * random.below((size - length) / 512)
      if (random.below(4) === 0) {
        await guest.writeZeroes(offset, length, { mayUnmap: true })
        expected.fill(0, offset, offset + length)
      } else {
        const data = new Uint8Array(length).fill(1 + random.below(255))
        await guest.write(offset, data)
        expected.set(data, offset)
      }
    }
    await graph.inactivate()
    await expect(Promise.resolve().then(() => guest.write(0, new Uint8Array(512)))).rejects.toThrow(
      /inactive/,
    )
    const next = owners[(turn + 1) % 2]
    await next.graph.activate()
    const found = new Uint8Array(size)
    await next.guest.read(0, found)
    expect(Buffer.compare(found, expected), `turn ${turn}`).toBe(0)
  }
})

it('waits for the other owner to let go', async () => {
  const filename = await newImage('held')
  const [first, second] = [await owner(filename, true), await owner(filename, false)]
  await using _first = first.graph
  await using _second = second.graph
  await expect(second.graph.activate()).rejects.toMatchObject({ code: 'BUSY' })
  // Refused, it is as inactive as before, and the owner goes on.
  await first.guest.write(0, new Uint8Array(512).fill(1))
  await first.graph.inactivate()
  await second.graph.activate()
  const block = new Uint8Array(512)
  await second.guest.read(0, block)
  expect(block[0]).toBe(1)
  await expect(first.graph.activate()).rejects.toMatchObject({ code: 'BUSY' })
})

it('sees a new size, and hands bitmaps over', async () => {
  const filename = await newImage('grown')
  const [first, second] = [await owner(filename, true), await owner(filename, false)]
  await using _first = first.graph
  await using _second = second.graph
  const options = { name: 'b0', granularity: 65536, size, enabled: true, persistent: true }
  first.guest.node.bitmaps.add(new DirtyBitmap(options))
  first.guest.node.bitmaps.claimed = true
  await first.guest.write(3 * MiB, new Uint8Array(512).fill(1))
  await first.graph.inactivate()
  await second.graph.activate()
  const found = [...second.guest.node.bitmaps]
  expect(found.map(({ name, count }) => [name, count])).toEqual([['b0', 65536]])
  await (await removeBitmap(second.guest.node, 'b0')).commit()
  await second.guest.truncate(2 * size)
  await second.graph.inactivate()
  await first.graph.activate()
  expect(first.guest.size).toBe(2 * size)
  expect([...first.guest.node.bitmaps]).toEqual([])
})

it('is refused while somebody uses a bitmap, and nothing changes', async () => {
  const { graph, guest } = await owner(await newImage('shown'), true)
  await using _ = graph
  const options = { name: 'b0', granularity: 65536, size, enabled: true, persistent: true }
  const bitmap = new DirtyBitmap(options)
  guest.node.bitmaps.add(bitmap)
  guest.node.bitmaps.claimed = true
  const shown = new ShownBitmaps(guest.node, ['b0'], true)
  await expect(graph.inactivate()).rejects.toThrow(/its bitmap 'b0' is in use by an NBD export/)
  await guest.write(0, new Uint8Array(512).fill(1))
  expect([...guest.node.bitmaps]).toEqual([bitmap])
  expect(bitmap.count).toBe(65536)
  shown.release()
  await graph.inactivate()
  await graph.activate()
  expect([...guest.node.bitmaps].map(({ count }) => count)).toEqual([65536])
})

const qemu = peer('qemu-img', 'qemu-io')

qemu.describe('with qemu-img as the other owner', () => {
  it('is not in its way, and sees what it writes', async () => {
    const filename = await newImage('qemu')
    const { graph, guest } = await owner(filename, true)
    await using _graph = graph
    const write = () =>
      execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 64k', filename], {
        stdio: 'pipe',
      })
    expect(write).toThrow(/lock/)
    await graph.inactivate()
    write()
    await graph.activate()
    const block = new Uint8Array(512)
    await guest.read(MiB, block)
    expect(block).toEqual(new Uint8Array(512).fill(7))
    await guest.write(2 * MiB, block)
    await graph.inactivate()
    execFileSync('qemu-img', ['check', '-q', filename])
  })
})
