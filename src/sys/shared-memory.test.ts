import { closeSync, ftruncateSync, openSync, readSync, unlinkSync, writeSync } from 'node:fs'
import { afterAll, describe, expect, it } from 'vitest'
import { sys } from './current.ts'
import { nothingYet, type SharedMemorySys } from './shared-memory.ts'

const page = 65_536
const path = `/dev/shm/varve-${process.pid}`

describe.skipIf(!sys().sharedMemory)('shared memory', () => {
  const shared = sys().sharedMemory as SharedMemorySys
  const fd = sys().sharedMemory ? openSync(path, 'w+') : -1
  if (fd >= 0) unlinkSync(path)
  afterAll(() => closeSync(fd))

  it('is copied in pieces, and says so when it is gone', () => {
    ftruncateSync(fd, 2 * page)
    const address = shared.map(fd, 0, 2 * page)
    const list = shared.copyList()
    const ours = new Uint8Array(new ArrayBuffer(4096)).fill(7)
    const at = shared.addressOf(ours)
    list.add(at, address + 100, 10)
    list.add(at + 10, address + page, 20)
    expect(list.write()).toBe(true)
    const found = new Uint8Array(2 * page)
    readSync(fd, found, 0, found.length, 0)
    expect([found[99], found[100], found[109], found[110]]).toEqual([0, 7, 7, 0])
    expect(found.subarray(page, page + 21)).toEqual(new Uint8Array(21).fill(7, 0, 20))

    writeSync(fd, Buffer.from('hello'), 0, 5, page)
    list.add(at, address + page, 5)
    expect([list.read(), Buffer.from(ours.subarray(0, 6)).toString()]).toEqual([true, 'hello\x07'])

    // Touching it would end this process.
    ftruncateSync(fd, page)
    list.add(at, address, 5)
    list.add(at, address + page, 5)
    expect(list.read()).toBe(false)
    list.add(at, address + page, 5)
    expect(list.write()).toBe(false)
    // The list is as new.
    list.add(at, address, 5)
    expect(list.read()).toBe(true)
    shared.unmap(address, 2 * page)
  })

  it('is copied in as many pieces as there are', () => {
    ftruncateSync(fd, page)
    const address = shared.map(fd, 0, page)
    const list = shared.copyList()
    const ours = new Uint8Array(new ArrayBuffer(8192)).map((_, index) => index)
    const at = shared.addressOf(ours)
    for (let index = 0; index < 3000; index++) list.add(at + index, address + 2 * index, 1)
    expect(list.write()).toBe(true)
    const found = new Uint8Array(6000)
    readSync(fd, found, 0, found.length, 0)
    expect(found.filter((_, index) => index % 2 === 0)).toEqual(ours.subarray(0, 3000))
    shared.unmap(address, page)
  })

  it('knows what is memory', () => {
    const device = openSync('/dev/zero', 'r')
    expect([shared.cannotShrink(fd), shared.cannotShrink(device)]).toEqual([false, undefined])
    closeSync(device)
  })

  it('tells of each signal once, though nobody reads them', () => {
    using events = shared.eventSet()
    const signals = [sys().eventDescriptor(), sys().eventDescriptor()]
    for (const [id, each] of signals.entries()) events.add(each, id + 5)
    expect(events.take()).toEqual([])
    shared.signal(signals[1])
    expect([sys().isReadable(events.fd), events.take(), events.take()]).toEqual([true, [6], []])
    shared.signal(signals[1])
    shared.signal(signals[0])
    expect([...events.take()].sort()).toEqual([5, 6])
    expect(sys().isReadable(events.fd)).toBe(false)
    for (const each of signals) closeSync(each)
  })

  it('signals for ever, also what is full', () => {
    const signalled = sys().eventDescriptor()
    for (let count = 0; count < 1000; count++) shared.signal(signalled)
    const counter = new BigUint64Array(1)
    readSync(signalled, new Uint8Array(counter.buffer))
    expect(counter[0]).toBe(1000n)
    counter[0] = 2n ** 64n - 2n
    writeSync(signalled, new Uint8Array(counter.buffer))
    for (let count = 0; count < 10; count++) shared.signal(signalled)
    readSync(signalled, new Uint8Array(counter.buffer))
    expect(counter[0]).toBeGreaterThan(2n ** 64n - 3n)
    shared.signal(-1)
    closeSync(signalled)
  })

  it('takes what a socket has', () => {
    const [one, other] = sys().socketPair()
    const target = new Uint8Array(new ArrayBuffer(8))
    const fds: number[] = []
    expect(shared.receive(one, target, fds)).toBe(nothingYet)
    expect(shared.send(other, Buffer.from('abc'))).toBe(true)
    expect([shared.receive(one, target, fds), target[2], fds]).toEqual([3, 'c'.charCodeAt(0), []])
    closeSync(other)
    expect(shared.receive(one, target, fds)).toBe(0)
    expect(shared.send(one, Buffer.from('abc'))).toBe(false)
    closeSync(one)
  })
})
