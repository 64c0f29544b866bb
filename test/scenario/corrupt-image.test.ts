/** An image that turns out to be corrupt while a daemon serves it: its monitors are told, once. */

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { writeFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { plainIo, plainWriteIo } from '../../src/block/layer.ts'
import { reportCorruption } from '../../src/daemon/corruption-events.ts'
import { openDisk } from '../../src/disk.ts'
import { drivers } from '../../src/drivers.ts'
import { creator } from '../../src/format/qcow2/create.ts'
import { Graph } from '../../src/graph/graph.ts'
import { scratchFolder } from '../support/folder.ts'

const folder = scratchFolder('corrupt-image')

it('is told with its node, and only to the daemon that has it', async () => {
  const path = `${folder}/a.qcow2`
  writeFileSync(path, '')
  {
    await using raw = await openDisk(path, { format: 'raw' })
    const file = raw.node.layer
    await creator.create(creator.parse({ size: 1024 * 1024 }), { file, ...plainIo })
  }
  await using graph = new Graph({ drivers })
  await using other = new Graph({ drivers })
  const told: unknown[] = []
  const ends = [graph, other].map((each, index) =>
    reportCorruption(each, (event, data) => told.push([index, event, data])),
  )
  const seen: unknown[] = []
  const listener = (message: unknown) => seen.push(message)
  subscribe('image:corrupt', listener)
  try {
    const storage = await graph.open({ driver: 'file', filename: path, 'node-name': 'storage' })
    const node = await graph.open({ driver: 'qcow2', file: 'storage', 'node-name': 'disk0' })
    const edge = graph.attach(node, { description: 'a test', uses: ['write'] })
    const l1 = new Uint8Array(8)
    await storage.layer.read(40, l1, plainIo)
    const l1Offset = Number(new DataView(l1.buffer).getBigUint64(0))
    await edge.write(0, new Uint8Array(65536).fill(1))
    await edge.flush()
    const word = new Uint8Array(8)
    await storage.layer.read(l1Offset, word, plainIo)
    const l2Offset = Number(new DataView(word.buffer).getBigUint64(0) % 2n ** 56n)
    // Behind the back of the tables in memory, which are asked anew when a cluster is written.
    await edge[Symbol.asyncDispose]()
    await graph.remove('disk0')
    const wrong = new DataView(new ArrayBuffer(8))
    wrong.setBigUint64(0, 2n ** 63n + BigInt(l1Offset))
    await storage.layer.write(l2Offset, new Uint8Array(wrong.buffer), plainWriteIo)

    const again = await graph.open({ driver: 'qcow2', file: 'storage', 'node-name': 'disk1' })
    const user = graph.attach(again, { description: 'a test', uses: ['write'] })
    for (let count = 0; count < 2; count++) {
      const write = async () => await user.write(0, new Uint8Array(65536).fill(2))
      await expect(write()).rejects.toMatchObject({ code: 'CORRUPT_IMAGE' })
    }
    await user[Symbol.asyncDispose]()
  } finally {
    unsubscribe('image:corrupt', listener)
    for (const end of ends) end()
  }
  expect(seen).toHaveLength(1)
  expect(told).toEqual([
    [
      0,
      'BLOCK_IMAGE_CORRUPTED',
      {
        device: '',
        'node-name': 'disk1',
        msg: expect.stringMatching('overlaps with active L1 table'),
        offset: expect.any(Number),
        fatal: true,
      },
    ],
  ])
})
