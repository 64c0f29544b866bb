import { expect, test } from 'vitest'
import { LeftOut } from './left-out.ts'

const K = 1024

test('neighbours are one run', () => {
  const leftOut = new LeftOut()
  leftOut.add(0, K)
  leftOut.add(K, K)
  leftOut.add(4 * K, K)
  expect(leftOut.take()).toEqual([
    { offset: 0, length: 2 * K },
    { offset: 4 * K, length: K },
  ])
  expect(leftOut.take()).toEqual([])
})

test('runs that come out of order find their place', () => {
  const leftOut = new LeftOut()
  for (const at of [8, 2, 5, 3, 4]) leftOut.add(at * K, K)
  expect(leftOut.take()).toEqual([
    { offset: 2 * K, length: 4 * K },
    { offset: 8 * K, length: K },
  ])
})

test('what is freed is forgotten', () => {
  const leftOut = new LeftOut()
  leftOut.add(0, 8 * K)
  leftOut.drop(2 * K, K)
  leftOut.drop(7 * K, 9 * K)
  leftOut.drop(64 * K, K)
  expect(leftOut.take()).toEqual([
    { offset: 0, length: 2 * K },
    { offset: 3 * K, length: 4 * K },
  ])
})

test('there is an end to what is remembered', () => {
  const leftOut = new LeftOut()
  for (let at = 0; at < 10_000; at++) leftOut.add(2 * at * K, K)
  expect(leftOut.count).toBe(4096)
})
