/**
 * `-` for standard input or output, where bytes come and go from front to back: raw only. This is
 * varve's own; to qemu-img it is a file of that name.
 */

import type { Readable } from 'node:stream'
import { plainWriteIo } from '../../block/layer.ts'
import { alignUp, MiB } from '../../bytes/range.ts'
import { isZero, zeroes } from '../../bytes/zero.ts'
import type { Edge } from '../../graph/edge.ts'
import type { NamedIo } from '../command.ts'
import { imageGraph } from '../open-image.ts'
import type { ConvertArguments } from './convert-arguments.ts'
import { reasonOf } from './convert-pipeline.ts'
import { type ConvertSource, maxPieceLength } from './convert-source.ts'
import { openTarget, planTarget } from './convert-target.ts'
import { CommandFailure } from './failure.ts'

const sectorSize = 512

/** Writes the source to standard output, holes as zeroes. */
export async function toStream(
  args: ConvertArguments,
  source: ConvertSource,
  io: NamedIo,
): Promise<number> {
  if (args.targetFormat !== 'raw' || args.targetImageOpts || args.existing || args.compressed) {
    throw new CommandFailure('only a plain raw image can be written to standard output')
  }
  const buffer = new Uint8Array(maxPieceLength)
  const pieces = source.pieces({
    granularity: sectorSize,
    maxLength: maxPieceLength,
    backingSize: 0,
    writeAll: false,
  })
  for await (const { offset, length, status } of pieces) {
    if (status === 'data') {
      const data = buffer.subarray(0, length)
      await readOrFail(source, offset, data)
      if (!(await send(io, data))) return 1
      continue
    }
    for (let at = 0; at < length; at += zeroes.length) {
      if (!(await send(io, zeroes.subarray(0, Math.min(zeroes.length, length - at))))) return 1
    }
  }
  return 0
}

async function readOrFail(source: ConvertSource, offset: number, data: Uint8Array): Promise<void> {
  try {
    await source.read(offset, data)
  } catch (error) {
    throw new CommandFailure(`error while reading at byte ${offset}: ${reasonOf(error)}`)
  }
}

/** False when nobody reads any more. The bytes are the stream's until it settles. */
async function send({ stdout }: NamedIo, bytes: Uint8Array): Promise<boolean> {
  await new Promise<void>((resolve, reject) => {
    stdout.write(bytes, (error) => (error ? reject(error) : resolve()))
  })
  return !('gone' in stdout && stdout.gone)
}

/** Reads raw bytes from standard input until they end, into a target that grows with them. */
export async function fromStream(args: ConvertArguments, io: NamedIo): Promise<number> {
  if (args.sources.length > 1 || args.imageOpts || (args.format ?? 'raw') !== 'raw') {
    throw new CommandFailure('only one raw image can be read from standard input')
  }
  if (args.target === '-') throw new CommandFailure('standard input and output: nothing to convert')
  await using graph = imageGraph(io)
  const node = await openTarget(graph, args, planTarget(args, 0, io), io)
  await using target = graph.attach(node, {
    description: 'img convert',
    uses: ['write', 'resize'],
    shares: ['consistentRead'],
  })
  await new Intake(target, args).run(io.stdin)
  return 0
}

/** A target grows by doubling, so that its tables are seldom rewritten. */
const firstSize = 64 * MiB

class Intake {
  readonly #target: Edge
  readonly #args: ConvertArguments
  readonly #unit: number
  readonly #block = new Uint8Array(maxPieceLength)
  #filled = 0
  #offset = 0

  constructor(target: Edge, args: ConvertArguments) {
    this.#target = target
    this.#args = args
    this.#unit = args.compressed
      ? (target.compressed?.unit ?? sectorSize)
      : Math.max(target.image?.clusterSize ?? sectorSize, args.sparseSize, sectorSize)
  }

  async run(input: Readable): Promise<void> {
    try {
      for await (const chunk of input) await this.#add(chunk as Uint8Array)
      const length = alignUp(this.#filled, sectorSize)
      this.#block.fill(0, this.#filled, length)
      await this.#store(this.#block.subarray(0, length))
      const { size } = this.#target
      if (this.#args.existing ? size < this.#offset : size !== this.#offset) {
        await this.#target.truncate(this.#offset)
      }
      await this.#target.flush()
    } catch (error) {
      throw new CommandFailure(`error while writing at byte ${this.#offset}: ${reasonOf(error)}`)
    }
  }

  async #add(chunk: Uint8Array): Promise<void> {
    for (let at = 0; at < chunk.length; ) {
      const part = chunk.subarray(at, at + this.#block.length - this.#filled)
      this.#block.set(part, this.#filled)
      this.#filled += part.length
      at += part.length
      if (this.#filled < this.#block.length) continue
      await this.#store(this.#block)
      this.#filled = 0
    }
  }

  /** Stores the next bytes of the disk; zeroes only where something else may have been. */
  async #store(data: Uint8Array): Promise<void> {
    const end = this.#offset + data.length
    if (end > this.#target.size) {
      await this.#target.truncate(Math.max(end, this.#target.size * 2, firstSize))
    }
    const writes: Promise<void>[] = []
    for (let at = 0; at < data.length; at += this.#unit) {
      const part = data.subarray(at, at + this.#unit)
      if (!isZero(part) || this.#args.sparseSize === 0)
        writes.push(this.#write(this.#offset + at, part))
      else if (this.#args.existing && !this.#args.targetIsZero) {
        writes.push(this.#writeZeroes(this.#offset + at, part.length))
      }
    }
    await Promise.all(writes)
    this.#offset = end
  }

  async #write(offset: number, data: Uint8Array): Promise<void> {
    if (this.#args.compressed) await this.#target.compressed?.write(offset, data, plainWriteIo)
    else await this.#target.write(offset, data)
  }

  async #writeZeroes(offset: number, length: number): Promise<void> {
    await this.#target.writeZeroes(offset, length, { mayUnmap: true })
  }
}
