/**
 * The graph and the seam: permissions, drain, filters put in and taken out while requests run,
 * requests of any alignment on layers that have one, and nodes that go when nobody needs them.
 */
import { setImmediate } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { BlockDriver } from '../../src/block/driver.ts'
import { Filter } from '../../src/block/filter.ts'
import { everyPermission, type Permission, permissionSet } from '../../src/block/layer.ts'
import { drivers } from '../../src/drivers.ts'
import type { Edge } from '../../src/graph/edge.ts'
import { Graph } from '../../src/graph/graph.ts'
import type { BlockNode } from '../../src/graph/node.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { DemandingFilter, GatedLayer, SlowLayer } from '../support/layers.ts'
import { Random, seedNote } from '../support/random.ts'

const size = 256 * 1024
const writer: Permission[] = ['consistentRead', 'write', 'resize']

function newGraph(more: readonly BlockDriver[] = []): Graph {
  return new Graph({ drivers: [...drivers, ...more] })
}

function memory(graph: Graph, name = 'disk'): Promise<BlockNode> {
  return graph.open({ driver: 'memory', 'node-name': name, size }, { discard: 'unmap' })
}

function attach(graph: Graph, node: BlockNode, uses: Permission[] = writer): Edge {
  return graph.attach(node, { description: 'a test', uses })
}

/** A filter of a layer that `make` provides, on top of `node`. */
async function filterOn<L extends Filter>(
  graph: Graph,
  node: BlockNode,
  name: string,
  make: (next: ConstructorParameters<typeof Filter>[0]) => L,
) {
  return await graph.add('test-filter', { 'node-name': name }, async (context) =>
    make(await context.child('filtered', node.name)),
  )
}

/** Everything that can be seen of a graph's shape. */
function shapeOf(graph: Graph): unknown {
  return [...graph.nodes.values()].map((node) => ({
    name: node.name,
    children: [...node.children].map(([name, edge]) => [name, edge.node.name, [...edge.uses]]),
    parents: [...node.parents]
      .map((edge) => [edge.name, edge.owner?.name, ...edge.shares].join(' '))
      .sort(),
  }))
}

describe('permissions', () => {
  test('a user that shares no writing keeps writers away, and the graph stays as it was', async () => {
    await using graph = newGraph()
    const node = await memory(graph)
    graph.attach(node, {
      description: 'a careful reader',
      uses: ['consistentRead'],
      shares: ['consistentRead'],
    })
    const before = shapeOf(graph)
    expect(() => attach(graph, node)).toThrow(
      expect.objectContaining({
        code: 'PERMISSION',
        message: expect.stringContaining('unshared by a careful reader'),
      }),
    )
    expect(shapeOf(graph)).toEqual(before)
  })

  test('a format does not let others write below it', async () => {
    await using graph = newGraph()
    const file = await graph.open({ driver: 'memory', 'node-name': 'file', size })
    const qcow2 = drivers.find(({ name }) => name === 'qcow2')!.creator!
    await using edge = attach(graph, file)
    const { signal } = new AbortController()
    await qcow2.create(qcow2.parse({ size: 1024 * 1024 }), { file: edge, signal })
    await edge[Symbol.asyncDispose]()
    const image = await graph.open({ driver: 'qcow2', file: 'file', 'node-name': 'image' })
    attach(graph, image)
    expect(() => attach(graph, file)).toThrow(expect.objectContaining({ code: 'PERMISSION' }))
    expect(() => attach(graph, file, ['consistentRead'])).not.toThrow()
  })

  test('a read-only node takes no writers, and a reader cannot write', async () => {
    await using graph = newGraph()
    const node = await graph.open({ driver: 'memory', size, 'read-only': true })
    expect(() => attach(graph, node)).toThrow(expect.objectContaining({ code: 'READ_ONLY' }))
    const edge = attach(graph, await memory(graph), ['consistentRead'])
    expect(() => edge.write(0, new Uint8Array(1))).toThrow(
      expect.objectContaining({ code: 'PERMISSION' }),
    )
    expect(() => edge.truncate(0)).toThrow(expect.objectContaining({ code: 'PERMISSION' }))
    expect(() => edge.discard(0, 1)).toThrow(expect.objectContaining({ code: 'PERMISSION' }))
  })

  test('an edge that was let go can do nothing any more', async () => {
    await using graph = newGraph()
    const node = await memory(graph)
    const edge = attach(graph, node)
    await edge[Symbol.asyncDispose]()
    const closed = expect.objectContaining({ code: 'CLOSED' })
    expect(() => edge.read(0, new Uint8Array(1))).toThrow(closed)
    expect(() => edge.write(0, new Uint8Array(1))).toThrow(closed)
    expect(() => edge.flush()).toThrow(closed)
    expect(() => edge.extentAt(0, 1)).toThrow(closed)
  })
})

