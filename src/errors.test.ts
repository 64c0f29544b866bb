import { expect, test } from 'vitest'
import { BlockError, firstFailure } from './errors.ts'

test('the first of several failures is found', async () => {
  const work = new BlockError('NO_SPACE', 'the write failed')
  const closing = (text: string) => ({
    [Symbol.asyncDispose]: async () => {
      throw new Error(text)
    },
  })
  const failing = async () => {
    await using _outer = closing('outer')
    await using _inner = closing('inner')
    throw work
  }
  const thrown = await failing().catch((error: unknown) => error)
  expect(thrown).not.toBe(work)
  expect(firstFailure(thrown)).toBe(work)
  expect(firstFailure(work)).toBe(work)
  expect(firstFailure(undefined)).toBe(undefined)
})
