import { setImmediate } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { WriteQueue } from './write-queue.ts'

it('lets two write at a time, and those pass that somebody waits for', async () => {
  const queue = new WriteQueue()
  const order: string[] = []
  let busy = 0
  const write = (name: string, background: boolean) =>
    queue.pass(background, async () => {
      order.push(name)
      expect(++busy).toBeLessThanOrEqual(2)
      await setImmediate()
      busy--
      if (name === 'fails') throw new Error('no')
    })
  const first = ['a', 'b', 'c', 'd'].map((name) => write(name, true))
  const failing = expect(write('fails', false)).rejects.toThrow('no')
  const urgent = write('urgent', false)
  await Promise.all([...first, failing, urgent])
  expect(order).toEqual(['a', 'b', 'fails', 'urgent', 'c', 'd'])
  await write('later', true)
})

it('does not forget the others over them', async () => {
  const queue = new WriteQueue()
  const order: string[] = []
  const write = (name: string, background: boolean) =>
    queue.pass(background, async () => {
      order.push(name)
      await setImmediate()
    })
  const guests = Array.from({ length: 20 }, () => write('guest', false))
  await Promise.all([...guests, write('job', true)])
  expect(order.length).toBe(21)
  expect(order.indexOf('job')).toBeLessThan(12)
})