describe('drain', () => {
  test('waits for what is in flight and keeps new requests out until the change is done', async () => {
    await using graph = newGraph()
    const { node, layer } = await filterOn(
      graph,
      await memory(graph),
      'gated',
      (next) => new GatedLayer(next),
    )
    const edge = attach(graph, node)
    layer.close()
    const early = edge.write(0, new Uint8Array(512).fill(1)) as Promise<void>
    const seen: number[] = []
    const drained = graph.drained([node], async () => {
      seen.push(layer.inFlight)
      await setImmediate()
      seen.push(layer.inFlight)
    })
    const late = edge.read(0, new Uint8Array(512)) as Promise<void>
    await setImmediate()
    expect(layer.arrived).toEqual(['write'])
    layer.open()
    await drained
    expect(seen).toEqual([0, 0])
    await Promise.all([early, late])
    expect(layer.arrived).toEqual(['write', 'read'])
  })

  test('a user who comes while it lasts has to wait as well', async () => {
    await using graph = newGraph()
    const { node, layer } = await filterOn(
      graph,
      await memory(graph),
      'gated',
      (next) => new GatedLayer(next),
    )
    const late: Promise<unknown>[] = []
    await graph.drained([node], async () => {
      late.push(Promise.resolve(attach(graph, node).read(0, new Uint8Array(1))))
      await setImmediate()
      expect(layer.arrived).toEqual([])
    })
    await Promise.all(late)
    expect(layer.arrived).toEqual(['read'])
  })

  test('several at once all have to end before requests go on', async () => {
    await using graph = newGraph()
    const node = await memory(graph)
    const edge = attach(graph, node)
    let endFirst = () => {}
    const first = graph.drained([node], () => new Promise<void>((resolve) => (endFirst = resolve)))
    await setImmediate()
    await graph.drained([node], () => {})
    let done = false
    const write = Promise.resolve(edge.write(0, new Uint8Array(1))).then(() => (done = true))
    await setImmediate()
    expect(done).toBe(false)
    endFirst()
    await Promise.all([first, write])
    expect(done).toBe(true)
  })

  test('a change that fails lets requests go on', async () => {
    await using graph = newGraph()
    const node = await memory(graph)
    const edge = attach(graph, node)
    const change = () => {
      throw new Error('no')
    }
    await expect(graph.drained([node], change)).rejects.toThrow('no')
    await edge.write(0, new Uint8Array(1))
  })
})

