/** Jobs that are begun while a node that they use is drained, or is being made read-only. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { JobGround } from '../../src/job/ground.ts'
import { JobTable } from '../../src/job/job-table.ts'
import { attach, memory, newGraph } from '../support/small-graph.ts'

it('a job that is made in the middle of a drain waits for its end', async () => {
  await using graph = newGraph()
  const node = await memory(graph)
  const jobs = new JobTable()
  const order: string[] = []
  let end = () => {}
  const drained = graph.drained([node], () => new Promise<void>((resolve) => (end = resolve)))
  await nextTurn()
  const ground = new JobGround(graph, 'j', 'stream')
  ground.use(node, ['consistentRead'])
  const job = jobs.start(
    { id: 'j', type: 'stream' },
    {
      async run(control) {
        await control.during(async () => {
          order.push('works')
        })
      },
      complete: () => ground.release(),
      abort: () => ground.release(),
    },
  )
  ground.job = job
  for (let turn = 0; turn < 5; turn++) await nextTurn()
  order.push('drained')
  end()
  await drained
  await job.done
  expect(order).toEqual(['drained', 'works'])
})

it('a node stays writable when a writer comes while its layer is made read-only', async () => {
  await using graph = newGraph()
  const node = await memory(graph)
  let switched: boolean[] = []
  let meanwhile = () => {}
  node.layer.setReadOnly = async (readOnly) => {
    switched.push(readOnly)
    if (readOnly) meanwhile()
    await nextTurn()
  }
  await graph.setReadOnly(node, true)
  await graph.setReadOnly(node, false)
  expect(switched).toEqual([true, false])
  switched = []
  meanwhile = () => void attach(graph, node)
  await expect(graph.setReadOnly(node, true)).rejects.toMatchObject({ code: 'READ_ONLY' })
  expect(switched).toEqual([true, false])
  expect(node.readOnly).toBe(false)
})
