/** Filters that are put in and taken out while requests run. */
import { setImmediate } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { Filter } from '../../src/block/filter.ts'
import { everyPermission, permissionSet } from '../../src/block/permission.ts'
import { DemandingFilter, GatedLayer, SlowLayer } from '../support/layers.ts'
import { Random, seedNote } from '../support/random.ts'
import { attach, filterOn, memory, newGraph, shapeOf, size } from '../support/small-graph.ts'

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
