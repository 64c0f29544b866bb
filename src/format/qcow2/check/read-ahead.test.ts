import { setImmediate as turn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { ReadAhead } from './read-ahead.ts'

const length = 512
const offsets = Array.from({ length: 40 }, (_, index) => index * 7 * length)

/** Each table is full of a number of its own; the storage has at most `peak` reads at a time. */
class Storage {
  peak = 0
  inFlight = 0
  reads = 0
  readonly #slow: boolean
  readonly #broken: number

  constructor(slow: boolean, broken = -1) {
    this.#slow = slow
    this.#broken = broken
  }

  read(offset: number, target: Uint8Array): void | Promise<void> {
    this.reads++
    if (offset === this.#broken) throw new Error(`no table at ${offset}`)
    target.fill(1 + offsets.indexOf(offset))
    if (this.#slow) return this.#wait()
  }

  async #wait(): Promise<void> {
    this.peak = Math.max(this.peak, ++this.inFlight)
    await turn()
    this.inFlight--
  }
}

async function readAll(storage: Storage): Promise<void> {
  const tables = new ReadAhead(storage, offsets)
  const target = new Uint8Array(length)
  for (const [index, offset] of offsets.entries()) {
    target.fill(0)
    await tables.read(offset, target)
    expect(target.every((byte) => byte === index + 1)).toBe(true)
  }
}

test('what comes at once is not read early', async () => {
  const storage = new Storage(false)
  await readAll(storage)
  expect(storage.reads).toBe(offsets.length)
})

test('storage that has to be waited for gets several requests at a time, each once', async () => {
  const storage = new Storage(true)
  await readAll(storage)
  expect(storage.reads).toBe(offsets.length)
  expect(storage.peak).toBe(9)
})

test('a table that cannot be read fails when it is wanted', async () => {
  const storage = new Storage(true, offsets[5])
  const tables = new ReadAhead(storage, offsets)
  const target = new Uint8Array(length)
  for (const offset of offsets.slice(0, 5)) await tables.read(offset, target)
  await expect(tables.read(offsets[5], target)).rejects.toThrow(`no table at ${offsets[5]}`)
  await tables.read(offsets[6], target)
  expect(target[0]).toBe(7)
})
