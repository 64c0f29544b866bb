import { expect, test } from 'vitest'
import { type Hold, RangeLock } from './range-lock.ts'

test('shared holders overlap, an exclusive one waits for all of them', async () => {
  const lock = new RangeLock()
  const first = lock.acquire(0, 10, false) as Hold
  const second = lock.acquire(5, 10, false) as Hold
  let granted = false
  const exclusive = (lock.acquire(8, 1, true) as Promise<Hold>).then((hold) => {
    granted = true
    return hold
  })

  lock.release(first)
  await Promise.resolve()
  expect(granted).toBe(false)
  lock.release(second)
  lock.release(await exclusive)
  expect(lock.held).toBe(0)
})

test('ranges that only touch do not conflict', () => {
  const lock = new RangeLock()
  lock.acquire(0, 10, true)
  expect(lock.acquire(10, 10, true)).not.toBeInstanceOf(Promise)
  expect(lock.blocks(5, 1)).toBe(true)
  expect(lock.blocks(20, 1)).toBe(false)
})

test('a later shared request does not overtake a waiting exclusive one', async () => {
  const lock = new RangeLock()
  const reader = lock.acquire(0, 10, false) as Hold
  const order: string[] = []
  const writer = (lock.acquire(0, 10, true) as Promise<Hold>).then((hold) => {
    order.push('writer')
    lock.release(hold)
  })
  const late = (lock.acquire(0, 10, false) as Promise<Hold>).then((hold) => {
    order.push('late')
    lock.release(hold)
  })
  lock.release(reader)
  await Promise.all([writer, late, lock.idle()])
  expect(order).toEqual(['writer', 'late'])
})

test('an aborted waiter leaves, and those behind it go on', async () => {
  const lock = new RangeLock()
  const reader = lock.acquire(0, 10, false) as Hold
  const abort = new AbortController()
  const writer = lock.acquire(0, 10, true, abort.signal) as Promise<Hold>
  const late = lock.acquire(0, 10, false) as Promise<Hold>
  abort.abort(new Error('enough'))
  await expect(writer).rejects.toThrow('enough')
  lock.release(await late)
  lock.release(reader)
  await lock.idle()
  expect(lock.blocks(0, 10)).toBe(false)
})
