import { closeSync, readSync, writeSync } from 'node:fs'
import { expect, it } from 'vitest'
import { sys } from '../sys/current.ts'
import { DescriptorWatch } from './descriptor-watch.ts'

const one = new Uint8Array(new BigUint64Array([1n]).buffer)

it.skipIf(!sys().supported.fuse)('tells of each descriptor, until it is withdrawn', async () => {
  const watch = new DescriptorWatch(sys())
  const told: string[] = []
  let heard = () => {}
  const events = ['a', 'b'].map((name) => {
    const fd = sys().eventDescriptor()
    watch.add(fd, () => {
      readSync(fd, new Uint8Array(8))
      told.push(name)
      heard()
    })
    return fd
  })
  const next = () => new Promise<void>((resolve) => (heard = resolve))
  for (const index of [1, 0, 0]) {
    const hearing = next()
    writeSync(events[index], one)
    await hearing
  }
  expect(told).toEqual(['b', 'a', 'a'])
  watch.delete(events[0])
  writeSync(events[0], one)
  const hearing = next()
  writeSync(events[1], one)
  await hearing
  watch.delete(events[1])
  expect(told).toEqual(['b', 'a', 'a', 'b'])
  for (const fd of events) closeSync(fd)
})
