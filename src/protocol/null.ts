/**
 * Drivers `null-co` and `null-aio`: a disk that forgets what is written and reads as whatever was
 * in the buffer, or as zeroes on request. For measuring everything but the storage.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ImageFacts } from '../block/abilities.ts'
import type { BlockDriver, NodeOptions } from '../block/driver.ts'
import type {
  BlockLayer,
  Capabilities,
  Completion,
  Extent,
  Io,
  Limits,
  WriteIo,
  ZeroIo,
} from '../block/layer.ts'
import { OptionReader } from '../block/options.ts'
import { GiB, MiB, maxDiskSize } from '../bytes/range.ts'
import { BlockError } from '../errors.ts'

export interface NullOptions {
  /** Bytes. */
  readonly size: number
  readonly readZeroes: boolean
  /** Each request takes this long; below a millisecond it is rounded up to one. */
  readonly latencyMs: number
}

export class NullLayer implements BlockLayer {
  readonly capabilities: Capabilities = {
    write: true,
    resize: false,
    backing: false,
    fua: 'native',
    writeZeroes: 'native',
    discard: 'native',
    extents: 'native',
    zeroInit: true,
  }
  readonly limits: Limits = {
    alignment: 1,
    memoryAlignment: 1,
    zeroAlignment: 1,
    discardAlignment: 1,
    preferredLength: MiB,
    maxTransfer: GiB,
  }
  readonly image: ImageFacts = { filename: 'null-co://', allocatedSize: async () => 0 }
  readonly size: number
  readonly #readZeroes: boolean
  readonly #latencyMs: number

  constructor(options: NullOptions) {
    this.size = options.size
    this.#readZeroes = options.readZeroes
    this.#latencyMs = options.latencyMs
  }

  read(_offset: number, target: Uint8Array, io: Io): Completion {
    if (this.#readZeroes) target.fill(0)
    return this.#wait(io)
  }

  write(_offset: number, _source: Uint8Array, io: WriteIo): Completion {
    return this.#wait(io)
  }

  writeZeroes(_offset: number, _length: number, io: ZeroIo): Completion {
    return this.#wait(io)
  }

  discard(_offset: number, _length: number, io: Io): Completion {
    return this.#wait(io)
  }

  flush(io: Io): Completion {
    return this.#wait(io)
  }

  truncate(_size: number, _io: Io): never {
    throw new BlockError('UNSUPPORTED', 'A null disk cannot be resized')
  }

  extentAt(offset: number, length: number, _io: Io): Extent {
    return this.#readZeroes
      ? { kind: 'zero', offset, length, allocated: true }
      : { kind: 'data', offset, length }
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  #wait(io: Io): Completion {
    if (this.#latencyMs > 0) return this.#sleep(io.signal)
  }

  async #sleep(signal: AbortSignal): Promise<void> {
    try {
      await sleep(this.#latencyMs, undefined, { signal })
    } catch {
      throw signal.reason
    }
  }
}

/** QEMU's default. */
const defaultSize = GiB

function parseNullOptions(options: NodeOptions): NullOptions {
  const reader = new OptionReader(options)
  reader.take('driver')
  const size = reader.bytes('size') ?? defaultSize
  const readZeroes = reader.boolean('read-zeroes') ?? false
  const latencyNs = reader.integer('latency-ns') ?? 0
  reader.finish()
  if (size > maxDiskSize) {
    throw new BlockError('INVALID_ARGUMENT', `A disk of ${size} bytes is beyond the 8 PiB limit`)
  }
  if (latencyNs < 0) throw new BlockError('INVALID_ARGUMENT', 'latency-ns is invalid')
  return { size, readZeroes, latencyMs: Math.ceil(latencyNs / 1e6) }
}

function nullDriver(name: 'null-co' | 'null-aio'): BlockDriver<NullOptions> {
  return {
    name,
    kind: 'protocol',
    naming: {
      strong: ['size', 'read-zeroes'],
      plain: (strong) => (Object.keys(strong).length === 0 ? `${name}://` : undefined),
    },
    changeable: [],
    parse: parseNullOptions,
    parseFilename: (filename) => (filename === `${name}://` ? { driver: name } : undefined),
    open: async (options) => new NullLayer(options),
  }
}

export const nullCo = nullDriver('null-co')
export const nullAio = nullDriver('null-aio')
