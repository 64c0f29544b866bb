/**
 * What every `BlockLayer` must do, whatever lies beneath it: protocols, formats and filters call
 * `testLayer` with a way to make one. `capabilities` and `limits` decide what applies. Layers are
 * called as the graph calls them: aligned, inside the disk, within the limits.
 */
import { describe, expect, it as test } from 'vitest'
import {
  type BlockLayer,
  type Extent,
  plainIo,
  plainWriteIo,
  plainZeroIo,
} from '../../src/block/layer.ts'
import { alignDown, alignUp, isPowerOfTwo } from '../../src/bytes/range.ts'
import { isZero } from '../../src/bytes/zero.ts'
import { Random, seedNote } from '../support/random.ts'

export interface Subject extends AsyncDisposable {
  readonly layer: BlockLayer
  /** What a guest reads from it at first. Left out: zeroes. */
  readonly content?: Uint8Array
  /** Closes the layer and opens the same storage again, for what is said to be stored. */
  reopen?(): Promise<BlockLayer>
}

/**
 * Makes a new disk of `size` bytes, or of its own size where it cannot choose; a bare layer is
 * disposed by the suite.
 */
export type SubjectFactory = (size: number) => Promise<Subject | BlockLayer>

export interface LayerSuiteOptions {
  /** Bytes of the disk that the factory is asked for; default 1.25 MiB and a little. */
  readonly size?: number
  /** Random operations of the longest test; default 150. */
  readonly operations?: number
  /** Reads do not give back what was written (null disks): only shapes are checked. */
  readonly forgets?: boolean
}

