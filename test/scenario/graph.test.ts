/** The graph: permissions, drain, and nodes that go when nobody needs them. */
import { setImmediate } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { BlockDriver } from '../../src/block/driver.ts'
import { Filter } from '../../src/block/filter.ts'
import { drivers } from '../../src/drivers.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { GatedLayer } from '../support/layers.ts'
import { attach, filterOn, memory, newGraph, shapeOf, size } from '../support/small-graph.ts'

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