describe('filters', () => {
  test(`come and go under a load that does not notice (${seedNote})`, async () => {
    await using graph = newGraph()
    const { node } = await filterOn(graph, await memory(graph), 'slow', (n) => new SlowLayer(n))
    const edge = attach(graph, node)
    const model = new Uint8Array(size)
    let stop = false
    const load = async (index: number) => {
      const random = new Random(new Random().below(2 ** 31) + index)
      const part = size / 8
      while (!stop) {
        const [start, length] = random.range(part, 1, 9000)
        const offset = index * part + start
        const source = random.bytes(length)
        await edge.write(offset, source)
        model.set(source, offset)
        const target = new Uint8Array(length)
        await edge.read(offset, target)
        if (Buffer.compare(target, source) !== 0) throw new Error(`${offset}+${length} differs`)
      }
    }
    const loads = Promise.all(Array.from({ length: 8 }, (_, index) => load(index)))
    for (let round = 0; round < 20; round++) {
      const filter = await filterOn(graph, node, `filter${round}`, (next) => new Filter(next))
      await graph.insertFilters([{ filter: filter.node, node }])
      expect(edge.node).toBe(filter.node)
      for (let turn = 0; turn < 5; turn++) await setImmediate()
      await graph.dropFilter(filter.node)
      expect(edge.node).toBe(node)
      expect(graph.nodes.has(`filter${round}`)).toBe(false)
    }
    stop = true
    await loads
    const all = new Uint8Array(size)
    await edge.read(0, all)
    expect(Buffer.compare(all, model)).toBe(0)
  })

  test(`of several operators at once do not get in each other's way (${seedNote})`, async () => {
    await using graph = newGraph()
    const { node } = await filterOn(graph, await memory(graph), 'slow', (n) => new SlowLayer(n))
    const edge = attach(graph, node)
    let stop = false
    const load = async () => {
      for (let round = 0; !stop; round++) {
        const source = new Uint8Array(3000).fill(round)
        await edge.write(1000, source)
        const target = new Uint8Array(3000)
        await edge.read(1000, target)
        if (Buffer.compare(source, target) !== 0) throw new Error(`round ${round} differs`)
      }
    }
    const loading = load()
    const seeds = new Random()
    const operators = Array.from({ length: 4 }, async (_, index) => {
      const random = new Random(seeds.below(2 ** 31))
      const pause = async () => {
        for (let turns = random.below(4); turns > 0; turns--) await setImmediate()
      }
      for (let round = 0; round < 15; round++) {
        const name = `filter-${index}-${round}`
        const filter = await filterOn(graph, node, name, (next) => new Filter(next))
        await graph.insertFilters([{ filter: filter.node, node }])
        await pause()
        const visitor = attach(graph, filter.node, ['consistentRead'])
        await visitor.read(1000, new Uint8Array(10))
        await pause()
        await graph.dropFilter(filter.node)
        await visitor.read(1000, new Uint8Array(10))
        await visitor[Symbol.asyncDispose]()
      }
    })
    await Promise.all(operators)
    stop = true
    await loading
    expect([...graph.nodes.keys()].sort()).toEqual(['disk', 'slow'])
    expect([...node.parents]).toEqual([edge])
  })

  test('two that stand on each other can be taken out at the same time', async () => {
    await using graph = newGraph()
    const node = await memory(graph)
    // How many turns of the microtask queue the second comes after the first.
    for (let turns = 0; turns < 12; turns++) {
      for (const upperFirst of [false, true]) {
        const lower = await filterOn(graph, node, 'lower', (next) => new Filter(next))
        const upper = await filterOn(graph, lower.node, 'upper', (next) => new Filter(next))
        const edge = attach(graph, upper.node)
        const [first, second] = upperFirst ? [upper, lower] : [lower, upper]
        const dropping = [graph.dropFilter(first.node)]
        for (let turn = 0; turn < turns; turn++) await Promise.resolve()
        dropping.push(graph.dropFilter(second.node))
        await Promise.all(dropping)
        expect(edge.node).toBe(node)
        await edge.write(0, Uint8Array.of(2))
        await edge[Symbol.asyncDispose]()
        expect([...graph.nodes.keys()]).toEqual(['disk'])
      }
    }
  })

  test('one that is refused leaves everything as it was', async () => {
    await using graph = newGraph()
    const node = await memory(graph)
    const edge = attach(graph, node)
    const idle = { uses: permissionSet(), shares: everyPermission }
    const { node: filter } = await filterOn(
      graph,
      node,
      'filter',
      (next) => new DemandingFilter(next, idle),
    )
    graph.attach(filter, { description: 'a hermit', uses: [], shares: ['consistentRead'] })
    const before = shapeOf(graph)
    await expect(graph.insertFilters([{ filter, node }])).rejects.toMatchObject({
      code: 'PERMISSION',
    })
    expect(shapeOf(graph)).toEqual(before)
    await edge.write(0, Uint8Array.of(7))
    const target = new Uint8Array(1)
    await edge.read(0, target)
    expect(target).toEqual(Uint8Array.of(7))
  })

  test('of several, one that is refused keeps the others out', async () => {
    await using graph = newGraph()
    const nodes = [await memory(graph, 'one'), await memory(graph, 'two')]
    const edges = nodes.map((node) => attach(graph, node))
    const one = await filterOn(graph, nodes[0], 'filter-one', (next) => new Filter(next))
    const idle = { uses: permissionSet(), shares: everyPermission }
    const two = await filterOn(
      graph,
      nodes[1],
      'filter-two',
      (next) => new DemandingFilter(next, idle),
    )
    graph.attach(two.node, { description: 'a hermit', uses: [], shares: ['consistentRead'] })
    const before = shapeOf(graph)
    const pairs = [
      { filter: one.node, node: nodes[0] },
      { filter: two.node, node: nodes[1] },
    ]
    await expect(graph.insertFilters(pairs)).rejects.toMatchObject({ code: 'PERMISSION' })
    expect(shapeOf(graph)).toEqual(before)
    expect(edges.map((edge) => edge.node)).toEqual(nodes)
  })

  test('a layer whose node conflicts with its users is closed', async () => {
    await using graph = newGraph()
    const node = await memory(graph)
    attach(graph, node)
    const alone = { uses: permissionSet('consistentRead'), shares: permissionSet('consistentRead') }
    let layer: DemandingFilter | undefined
    const adding = graph.add('test-filter', { 'node-name': 'alone' }, async (context) => {
      layer = new DemandingFilter(await context.child('filtered', 'disk'), alone)
      return layer
    })
    await expect(adding).rejects.toMatchObject({ code: 'PERMISSION' })
    expect(layer?.closed).toBe(true)
    expect([...graph.nodes.keys()]).toEqual(['disk'])
    expect(node.parents.size).toBe(1)
  })

  test('what a filter stands on by another way stays below it', async () => {
    await using graph = newGraph()
    const source = await memory(graph, 'source')
    const idle = { uses: permissionSet('consistentRead'), shares: everyPermission }
    const target = await filterOn(
      graph,
      source,
      'target',
      (next) => new DemandingFilter(next, idle),
    )
    const filter = await graph.add('test-filter', { 'node-name': 'filter' }, async (context) => {
      await context.child('target', 'target')
      return new Filter(await context.child('filtered', 'source'))
    })
    const edge = attach(graph, source)
    await graph.insertFilters([{ filter: filter.node, node: source }])
    expect(edge.node).toBe(filter.node)
    expect(target.node.children.get('file')?.node).toBe(source)
    await edge.write(0, Uint8Array.of(1))
    await graph.dropFilter(filter.node)
    expect(edge.node).toBe(source)
  })

  test('a user who leaves or comes while one is taken out is treated like any other', async () => {
    await using graph = newGraph()
    const { node, layer } = await filterOn(
      graph,
      await memory(graph),
      'gated',
      (next) => new GatedLayer(next),
    )
    const { node: filter } = await filterOn(graph, node, 'filter', (next) => new Filter(next))
    const [staying, leaving] = [attach(graph, filter), attach(graph, filter)]
    layer.close()
    const request = staying.write(0, Uint8Array.of(1)) as Promise<void>
    const dropping = graph.dropFilter(filter)
    await leaving[Symbol.asyncDispose]()
    const coming = attach(graph, filter)
    layer.open()
    await Promise.all([dropping, request])
    expect(new Set(node.parents)).toEqual(new Set([staying, coming]))
    await coming.read(0, new Uint8Array(1))
  })
})