export function testLayer(
  name: string,
  factory: SubjectFactory,
  options: LayerSuiteOptions = {},
): void {
  const size = options.size ?? 1280 * 1024 + 4096 + 512
  const operations = options.operations ?? 150

  /** Runs `body` with a new disk, which is closed afterwards. */
  const it = (title: string, body: (disk: Disk) => Promise<void>) =>
    test(`${title} (${seedNote})`, async () => {
      const made = await factory(size)
      const subject: Subject = 'layer' in made ? made : bareSubject(made)
      try {
        await body(new Disk(subject, options.forgets ?? false))
      } finally {
        await subject[Symbol.asyncDispose]()
      }
    })

  describe(`layer conformance: ${name}`, () => {
    it('has sensible limits and capabilities', async ({ layer }) => {
      const { limits, capabilities } = layer
      for (const alignment of [limits.alignment, limits.memoryAlignment]) {
        expect(isPowerOfTwo(alignment)).toBe(true)
      }
      for (const alignment of [limits.zeroAlignment, limits.discardAlignment]) {
        expect(alignment % limits.alignment).toBe(0)
      }
      expect(limits.maxTransfer).toBeGreaterThanOrEqual(limits.alignment)
      expect(limits.maxTransfer % limits.alignment).toBe(0)
      expect(limits.preferredLength).toBeGreaterThan(0)
      expect(Number.isSafeInteger(layer.size)).toBe(true)
      if (capabilities.resize) expect(capabilities.write).toBe(true)
    })

    it('shows its first content', async (disk) => {
      await disk.expectSame()
      await disk.expectExtents()
    })

    it('agrees with an array of bytes under random operations', async (disk) => {
      const random = new Random()
      for (let step = 0; step < operations; step++) await disk.randomStep(random)
      await disk.expectSame()
      await disk.expectExtents()
    })

    it('keeps what was flushed', async (disk) => {
      if (!disk.subject.reopen || !disk.layer.capabilities.write) return
      const random = new Random()
      for (let step = 0; step < 20; step++) await disk.randomStep(random)
      await disk.layer.flush(plainIo)
      disk.layer = await disk.subject.reopen()
      await disk.expectSame()
      await disk.expectExtents()
    })

    it('reads and writes at both ends of the disk', async (disk) => {
      const random = new Random()
      const { alignment } = disk.layer.limits
      const last = alignDown(disk.layer.size - 1, alignment)
      for (const offset of [0, last]) {
        await disk.write(offset, random.bytes(Math.min(alignment, disk.layer.size - offset)))
      }
      await disk.expectSame()
    })

    it('reads any part into any memory and touches nothing around it', async (disk) => {
      const random = new Random()
      await disk.write(0, random.bytes(alignDown(Math.min(disk.layer.size, 256 * 1024), 4096)))
      for (let step = 0; step < 30; step++) {
        const [offset, length] = disk.randomRange(random)
        const around = 1 + random.below(64)
        const memory = new Uint8Array(length + 2 * around).fill(0xa5)
        await disk.layer.read(offset, memory.subarray(around, around + length), plainIo)
        disk.expectBytes(offset, memory.subarray(around, around + length))
        expect(memory.subarray(0, around).every((byte) => byte === 0xa5)).toBe(true)
        expect(memory.subarray(around + length).every((byte) => byte === 0xa5)).toBe(true)
      }
    })

    it('takes requests of no length', async (disk) => {
      await disk.layer.read(0, new Uint8Array(0), plainIo)
      if (disk.layer.capabilities.write) {
        await disk.layer.write(0, new Uint8Array(0), plainWriteIo)
        await disk.layer.writeZeroes(0, 0, plainZeroIo)
      }
      if (disk.layer.capabilities.discard !== 'none') await disk.layer.discard(0, 0, plainIo)
      await disk.expectSame()
    })

    it('neither changes nor keeps the buffers of writes', async (disk) => {
      if (!disk.layer.capabilities.write) return
      const random = new Random()
      for (let step = 0; step < 20; step++) {
        const [offset, length] = disk.randomRange(random)
        const odd = new Uint8Array(length + 3)
        const source = odd.subarray(3)
        source.set(random.bytes(length))
        const before = source.slice()
        await disk.write(offset, source)
        expect(same(source, before)).toBe(true)
        source.fill(0xee)
        await disk.expectRange(offset, length)
      }
    })

    it('is whole after an abort: done, or rejected with the reason', async (disk) => {
      const random = new Random()
      for (const when of ['before', 'during'] as const) {
        for (let step = 0; step < 5; step++) {
          const [offset, length] = disk.randomRange(random)
          await disk.abortedRead(when, offset, length)
          if (disk.layer.capabilities.write)
            await disk.abortedWrite(when, offset, random.bytes(length))
        }
      }
      await disk.expectSame()
    })

    it('flushes, whether or not there is anything to flush', async (disk) => {
      await disk.layer.flush(plainIo)
      await disk.write(0, new Random().bytes(4096))
      await Promise.all([1, 2, 3].map(async () => disk.layer.flush(plainIo)))
      await disk.layer.flush(plainIo)
      await disk.expectSame()
    })

    it('writes with force unit access', async (disk) => {
      const { write, fua } = disk.layer.capabilities
      if (!write || fua === 'none') return
      const random = new Random()
      const [offset, length] = disk.randomRange(random)
      await disk.write(offset, random.bytes(length), true)
      await disk.expectSame()
    })

    it('zeroes with every combination of flags', async (disk) => {
      if (!disk.layer.capabilities.write) return
      const random = new Random()
      for (const mayUnmap of [false, true]) {
        for (const fastOnly of [false, true]) {
          for (const fua of [false, true]) {
            await disk.write(
              0,
              random.bytes(Math.min(512 * 1024, alignDown(disk.layer.size, 4096))),
            )
            const [offset, length] = disk.randomRange(random)
            await disk.zero(offset, length, { mayUnmap, fastOnly, fua })
            await disk.expectSame()
          }
        }
      }
      await disk.expectExtents()
    })

    it('discards nothing outside the range', async (disk) => {
      const { write, discard } = disk.layer.capabilities
      if (!write || discard === 'none') return
      const random = new Random()
      await disk.write(0, random.bytes(Math.min(512 * 1024, alignDown(disk.layer.size, 4096))))
      for (let step = 0; step < 10; step++) {
        await disk.discard(...disk.randomRange(random, disk.layer.limits.discardAlignment))
      }
      await disk.expectSame()
      await disk.expectExtents()
    })

    it('shrinks and grows, and old data does not come back', async (disk) => {
      if (!disk.layer.capabilities.resize) return
      const random = new Random()
      // Images count in sectors, whatever their requests are aligned to.
      const alignment = Math.max(disk.layer.limits.alignment, disk.layer.image ? 512 : 1)
      const { size } = disk.layer
      await disk.write(0, random.bytes(alignDown(size, alignment)))
      const sizes = [size - alignment, alignUp(size / 2, alignment), size + 70_000, size / 4, size]
      for (const next of sizes) await disk.truncate(alignUp(next, alignment))
      await disk.expectSame()
      await disk.expectExtents()
    })

    it('does many things at once in ranges of their own', async (disk) => {
      const random = new Random()
      const count = 24
      const step = alignDown(disk.layer.size / count, Math.max(disk.layer.limits.alignment, 512))
      const tasks = Array.from({ length: count }, (_, index) =>
        disk.randomWork(random, index * step, step),
      )
      await Promise.all(tasks.map((task) => task()))
      await disk.expectSame()
      await disk.expectExtents()
    })

    it('answers extents at any place, for any length', async (disk) => {
      const random = new Random()
      if (disk.layer.capabilities.write) {
        for (let step = 0; step < 10; step++) await disk.randomStep(random)
      }
      for (let step = 0; step < 50; step++) await disk.expectExtentAt(...disk.randomRange(random))
    })

    it('stores compressed units', async (disk) => {
      const { compressed } = disk.layer
      if (!compressed) return
      const random = new Random()
      for (let offset = 0; offset < disk.layer.size; offset += compressed.unit) {
        if (random.chance(0.5)) continue
        const length = Math.min(compressed.unit, disk.layer.size - offset)
        const source = random.chance(0.5) ? random.bytes(length) : new Uint8Array(length).fill(7)
        try {
          await compressed.write(offset, source, plainWriteIo)
        } catch (error) {
          // Some images of a format cannot hold them.
          expect(error).toMatchObject({ code: 'UNSUPPORTED' })
          break
        }
        disk.model.set(source, offset)
      }
      await disk.expectSame()
      await disk.expectExtents()
    })

    it('can be closed more than once', async (disk) => {
      await disk.write(0, new Random().bytes(4096))
      await disk.layer[Symbol.asyncDispose]()
      await disk.layer[Symbol.asyncDispose]()
    })
  })
}

