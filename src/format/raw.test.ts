import { expect, test } from 'vitest'
import { drivers } from '../drivers.ts'
import { Graph } from '../graph/graph.ts'

const text = (words: string) => Buffer.from(words, 'latin1')

async function guessedDisk() {
  const graph = new Graph({ drivers, onProbedRaw: () => {} })
  await graph.open({ driver: 'memory', 'node-name': 'storage', size: 65536 })
  const node = await graph.open({ file: 'storage' })
  const edge = graph.attach(node, { description: 'a test', uses: ['consistentRead', 'write'] })
  return { graph, node, edge }
}

test('a disk of which raw was only guessed cannot be made to look like another format', async () => {
  const { edge, node } = await guessedDisk()
  expect(node.driver).toBe('raw')
  const refused = expect.objectContaining({ code: 'PERMISSION' })
  await expect(edge.write(0, text('QFI\xfb\0\0\0\x03'))).rejects.toEqual(refused)
  await edge.write(0, text('KD'))
  await expect(edge.write(2, text('MV'))).rejects.toEqual(refused)

  await edge.write(2, text('harmless'))
  await edge.write(4096, text('KDMV'))
  const head = new Uint8Array(10)
  await edge.read(0, head)
  expect(Buffer.from(head)).toEqual(text('KDharmless'))
})

test('an image of a format that cannot be opened yet is refused by name, not read as raw', async () => {
  const graph = new Graph({ drivers })
  const storage = await graph.open({ driver: 'memory', 'node-name': 'storage', size: 65536 })
  const edge = graph.attach(storage, { description: 'a test', uses: ['write'] })
  await edge.write(0, text('vhdxfile'))
  await expect(graph.open({ file: 'storage', 'read-only': true })).rejects.toMatchObject({
    code: 'UNSUPPORTED',
    message: expect.stringContaining('vhdx'),
  })
})

test('a window shows a part of the file, and does not reach out of it', async () => {
  const graph = new Graph({ drivers })
  const storage = await graph.open({ driver: 'memory', 'node-name': 'storage', size: 65536 })
  const window = { driver: 'raw', file: 'storage', offset: 4096, size: 8192 }
  const node = await graph.open(window)
  const edge = graph.attach(node, { description: 'a test', uses: ['consistentRead', 'write'] })
  await edge.write(0, text('here'))
  expect(node.size).toBe(8192)
  expect(() => edge.write(8190, text('here'))).toThrow(
    expect.objectContaining({ code: 'OUT_OF_RANGE' }),
  )
  const bytes = Buffer.alloc(4)
  await storage.read(4096, bytes)
  expect(bytes).toEqual(text('here'))
  await expect(graph.open({ ...window, offset: 60000 })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  })
})
