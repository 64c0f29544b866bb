/** The disk of one moment, read through snapshot-access while a guest goes on writing. */
import { describe, expect, it } from 'vitest'
import { drivers } from '../../src/drivers.ts'
import type { Edge } from '../../src/graph/edge.ts'
import { Graph } from '../../src/graph/graph.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { SlowLayer } from '../support/layers.ts'
import { Random, seedNote } from '../support/random.ts'

const size = 2 * 1024 * 1024 + 4096

interface Fleecing extends AsyncDisposable {
  readonly graph: Graph
  /** What the snapshot must show. */
  readonly before: Uint8Array
  readonly guest: Edge
  readonly snapshot: Edge
}

async function fleece(random: Random, options: Record<string, unknown> = {}): Promise<Fleecing> {
  const graph = new Graph({ drivers })
  const before = random.bytes(size)
  await graph.add(
    'memory',
    { 'node-name': 'disk' },
    async () => new SlowLayer(MemoryLayer.of(before)),
  )
  await graph.open({ driver: 'memory', 'node-name': 'kept', size, discard: 'unmap' })
  const cbw = { driver: 'copy-before-write', 'node-name': 'cbw', file: 'disk', target: 'kept' }
  const filter = await graph.open({ ...cbw, ...options, discard: 'unmap' })
  const access = { driver: 'snapshot-access', file: 'cbw', 'node-name': 'snap', discard: 'unmap' }
  const shown = await graph.open(access)
  const guest = graph.attach(filter, { description: 'guest', uses: ['consistentRead', 'write'] })
  const snapshot = graph.attach(shown, { description: 'reader', uses: ['consistentRead', 'write'] })
  const close = () => graph[Symbol.asyncDispose]()
  return { graph, before, guest, snapshot, [Symbol.asyncDispose]: close }
}

describe(`snapshot-access (${seedNote})`, () => {
  it('shows the disk as it was while it is overwritten, zeroed and discarded', async () => {
    const random = new Random()
    await using fleecing = await fleece(random)
    const { before, guest, snapshot } = fleecing
    const disturb = async () => {
      for (let step = 0; step < 60; step++) {
        const [offset, length] = random.range(size, 512, 200_000)
        const choice = random.next()
        if (choice < 0.6) await guest.write(offset, random.bytes(length))
        else if (choice < 0.8) await guest.writeZeroes(offset, length)
        else await guest.discard(offset, length)
      }
    }
    const look = async () => {
      for (let step = 0; step < 60; step++) {
        const [offset, length] = random.range(size, 512, 300_000)
        const bytes = Buffer.alloc(length, 0xee)
        await snapshot.read(offset, bytes)
        expect(bytes.equals(before.subarray(offset, offset + length))).toBe(true)
      }
    }
    await Promise.all([disturb(), disturb(), look(), look(), look()])
  })

  it('tells where zeroes are, and covers the whole disk', async () => {
    const random = new Random()
    await using fleecing = await fleece(random)
    const { graph, before, guest } = fleecing
    for (let step = 0; step < 10; step++) {
      await guest.write(...([random.below(30) * 65536, random.bytes(70_000)] as const))
    }
    let at = 0
    for await (const run of graph.node('snap').extents()) {
      expect(run.offset).toBe(at)
      at += run.length
      if (run.kind === 'zero') {
        expect(before.subarray(run.offset, at).every((byte) => byte === 0)).toBe(true)
      }
    }
    expect(at).toBe(size)
  })

  it('is not written to', async () => {
    await using fleecing = await fleece(new Random())
    await expect(async () => fleecing.snapshot.write(0, new Uint8Array(512))).rejects.toMatchObject(
      {
        code: 'UNSUPPORTED',
      },
    )
  })

  it('lets go of what a reader has discarded, and copies it no more', async () => {
    const random = new Random()
    await using fleecing = await fleece(random)
    const { graph, before, guest, snapshot } = fleecing
    await guest.write(0, random.bytes(65536))
    await snapshot.discard(0, 256 * 1024)
    await guest.write(65536, random.bytes(65536))
    await expect(async () => snapshot.read(0, new Uint8Array(512))).rejects.toMatchObject({
      code: 'PERMISSION',
      errno: 'EACCES',
    })
    const kept = new Uint8Array(65536)
    await graph.node('kept').read(65536, kept)
    expect(kept.every((byte) => byte === 0)).toBe(true)
    const bytes = Buffer.alloc(4096)
    await snapshot.read(256 * 1024, bytes)
    expect(bytes.equals(before.subarray(256 * 1024, 256 * 1024 + 4096))).toBe(true)
  })

  it('fails rather than lie when a copy has failed and the guest went on', async () => {
    const random = new Random()
    const graph = new Graph({ drivers })
    await graph.add('memory', { 'node-name': 'disk' }, async () =>
      MemoryLayer.of(random.bytes(size)),
    )
    await graph.open({
      driver: 'copy-before-write',
      'node-name': 'cbw',
      file: 'disk',
      'on-cbw-error': 'break-snapshot',
      target: {
        driver: 'blkdebug',
        image: { driver: 'memory', size },
        'inject-error': [{ event: 'none', iotype: 'write', errno: 28 }],
      },
    })
    const shown = await graph.open({ driver: 'snapshot-access', file: 'cbw', 'node-name': 'snap' })
    const uses = ['consistentRead', 'write'] as const
    const guest = graph.attach(graph.node('cbw'), { description: 'guest', uses })
    const snapshot = graph.attach(shown, { description: 'reader', uses: ['consistentRead'] })
    await snapshot.read(0, new Uint8Array(512))
    await guest.write(0, new Uint8Array(512).fill(1))
    await expect(async () => snapshot.read(0, new Uint8Array(512))).rejects.toMatchObject({
      errno: 'EACCES',
    })
    await graph[Symbol.asyncDispose]()
  })

  it('needs a node that keeps something', async () => {
    await using graph = new Graph({ drivers })
    await graph.open({ driver: 'memory', 'node-name': 'disk', size: 4096 })
    const shown = await graph.open({ driver: 'snapshot-access', file: 'disk', 'node-name': 'snap' })
    const reader = graph.attach(shown, { description: 'reader', uses: ['consistentRead'] })
    await expect(async () => reader.read(0, new Uint8Array(512))).rejects.toMatchObject({
      code: 'UNSUPPORTED',
    })
  })
})