function bareSubject(layer: BlockLayer): Subject {
  return { layer, [Symbol.asyncDispose]: () => layer[Symbol.asyncDispose]() }
}

/** A layer and, beside it, what a guest must see. */
class Disk {
  readonly subject: Subject
  layer: BlockLayer
  /** The expected content. */
  model: Uint8Array
  /** Null disks: content is not compared. */
  readonly #forgets: boolean

  constructor(subject: Subject, forgets: boolean) {
    this.subject = subject
    this.layer = subject.layer
    this.#forgets = forgets
    this.model = new Uint8Array(this.layer.size)
    if (subject.content) this.model.set(subject.content)
  }

  randomRange(random: Random, alignment: number = this.layer.limits.alignment): [number, number] {
    const longest = Math.min(this.layer.limits.maxTransfer, 256 * 1024)
    return random.range(this.layer.size, alignment, longest)
  }

  async randomStep(random: Random): Promise<void> {
    const { capabilities } = this.layer
    const [offset, length] = this.randomRange(random)
    const choice = random.next()
    if (!capabilities.write || choice < 0.4) return this.expectRange(offset, length)
    if (choice < 0.75) return this.write(offset, random.bytes(length), random.chance(0.05))
    if (choice < 0.9) {
      return this.zero(offset, length, {
        mayUnmap: random.chance(0.5),
        fastOnly: false,
        fua: false,
      })
    }
    if (choice < 0.97 && capabilities.discard !== 'none') {
      return this.discard(...this.randomRange(random, this.layer.limits.discardAlignment))
    }
    await this.layer.flush(plainIo)
  }

  /** Work to be run among others: random requests inside [`start`, `start + length`), in turn. */
  randomWork(random: Random, start: number, length: number): () => Promise<void> {
    const own = new Random(random.below(2 ** 31))
    const { alignment } = this.layer.limits
    return async () => {
      for (let step = 0; step < 8; step++) {
        const [offset, part] = own.range(length, alignment, 64 * 1024)
        if (!this.layer.capabilities.write) await this.expectRange(start + offset, part)
        else if (own.chance(0.6)) await this.write(start + offset, own.bytes(part))
        else if (own.chance(0.5)) await this.zero(start + offset, part, plainZeroIo)
        else await this.expectRange(start + offset, part)
      }
    }
  }

  async write(offset: number, source: Uint8Array, fua = false): Promise<void> {
    if (!this.layer.capabilities.write) return
    await this.layer.write(offset, source, { ...plainWriteIo, fua })
    this.model.set(source, offset)
  }

  async zero(
    offset: number,
    length: number,
    flags: { mayUnmap: boolean; fastOnly: boolean; fua: boolean },
  ): Promise<void> {
    try {
      await this.layer.writeZeroes(offset, length, { ...plainZeroIo, ...flags })
      this.model.fill(0, offset, offset + length)
    } catch (error) {
      if (!flags.fastOnly) throw error
      expect(error).toMatchObject({ code: 'UNSUPPORTED' })
    }
  }

