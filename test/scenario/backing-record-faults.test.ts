/** The record of a backing file is changed under a guest, and any request for that may fail. */
import { expect, test } from 'vitest'
import { plainIo } from '../../src/block/layer.ts'
import { MiB } from '../../src/bytes/range.ts'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import { Faults } from '../support/faults.ts'
import { attach, memoryImage } from '../support/image-chain.ts'

const longName = `${'x'.repeat(900)}.qcow2`

/** Changes the record while request `failAt` fails; whether it did, and the file as it is then. */
async function changeWith(failAt: number) {
  await using graph = new Graph({ drivers })
  const faults = new Faults()
  const base = await memoryImage(graph, 'base', { size: MiB, readOnly: true })
  const top = await memoryImage(graph, 'top', { size: MiB, backing: base, faults })
  const guest = attach(graph, top)
  await guest.write(0, new Uint8Array(512).fill(1))
  await guest.flush()
  const { backingLink } = top.layer
  faults.arm(failAt)
  const change = graph.drained([top], () =>
    backingLink!.change({ filename: longName, format: 'qcow2' }, plainIo),
  )
  const failed = await change.then(
    () => false,
    (error) => {
      expect(error).toMatchObject({ code: 'IO', errno: 'EIO' })
      return true
    },
  )
  const { struck } = faults
  faults.disarm()
  expect(failed).toBe(struck)
  expect(backingLink?.recorded?.filename).toBe(failed ? 'base' : longName)
  // The guest goes on, with all that it had.
  await guest.write(65536, new Uint8Array(512).fill(2))
  await guest.flush()
  const found = new Uint8Array(512)
  await guest.read(0, found)
  expect(found).toEqual(new Uint8Array(512).fill(1))
  if (failed) {
    await graph.drained([top], () => backingLink!.change({ filename: 'other' }, plainIo))
    expect(backingLink?.recorded).toEqual({ filename: 'other', format: undefined })
  }
  const recorded = await recordedAnew(graph, guest, top.name)
  return { struck, recorded }
}

/** What somebody reads who opens the image afterwards. */
async function recordedAnew(
  graph: Graph,
  guest: { [Symbol.asyncDispose](): Promise<void> },
  name: string,
) {
  await guest[Symbol.asyncDispose]()
  await graph.remove(name)
  const file = `${name}-file`
  const again = await graph.open({ driver: 'qcow2', 'node-name': name, file, backing: null })
  const edge = attach(graph, again)
  const found = new Uint8Array(512)
  await edge.read(65536, found)
  expect(found).toEqual(new Uint8Array(512).fill(2))
  return again.layer.backingLink?.recorded?.filename
}

test('the operation fails with any of its requests, the guest goes on, and it works the next time', async () => {
  let failures = 0
  for (let failAt = 0; ; failAt++) {
    const { struck, recorded } = await changeWith(failAt)
    expect(recorded).toBe(struck ? 'other' : longName)
    if (!struck) break
    failures++
  }
  expect(failures).toBeGreaterThan(2)
})