describe('the seam', () => {
  const alignments = [512, 4096]
  for (const alignment of alignments) {
    for (const maxTransfer of [alignment, 64 * 1024]) {
      const title = `alignment ${alignment}, transfers up to ${maxTransfer}`

      test(`${title}: any request comes to what a plain array has (${seedNote})`, async () => {
        await using graph = newGraph()
        const edge = await alignedDisk(graph, alignment, maxTransfer)
        const random = new Random()
        const model = new Uint8Array(size)
        for (let round = 0; round < 150; round++) {
          await randomRequest(edge, model, random, 0, size)
        }
        await expectContent(edge, model)
      })

      test(`${title}: neighbours do not disturb each other (${seedNote})`, async () => {
        await using graph = newGraph()
        const edge = await alignedDisk(graph, alignment, maxTransfer)
        const model = new Uint8Array(size)
        // Borders that lie inside blocks: every block belongs to several of these users.
        const borders = Array.from({ length: 17 }, (_, at) => Math.min(size, at * 1000 + (at % 3)))
        const seeds = new Random()
        const users = borders.slice(1).map(async (end, index) => {
          const random = new Random(seeds.below(2 ** 31))
          for (let round = 0; round < 40; round++) {
            await randomRequest(edge, model, random, borders[index], end)
          }
        })
        await Promise.all(users)
        await expectContent(edge, model)
      })
    }
  }

  test('a range outside the disk is refused before anything is done', async () => {
    await using graph = newGraph()
    const edge = attach(graph, await memory(graph))
    const bytes = new Uint8Array(2)
    const outside = expect.objectContaining({ code: 'OUT_OF_RANGE', offset: size - 1 })
    expect(() => edge.read(size - 1, bytes)).toThrow(outside)
    expect(() => edge.write(size - 1, bytes)).toThrow(outside)
    expect(() => edge.writeZeroes(size - 1, 2)).toThrow(outside)
    expect(() => edge.discard(size - 1, 2)).toThrow(outside)
    for (const offset of [-1, 0.5, Number.NaN, 2 ** 53]) {
      expect(() => edge.read(offset, bytes)).toThrow(
        expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
      )
    }
  })

  test('zeroes that cannot all be made the fast way are not made at all', async () => {
    await using graph = newGraph()
    const edge = await alignedDisk(graph, 4096, 64 * 1024)
    const model = new Uint8Array(size).fill(9)
    await edge.write(0, model)
    const slow = { fastOnly: true }
    for (const [offset, length] of [
      [0, 8192 + 1],
      [1, 8192],
      [4096, 100],
    ]) {
      const zeroing = async () => await edge.writeZeroes(offset, length, slow)
      await expect(zeroing()).rejects.toMatchObject({ code: 'UNSUPPORTED', offset })
    }
    await expectContent(edge, model)
  })

  test('a flush reaches the layer for a write that ended after the flush before', async () => {
    await using graph = newGraph()
    const { node, layer } = await filterOn(
      graph,
      await memory(graph),
      'gated',
      (next) => new GatedLayer(next),
    )
    const edge = attach(graph, node)
    await edge.write(512, new Uint8Array(1))
    layer.close()
    const write = edge.write(0, new Uint8Array(1)) as Promise<void>
    await edge.flush()
    layer.open()
    await write
    await edge.flush()
    expect(layer.arrived.filter((name) => name === 'flush')).toHaveLength(2)
    await edge.flush()
    expect(layer.arrived.filter((name) => name === 'flush')).toHaveLength(2)
  })
})

