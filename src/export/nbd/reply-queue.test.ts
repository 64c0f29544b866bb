import { Writable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { maxBytesInFlight, maxEnciphered } from './limits.ts'
import { ReplyQueue, type Reservation } from './reply-queue.ts'
import { SlabPool } from './slab.ts'

/** A socket that keeps what it gets, and takes it only when told to. */
class Sink extends Writable {
  readonly batches: string[] = []
  readonly #waiting: (() => void)[] = []
  held = false

  constructor() {
    super({ decodeStrings: false })
  }

  override _writev(chunks: { chunk: Buffer }[], done: () => void): void {
    this.#took(chunks.map(({ chunk }) => chunk.toString('latin1')).join(''), done)
  }

  override _write(chunk: Buffer, _: unknown, done: () => void): void {
    this.#took(chunk.toString('latin1'), done)
  }

  release(): void {
    this.held = false
    for (const done of this.#waiting.splice(0)) done()
  }

  #took(text: string, done: () => void): void {
    this.batches.push(text)
    if (this.held) this.#waiting.push(done)
    else done()
  }
}

function make(secure = false) {
  const socket = new Sink()
  const left: number[] = []
  const onLeft = () => void left.push(queue.heldBytes)
  const queue = new ReplyQueue({ socket, pool: new SlabPool(), secure, onLeft })
  return { sink: socket, queue, left }
}

function fill({ slab, start }: Reservation, text: string): void {
  slab.bytes.set(Buffer.from(text), start)
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

describe('ReplyQueue', () => {
  it('sends neighbours as one piece', async () => {
    const { sink, queue, left } = make()
    for (const text of ['aa', 'bbb', 'c']) {
      const reply = queue.reserve(text.length)
      fill(reply, text)
      queue.send(reply, text.length)
    }
    queue.flush()
    await turn()
    expect(sink.batches).toEqual(['aabbbc'])
    expect(left).toEqual([0])
  })

  it('sends in the order of completion', async () => {
    const { sink, queue } = make()
    const first = queue.reserve(2)
    const second = queue.reserve(2)
    fill(first, '11')
    fill(second, '22')
    queue.send(second, 2)
    queue.send(first, 2)
    queue.flush()
    await turn()
    expect(sink.batches.join('')).toBe('2211')
  })

  it('uses what a shorter reply leaves', async () => {
    const { sink, queue } = make()
    const long = queue.reserve(100)
    fill(long, 'x')
    queue.send(long, 1)
    const next = queue.reserve(1)
    expect(next.start).toBe(long.start + 1)
    fill(next, 'y')
    queue.send(next, 1)
    queue.flush()
    await turn()
    expect(sink.batches).toEqual(['xy'])
    expect(queue.heldBytes).toBe(0)
  })

  it('holds bytes until they have left', async () => {
    const { sink, queue } = make()
    sink.held = true
    const reply = queue.reserve(1000)
    queue.send(reply, 1000)
    queue.flush()
    await turn()
    expect(queue.heldBytes).toBe(1000)
    sink.release()
    await turn()
    expect(queue.heldBytes).toBe(0)
  })

  it('makes long replies wait for room', async () => {
    const { sink, queue } = make()
    sink.held = true
    queue.send(queue.reserve(maxBytesInFlight), maxBytesInFlight)
    let room = false
    const waited = queue.room(1).then(() => {
      room = true
    })
    await turn()
    expect(room).toBe(false)
    sink.release()
    await waited
    expect(room).toBe(true)
  })

  it('flushes at the end of the turn when asked to', async () => {
    const { sink, queue } = make()
    const reply = queue.reserve(1)
    fill(reply, 'z')
    queue.send(reply, 1)
    queue.schedule()
    expect(sink.batches).toEqual([])
    await turn()
    await turn()
    expect(sink.batches).toEqual(['z'])
  })

  it('gives a socket that enciphers so much at a time', async () => {
    const { sink, queue } = make(true)
    sink.held = true
    const text = 'abcd'.repeat(maxEnciphered / 4)
    const long = queue.reserve(3 * maxEnciphered)
    fill(long, text.repeat(3))
    queue.send(long, 3 * maxEnciphered - 7)
    const short = queue.reserve(2)
    fill(short, 'yz')
    queue.send(short, 2)
    await turn()
    const lengths = () => sink.batches.map((batch) => batch.length)
    expect(lengths()).toEqual([maxEnciphered])
    for (let count = 0; count < 2; count++) {
      sink.release()
      sink.held = true
      await turn()
    }
    expect(lengths()).toEqual([maxEnciphered, maxEnciphered, maxEnciphered - 5])
    expect(sink.batches.join('')).toBe(`${text.repeat(3).slice(0, -7)}yz`)
    sink.release()
    await turn()
    expect(queue.heldBytes).toBe(0)
  })

  it('hands such a socket everything when nothing follows', async () => {
    const { sink, queue } = make(true)
    sink.held = true
    const long = queue.reserve(3 * maxEnciphered)
    fill(long, 'e'.repeat(3 * maxEnciphered))
    queue.send(long, 3 * maxEnciphered)
    queue.finish()
    sink.end()
    sink.release()
    await turn()
    expect(sink.batches.join('')).toBe('e'.repeat(3 * maxEnciphered))
    expect(queue.heldBytes).toBe(0)
  })

  it('drops what such a socket has not taken when closed', async () => {
    const { sink, queue } = make(true)
    sink.held = true
    queue.send(queue.reserve(3 * maxEnciphered), 3 * maxEnciphered)
    await turn()
    queue.close()
    sink.release()
    await turn()
    expect(sink.batches.map((batch) => batch.length)).toEqual([maxEnciphered])
    expect(queue.heldBytes).toBe(0)
  })

  it('lets no more go on than there is room for', async () => {
    const { sink, queue } = make()
    sink.held = true
    queue.send(queue.reserve(maxBytesInFlight), maxBytesInFlight)
    let going = 0
    for (let count = 0; count < 3; count++) void queue.room(maxBytesInFlight).then(() => going++)
    await turn()
    expect(going).toBe(0)
    sink.release()
    await turn()
    expect(going).toBe(1)
    queue.close()
    await turn()
    expect(going).toBe(3)
  })

  it('lets go of what a destroyed socket never tells of', async () => {
    const { sink, queue } = make()
    sink.held = true
    sink.on('error', () => {})
    for (let count = 0; count < 3; count++) {
      queue.send(queue.reserve(1000), 1000)
      queue.flush()
    }
    expect(queue.heldBytes).toBe(3000)
    sink.destroy()
    await turn()
    queue.close()
    expect(queue.heldBytes).toBe(0)
    sink.release()
    await turn()
    expect(queue.heldBytes).toBe(0)
  })

  it('drops everything when closed, and wakes who waits', async () => {
    const { sink, queue } = make()
    const open = queue.reserve(10)
    queue.send(queue.reserve(maxBytesInFlight), 16)
    const waited = queue.room(1)
    queue.close()
    await waited
    queue.giveBackRoom(1)
    queue.send(open, 10)
    await turn()
    expect(queue.heldBytes).toBe(0)
    expect(sink.batches.join('')).toHaveLength(0)
  })
})
