/**
 * Does everything to two disks and compares what they answer: a plain copy shows where a format
 * under test goes wrong. A difference is an error that says where.
 */

import type { ImageFacts } from '../block/abilities.ts'
import type { BlockDriver, NodeOptions, NodeReference } from '../block/driver.ts'
import { Filter } from '../block/filter.ts'
import type { BlockLayer, Completion, Extent, Io, WriteIo, ZeroIo } from '../block/layer.ts'
import { OptionReader, takeFile } from '../block/options.ts'
import { BlockError, errnoOf, invalid } from '../errors.ts'

interface BlkverifyOptions {
  /** The plain copy. */
  readonly raw: NodeReference
  /** The disk under test. */
  readonly test: NodeReference
}

/** The two disks differ. */
export class VerifyError extends BlockError {
  constructor(verb: 'read' | 'write', offset: number, length: number, difference: string) {
    const message = `blkverify: ${verb} offset=${offset} bytes=${length} ${difference}`
    super('IO', message, { offset, errno: 'EIO' })
  }
}

class Blkverify extends Filter {
  readonly #raw: BlockLayer

  /** What is shown is the disk under test. */
  constructor(raw: BlockLayer, test: BlockLayer) {
    super(test)
    this.#raw = raw
  }

  override get image(): ImageFacts | undefined {
    const [raw, test] = [this.#raw.image?.filename, this.next.image?.filename]
    if (raw === undefined || test === undefined) return undefined
    return { ...super.image, filename: `blkverify:${raw}:${test}` }
  }

  override async read(offset: number, target: Uint8Array, io: Io): Promise<void> {
    const expected = Buffer.allocUnsafe(target.length)
    await both('read', offset, target.length, [
      () => this.next.read(offset, target, io),
      () => this.#raw.read(offset, expected, io),
    ])
    if (expected.equals(target)) return
    const at = target.findIndex((byte, index) => byte !== expected[index])
    throw new VerifyError(
      'read',
      offset,
      target.length,
      `contents mismatch at offset ${offset + at}`,
    )
  }

  override async write(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    await both('write', offset, source.length, [
      () => this.next.write(offset, source, io),
      () => this.#raw.write(offset, source, io),
    ])
  }

  override async writeZeroes(offset: number, length: number, io: ZeroIo): Promise<void> {
    const slow = { ...io, fastOnly: false }
    await both('write', offset, length, [
      () => this.next.writeZeroes(offset, length, slow),
      () => this.#raw.writeZeroes(offset, length, slow),
    ])
  }

  /** What a discarded range reads as is each disk's choice, so it is left alone. */
  override discard(_offset: number, _length: number, _io: Io): void {}

  /** The copy is worth nothing after a crash. */
  override flush(io: Io): Completion {
    return this.next.flush(io)
  }

  override async truncate(size: number, io: Io): Promise<void> {
    await this.#raw.truncate(size, io)
    await this.next.truncate(size, io)
  }

  override extentAt(offset: number, length: number, _io: Io): Extent {
    return { kind: 'data', offset, length }
  }
}

/** Both verbs, of which either both or neither may fail. */
async function both(
  verb: 'read' | 'write',
  offset: number,
  length: number,
  verbs: readonly [() => Completion, () => Completion],
): Promise<void> {
  const [test, raw] = await Promise.allSettled(verbs.map(async (each) => await each()))
  if (test.status === 'fulfilled' && raw.status === 'fulfilled') return
  const errno = (result: PromiseSettledResult<void>) =>
    result.status === 'rejected' ? (errnoOf(result.reason) ?? 'EIO') : '0'
  if (errno(test) !== errno(raw)) {
    const difference = `return value mismatch ${errno(test)} != ${errno(raw)}`
    throw new VerifyError(verb, offset, length, difference)
  }
  throw test.status === 'rejected' ? test.reason : undefined
}

export const blkverify: BlockDriver<BlkverifyOptions> = {
  name: 'blkverify',
  kind: 'filter',
  naming: {
    strong: [],
    plain: (_, child) => {
      const [raw, test] = [child('raw'), child('test')]
      return raw && test && `blkverify:${raw}:${test}`
    },
  },
  /** `blkverify:RAW:IMAGE` */
  parseFilename(filename): NodeOptions | undefined {
    const prefix = 'blkverify:'
    if (!filename.startsWith(prefix)) return undefined
    const colon = filename.indexOf(':', prefix.length)
    if (colon < 0) throw invalid('blkverify requires raw copy and original image path')
    return { 'x-raw': filename.slice(prefix.length, colon), 'x-image': filename.slice(colon + 1) }
  },
  parse(options) {
    const reader = new OptionReader(options)
    const named = (option: string, child: string): NodeReference => {
      const filename = reader.string(option)
      return filename === undefined ? takeFile(reader, child) : { filename }
    }
    const parsed = { raw: named('x-raw', 'raw'), test: named('x-image', 'test') }
    reader.finish()
    return parsed
  },
  async open(options, context) {
    const raw = await context.child('filtered', options.raw, 'raw')
    return new Blkverify(raw, await context.child('data', options.test, 'test'))
  },
}