test('compressed writes are flushed, counted and drained like others', async () => {
  await using graph = newGraph()
  const file = await memory(graph, 'file')
  const qcow2 = drivers.find(({ name }) => name === 'qcow2')!.creator!
  const { signal } = new AbortController()
  const edge = attach(graph, file)
  await qcow2.create(qcow2.parse({ size: 1024 * 1024 }), { file: edge, signal })
  await edge.flush()
  await edge[Symbol.asyncDispose]()
  const image = await graph.open({ driver: 'qcow2', file: 'file' })
  const user = attach(graph, image)
  const flushed = file.statistics.flush.operations
  const held: (Promise<void> | void)[] = []
  const unit = user.compressed!.unit
  await graph.drained([image], async () => {
    const io = { signal, fua: false, unchanged: false }
    held.push(user.compressed!.write(0, new Uint8Array(unit).fill(1), io))
    await setImmediate()
    expect(image.statistics.write.operations).toBe(0)
  })
  await Promise.all(held)
  expect(image.statistics.write).toMatchObject({ operations: 1, bytes: unit })
  await user.flush()
  expect(file.statistics.flush.operations).toBeGreaterThan(flushed)
  const outside = expect.objectContaining({ code: 'OUT_OF_RANGE' })
  const io = { signal, fua: false, unchanged: false }
  expect(() => user.compressed!.write(1024 * 1024, new Uint8Array(unit), io)).toThrow(outside)
})