  /** Afterwards the range may read as before or as zeroes, mixed: it is taken as it is found. */
  async discard(offset: number, length: number): Promise<void> {
    const before = this.model.slice(offset, offset + length)
    await this.layer.discard(offset, length, plainIo)
    const found = new Uint8Array(length)
    await this.layer.read(offset, found, plainIo)
    for (let at = 0; at < length; at++) {
      if (found[at] !== 0 && found[at] !== before[at]) {
        expect.fail(`byte ${offset + at} is neither old nor zero after a discard`)
      }
    }
    this.model.set(found, offset)
  }

  async truncate(size: number): Promise<void> {
    await this.layer.truncate(size, plainIo)
    expect(this.layer.size).toBe(size)
    const kept = this.model.subarray(0, size)
    const before = this.model.length
    this.model = new Uint8Array(size)
    this.model.set(kept)
    if (size > before && !this.layer.capabilities.zeroInit) {
      await this.layer.read(before, this.model.subarray(before), plainIo)
    }
  }

  async abortedRead(when: 'before' | 'during', offset: number, length: number): Promise<void> {
    const target = new Uint8Array(length)
    const done = await aborted(when, (signal) => this.layer.read(offset, target, { signal }))
    if (done) this.expectBytes(offset, target)
  }

  /** Of an aborted write any part may be there, so the model takes over what is. */
  async abortedWrite(when: 'before' | 'during', offset: number, source: Uint8Array): Promise<void> {
    const done = await aborted(when, (signal) =>
      this.layer.write(offset, source, { ...plainWriteIo, signal }),
    )
    if (done) this.model.set(source, offset)
    else await this.layer.read(offset, this.model.subarray(offset, offset + source.length), plainIo)
  }

  async expectSame(): Promise<void> {
    expect(this.layer.size).toBe(this.model.length)
    const longest = Math.min(this.layer.limits.maxTransfer, 256 * 1024)
    for (let at = 0; at < this.model.length; at += longest) {
      await this.expectRange(at, Math.min(longest, this.model.length - at))
    }
  }

  /** A read of a length that need not be aligned where the disk ends. */
  async expectRange(offset: number, length: number): Promise<void> {
    const padded = alignUp(length, this.layer.limits.alignment)
    const found = new Uint8Array(padded).fill(0x5a)
    await this.layer.read(offset, found, plainIo)
    this.expectBytes(offset, found.subarray(0, length))
    if (!this.#forgets) expect(isZero(found.subarray(length))).toBe(true)
  }

  expectBytes(offset: number, found: Uint8Array): void {
    const expected = this.model.subarray(offset, offset + found.length)
    if (this.#forgets || same(found, expected)) return
    const at = found.findIndex((byte, index) => byte !== expected[index])
    expect.fail(
      `byte ${offset + at} of a read of ${found.length} at ${offset} is ${found[at]}, not ${expected[at]}`,
    )
  }

  /** The runs follow one another from end to end, and what they call zero is zero. */
  async expectExtents(): Promise<void> {
    let at = 0
    let runs = 0
    while (at < this.layer.size) {
      const run = await this.expectExtentAt(at, this.layer.size - at)
      at += run.length
      if (++runs > this.layer.size / 512) expect.fail(`${runs} runs for ${at} bytes`)
    }
  }

  async expectExtentAt(offset: number, length: number): Promise<Extent> {
    const run = await this.layer.extentAt(offset, length, plainIo)
    expect(run.offset).toBe(offset)
    expect(run.length).toBeGreaterThan(0)
    expect(run.length).toBeLessThanOrEqual(length)
    if ((run.kind === 'zero' || run.kind === 'backing') && !this.#forgets) {
      const shown = this.model.subarray(offset, offset + run.length)
      if (run.kind === 'zero' || !this.subject.content) {
        if (!isZero(shown)) expect.fail(`${run.kind} run of ${run.length} at ${offset} has data`)
      }
    }
    if ('host' in run && run.host) expect(run.host.length).toBeGreaterThanOrEqual(run.length)
    return run
  }
}

/** Whether the request finished all the same; otherwise it was rejected with the reason. */
async function aborted(
  when: 'before' | 'during',
  request: (signal: AbortSignal) => void | Promise<void>,
): Promise<boolean> {
  const controller = new AbortController()
  const reason = new Error('no longer wanted')
  if (when === 'before') controller.abort(reason)
  try {
    const pending = request(controller.signal)
    controller.abort(reason)
    await pending
    return true
  } catch (error) {
    expect(error).toBe(reason)
    return false
  }
}

function same(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0
}
