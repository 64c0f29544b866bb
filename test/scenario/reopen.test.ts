/** Changing open nodes under a guest: nothing is lost, and a refusal leaves everything as it was. */
import { expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { createImage } from '../../src/create-image.ts'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import { scratchFolder } from '../support/folder.ts'

const folder = scratchFolder('reopen')

async function image(graph: Graph, name: string) {
  const filename = `${folder}/${name}.qcow2`
  await createImage(graph, { filename, format: 'qcow2', options: { size: 4 * MiB } })
  return { driver: 'qcow2', 'node-name': name, file: { driver: 'file', filename } }
}

it('keeps what a guest writes while the options change', async () => {
  await using graph = new Graph({ drivers })
  const options = await image(graph, 'guest')
  const node = await graph.open(options)
  const edge = graph.attach(node, { description: 'a guest', uses: ['consistentRead', 'write'] })
  const expected = new Uint8Array(4 * MiB)
  const variants = [
    { 'l2-cache-size': 128 * 1024 },
    { 'lazy-refcounts': true },
    { cache: { direct: true } },
    { cache: { direct: true, 'no-flush': true }, 'l2-cache-size': 64 * 1024 },
    { 'overlap-check': 'all' },
    { discard: 'unmap', 'cache-clean-interval': 1 },
    {},
  ]
  for (let round = 0; round < 40; round++) {
    const offset = (round * 37 * 4096) % (4 * MiB - 8192)
    const data = new Uint8Array(5000).fill(round + 1)
    expected.set(data, offset)
    const writing = edge.write(offset, data)
    await graph.reopen([{ ...options, ...variants[round % variants.length] }])
    await writing
  }
  const found = new Uint8Array(4 * MiB)
  await edge.read(0, found)
  expect(Buffer.compare(found, expected)).toBe(0)
  await edge.flush()
  const result = await node.layer.check?.run({
    repair: 'none',
    signal: new AbortController().signal,
  })
  expect(result).toMatchObject({ corruptions: 0, leaks: 0 })
  await edge[Symbol.asyncDispose]()
})

it('changes nothing when one of several nodes refuses', async () => {
  await using graph = new Graph({ drivers })
  const [first, second] = [await image(graph, 'first'), await image(graph, 'second')]
  const nodes = [await graph.open(first), await graph.open(second)]
  // A writer keeps the second node from becoming read-only.
  const writer = graph.attach(nodes[1], { description: 'a guest', uses: ['write'] })
  await expect(
    graph.reopen([
      { ...first, 'read-only': true, discard: 'unmap', 'lazy-refcounts': true },
      { ...second, 'read-only': true },
    ]),
  ).rejects.toMatchObject({ code: expect.stringMatching(/PERMISSION|READ_ONLY/) })
  expect(nodes[0].readOnly).toBe(false)
  expect(nodes[0].discardMode).toBe('ignore')
  await nodes[0].write(0, new Uint8Array(512).fill(7))
  await writer.write(0, new Uint8Array(512).fill(8))
  await writer[Symbol.asyncDispose]()
})

it('accepts an empty list', async () => {
  await using graph = new Graph({ drivers })
  await graph.reopen([])
  expect(graph.nodes.size).toBe(0)
})
