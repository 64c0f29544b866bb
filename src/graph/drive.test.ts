import { expect, it } from 'vitest'
import { BlockError } from '../errors.ts'
import { Drive } from './drive.ts'
import type { Graph } from './graph.ts'
import type { BlockNode } from './node.ts'

it('lets go of a medium whose last request fails meanwhile', async () => {
  let fail = (_: Error) => {}
  let released = false
  const edge = {
    read: () =>
      new Promise<void>((_, reject) => {
        fail = reject
      }),
    [Symbol.asyncDispose]: async () => {
      released = true
    },
  }
  const graph = { attach: () => edge } as unknown as Graph
  const drive = new Drive(graph, { name: 'd0', removable: true, onReadError: 'stop' })
  await drive.insert({} as BlockNode)
  const read = drive.read(0, new Uint8Array(512))
  const ejected = drive.eject()
  await new Promise((resolve) => setImmediate(resolve))
  expect(released).toBe(false)
  fail(new BlockError('IO', 'gone', { errno: 'EIO' }))
  await expect(read).rejects.toMatchObject({ errno: 'EIO' })
  await ejected
  expect([released, drive.ioStatus]).toEqual([true, 'ok'])
})