describe('nodes', () => {
  test('are closed with the last who needs them, unless they were opened by name', async () => {
    await using graph = newGraph()
    const top = await graph.open({
      driver: 'raw',
      'node-name': 'top',
      file: { driver: 'memory', size, 'node-name': 'below' },
    })
    expect([...graph.nodes.keys()].sort()).toEqual(['below', 'top'])
    const edge = attach(graph, top)
    await expect(graph.remove('top')).rejects.toMatchObject({ code: 'BUSY' })
    await expect(graph.remove('below')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await edge[Symbol.asyncDispose]()
    expect(graph.nodes.size).toBe(2)
    await graph.remove('top')
    expect(graph.nodes.size).toBe(0)
  })

  test('keep a child that somebody else uses', async () => {
    await using graph = newGraph()
    const below = await memory(graph, 'below')
    await graph.open({ driver: 'raw', 'node-name': 'top', file: 'below' })
    await graph.remove('top')
    expect([...graph.nodes.keys()]).toEqual(['below'])
    expect(below.parents.size).toBe(0)
  })

  test('leave nothing behind when opening fails', async () => {
    await using graph = newGraph()
    const file = { driver: 'memory', size, 'node-name': 'below' }
    const opening = graph.open({ driver: 'qcow2', 'node-name': 'top', file })
    await expect(opening).rejects.toMatchObject({ code: 'NOT_RECOGNISED' })
    expect(graph.nodes.size).toBe(0)
    await memory(graph, 'top')
    await memory(graph, 'below')
  })

  test('take no users any more once they are closed', async () => {
    await using graph = newGraph()
    const node = await memory(graph)
    await graph.remove('disk')
    expect(() => attach(graph, node)).toThrow(expect.objectContaining({ code: 'CLOSED' }))
    expect(node.parents.size).toBe(0)
  })

  test('have one name each, also while one is being opened', async () => {
    let go = () => {}
    const waiting = new Promise<void>((resolve) => {
      go = resolve
    })
    const slow: BlockDriver = {
      name: 'slow',
      kind: 'protocol',
      parse: () => undefined,
      open: async () => {
        await waiting
        return new MemoryLayer({ size })
      },
    }
    await using graph = newGraph([slow])
    const first = graph.open({ driver: 'slow', 'node-name': 'disk' })
    const duplicate = { code: 'INVALID_ARGUMENT', message: expect.stringContaining("'disk'") }
    await expect(memory(graph, 'disk')).rejects.toMatchObject(duplicate)
    go()
    await first
    await expect(memory(graph, 'disk')).rejects.toMatchObject(duplicate)
    await graph.remove('disk')
    await memory(graph, 'disk')
  })

  test.each(['#block000', '1x', 'a b', '', 'x'.repeat(32)])('cannot be called %j', async (name) => {
    await using graph = newGraph()
    await expect(memory(graph, name)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  test('cannot stand on themselves', async () => {
    await using graph = newGraph()
    const opening = graph.open({ driver: 'raw', 'node-name': 'loop', file: 'loop' })
    await expect(opening).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(graph.nodes.size).toBe(0)
  })

  test('are all closed with the graph, users first, whatever fails', async () => {
    const order: string[] = []
    class Last extends Filter {
      readonly #name: string

      constructor(next: ConstructorParameters<typeof Filter>[0], name: string) {
        super(next)
        this.#name = name
      }

      override async [Symbol.asyncDispose](): Promise<void> {
        order.push(this.#name)
        throw new Error(this.#name)
      }
    }
    const graph = newGraph()
    const base = await memory(graph)
    const lower = await filterOn(graph, base, 'lower', (next) => new Last(next, 'lower'))
    const upper = await filterOn(graph, lower.node, 'upper', (next) => new Last(next, 'upper'))
    attach(graph, upper.node)
    await expect(graph[Symbol.asyncDispose]()).rejects.toThrow('upper')
    expect(order).toEqual(['upper', 'lower'])
    expect(graph.nodes.size).toBe(0)
  })
})

async function alignedDisk(graph: Graph, alignment: number, maxTransfer: number): Promise<Edge> {
  const disk = await graph.open({ driver: 'memory', size, 'node-name': 'disk' })
  const limits = { alignment, zeroAlignment: alignment, discardAlignment: alignment, maxTransfer }
  const slow = await filterOn(graph, disk, 'slow', (next) => new SlowLayer(next, limits))
  return attach(graph, slow.node)
}

/** One request inside [`start`, `end`), on the disk and on the model; reads are compared. */
async function randomRequest(
  edge: Edge,
  model: Uint8Array,
  random: Random,
  start: number,
  end: number,
): Promise<void> {
  const [at, length] = random.range(end - start, 1, 20_000)
  const offset = start + at
  const kind = random.pick(['read', 'write', 'write', 'zero'])
  if (kind === 'write') {
    const source = random.bytes(length)
    await edge.write(offset, source, { fua: random.chance(0.2) })
    model.set(source, offset)
  } else if (kind === 'zero') {
    await edge.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) })
    model.fill(0, offset, offset + length)
  } else {
    const target = new Uint8Array(length)
    await edge.read(offset, target)
    const expected = model.subarray(offset, offset + length)
    if (Buffer.compare(target, expected) !== 0) throw new Error(`${offset}+${length} differs`)
  }
}

async function expectContent(edge: Edge, model: Uint8Array): Promise<void> {
  const all = new Uint8Array(model.length)
  await edge.read(0, all)
  expect(Buffer.compare(all, model)).toBe(0)
}
