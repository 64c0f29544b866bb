/** Changes of the graph's shape by jobs and commands: whole, or not at all. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Filter } from '../../src/block/filter.ts'
import { drivers } from '../../src/drivers.ts'
import { edgesBetween, freezeChain, imagesOf } from '../../src/graph/chain.ts'
import { Graph } from '../../src/graph/graph.ts'
import { scratchFolder } from '../support/folder.ts'
import { attach, contentOf, memoryImage, write } from '../support/image-chain.ts'

const size = 4 * 1024 * 1024

async function chain() {
  const graph = new Graph({ drivers })
  const base = await memoryImage(graph, 'base', { size })
  await write(graph, base, 0, new Uint8Array(1000).fill(1))
  const mid = await memoryImage(graph, 'mid', { size, backing: base })
  await write(graph, mid, 65536, new Uint8Array(1000).fill(2))
  const top = await memoryImage(graph, 'top', { size, backing: mid })
  return { graph, base, mid, top }
}

describe('the backing file of a node', () => {
  test('can be another one, none, and again one', async () => {
    const { graph, base, mid, top } = await chain()
    const guest = attach(graph, top)
    await graph.setBacking(top, base)
    const through = await contentOf(graph, top)
    expect([through[0], through[65536]]).toEqual([1, 0])
    await graph.setBacking(top, undefined)
    expect((await contentOf(graph, top)).equals(Buffer.alloc(size))).toBe(true)
    expect(base.parents.size).toBe(1)
    await graph.setBacking(top, mid)
    const again = await contentOf(graph, top)
    expect([again[0], again[65536]]).toEqual([1, 2])
    await guest.write(0, new Uint8Array(1).fill(9))
    expect((await contentOf(graph, mid))[0]).toBe(1)
    await graph[Symbol.asyncDispose]()
  })

  test('is closed when nobody else keeps it', async () => {
    const { graph, mid, top } = await chain()
    graph.disown(mid)
    await graph.setBacking(top, undefined)
    expect([...graph.nodes.keys()].sort()).toEqual([
      'base',
      'base-file',
      'mid-file',
      'top',
      'top-file',
    ])
    await graph[Symbol.asyncDispose]()
  })

  test('a refusal leaves it where it was', async () => {
    const { graph, base, mid, top } = await chain()
    // Somebody writes to base and bears it; a guest of top that shares no writing would not.
    attach(graph, top, ['consistentRead'])
    const other = await memoryImage(graph, 'other', { size })
    const writer = graph.attach(other, { description: 'a writer', uses: ['write'] })
    graph.attach(top, {
      description: 'a strict guest',
      uses: ['consistentRead'],
      shares: ['consistentRead'],
    })
    await expect(graph.setBacking(top, other)).rejects.toMatchObject({ code: 'PERMISSION' })
    expect(imagesOf(top)).toEqual([top, mid, base])
    expect([...other.parents]).toEqual([writer])
    await expect(graph.setBacking(base, top)).rejects.toMatchObject({
      message: "Making 'top' a backing child of 'base' would create a cycle",
    })
    await expect(graph.setBacking(other.children.get('file')!.node, top)).rejects.toMatchObject({
      code: 'UNSUPPORTED',
    })
    expect((await contentOf(graph, top))[65536]).toBe(2)
    await graph[Symbol.asyncDispose]()
  })

  test('stays while a job has frozen the chain, filters included', async () => {
    const { graph, base, mid, top } = await chain()
    const { node: filter } = await graph.add(
      'a-filter',
      {},
      async (context) => new Filter(await context.child('filtered', 'mid')),
    )
    await graph.insertFilters([{ filter, node: mid }])
    expect(edgesBetween(top, base).map(({ node }) => node)).toEqual([filter, mid, base])
    const thaw = freezeChain(top, base, 'in use by block job: stream')
    await expect(graph.setBacking(top, base)).rejects.toMatchObject({
      code: 'BUSY',
      message: `Cannot change frozen 'backing' link from 'top' to '${filter.name}'`,
    })
    await expect(graph.dropFilter(filter)).rejects.toMatchObject({ code: 'BUSY' })
    expect(() => freezeChain(mid, undefined, 'another')).toThrow(
      "Cannot freeze 'backing' link to 'base'",
    )
    thaw()
    await graph.setBacking(top, base)
    await graph[Symbol.asyncDispose]()
  })
})

test('all users of a node move to another in one moment, or none', async () => {
  const { graph, base, mid, top } = await chain()
  const guests = [attach(graph, top), attach(graph, top)]
  const strict = graph.attach(base, {
    description: 'strict',
    uses: ['consistentRead'],
    shares: ['consistentRead', 'writeUnchanged'],
  })
  await expect(graph.replace(top, base)).rejects.toMatchObject({ code: 'PERMISSION' })
  expect(guests.map(({ node }) => node)).toEqual([top, top])
  await strict[Symbol.asyncDispose]()
  await expect(graph.replace(mid, top)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  await graph.replace(mid, base)
  expect(imagesOf(top)).toEqual([top, base])
  await graph[Symbol.asyncDispose]()
})

test('a filter that a job works on is not taken out from under it', async () => {
  const { graph, mid } = await chain()
  const { node: filter } = await graph.add(
    'a-filter',
    { 'node-name': 'f' },
    async (context) => new Filter(await context.child('filtered', 'mid')),
  )
  await graph.insertFilters([{ filter, node: mid }])
  const job = graph.attach(filter, { description: "mirror job 'j'", uses: [], stays: true })
  await expect(graph.dropFilter(filter)).rejects.toMatchObject({
    code: 'BUSY',
    message: "Node 'f' is busy: mirror job 'j' uses it",
  })
  expect(job.node).toBe(filter)
  await job[Symbol.asyncDispose]()
  await graph.dropFilter(filter)
  await graph[Symbol.asyncDispose]()
})

test('a node that a job works with refuses other operations with the reason', async () => {
  const { graph, mid } = await chain()
  const unblock = mid.blockers.add('block device is in use by block job: stream', ['resize'])
  expect(() => mid.blockers.check('stream')).toThrow(
    "Node 'mid' is busy: block device is in use by block job: stream",
  )
  expect(() => mid.blockers.check('resize')).not.toThrow()
  unblock()
  expect(() => mid.blockers.check('stream')).not.toThrow()
  await graph[Symbol.asyncDispose]()
})

describe('switching between read-only and writable', () => {
  const folder = scratchFolder('access')

  async function onFile(name: string) {
    const path = join(folder, name)
    writeFileSync(path, '')
    const { creator } = drivers.find((each) => each.name === 'qcow2')!
    await using graph = new Graph({ drivers })
    const file = await graph.open({ driver: 'file', filename: path })
    await using edge = attach(graph, file)
    await creator!.create(creator!.parse({ size }), {
      file: edge,
      signal: new AbortController().signal,
    })
    return path
  }

  const open = (graph: Graph, path: string, readOnly: boolean) =>
    graph.open({
      driver: 'qcow2',
      'node-name': 'image',
      'read-only': readOnly,
      file: { driver: 'file', filename: path },
    })

  test('an image and its file, with what was written read again afterwards', async () => {
    const path = await onFile('a.qcow2')
    await using graph = new Graph({ drivers })
    const image = await open(graph, path, true)
    expect(() => attach(graph, image)).toThrow(expect.objectContaining({ code: 'READ_ONLY' }))
    await graph.setReadOnly(image, false)
    const guest = attach(graph, image)
    await guest.write(100_000, new Uint8Array(5000).fill(7))
    await expect(graph.setReadOnly(image, true)).rejects.toMatchObject({ code: 'READ_ONLY' })
    await guest[Symbol.asyncDispose]()
    await graph.setReadOnly(image, true)
    expect(image.children.get('file')!.node.readOnly).toBe(true)

    await using second = new Graph({ drivers })
    const other = await open(second, path, true)
    expect((await contentOf(second, other))[104_999]).toBe(7)
    await graph.setReadOnly(image, true)
  })

  test('another reader of the file, in whatever process, forbids it', async () => {
    const path = await onFile('b.qcow2')
    await using graph = new Graph({ drivers })
    const image = await open(graph, path, true)
    const second = new Graph({ drivers })
    attach(second, await open(second, path, true), ['consistentRead'])
    await expect(graph.setReadOnly(image, false)).rejects.toMatchObject({ code: 'BUSY' })
    expect(image.readOnly).toBe(true)
    expect(image.children.get('file')!.node.readOnly).toBe(true)
    await second[Symbol.asyncDispose]()
    await graph.setReadOnly(image, false)
    expect(image.readOnly).toBe(false)
  })
})
