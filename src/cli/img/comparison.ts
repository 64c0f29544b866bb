/** Walks two disks side by side and finds the first sector in which they differ. */
import { MiB } from '../../bytes/range.ts'
import { isZero, zeroes } from '../../bytes/zero.ts'
import { BlockError, strerror } from '../../errors.ts'
import type { Edge } from '../../graph/edge.ts'
import { type BlockStatus, blockStatus, diskSize } from './block-status.ts'
import { CommandFailure } from './failure.ts'
import type { Progress } from './progress.ts'

/** One of the two disks. */
export interface ComparedImage {
  readonly edge: Edge
  readonly filename: string
}

export interface ComparisonOptions {
  /** Sizes and allocation have to be equal too. */
  readonly strict: boolean
  readonly progress: Progress
  /** Prints a line about the result. */
  readonly say: (line: string) => void
}

/** Longest range that is read at once. */
const maxLength = 2 * MiB

/** Ranges that are read ahead. */
const depth = 4

/** Differences are told to the sector. */
const sectorSize = 512

/** Exit statuses. */
const cannotAsk = 3
const cannotRead = 4

/** A range in which both have one status. Beyond the end of one, only the other counts. */
interface Stretch {
  readonly offset: number
  readonly length: number
  readonly verdict: Promise<number | undefined> | 'equal' | 'status differs'
}

export class Comparison {
  readonly #images: readonly [ComparedImage, ComparedImage]
  readonly #options: ComparisonOptions
  /** A pair of buffers for each stretch ahead, made when first needed and used in turn. */
  readonly #buffers: (Uint8Array | undefined)[][] = Array.from({ length: depth }, () => [])
  #turn = 0

  constructor(one: ComparedImage, other: ComparedImage, options: ComparisonOptions) {
    this.#images = [one, other]
    this.#options = options
  }

  /** Whether they are the same; the reason is said. */
  async run(): Promise<boolean> {
    const { strict, say } = this.#options
    const [one, other] = this.#images.map(({ edge }) => diskSize(edge.node))
    if (strict && one !== other) {
      say('Strict mode: Image size mismatch!')
      return false
    }
    if (!(await this.#compare(0, Math.min(one, other)))) return false
    if (one !== other) {
      say('Warning: Image size mismatch!')
      if (!(await this.#compare(Math.min(one, other), Math.max(one, other)))) return false
    }
    say('Images are identical.')
    return true
  }

  /** Compares a range, with a few reads ahead of the one that is waited for. */
  async #compare(start: number, end: number): Promise<boolean> {
    const stretches = this.#stretches(start, end)
    const ahead: Stretch[] = []
    try {
      for (;;) {
        while (ahead.length < depth) {
          const { done, value } = await stretches.next()
          if (done) break
          ahead.push(value)
        }
        const next = ahead.shift()
        if (!next) return true
        if (!(await this.#judge(next))) return false
        this.#options.progress.add(next.length)
      }
    } finally {
      // What was read ahead ends before the images are closed.
      await Promise.allSettled(ahead.map(({ verdict }) => verdict))
    }
  }

  async #judge({ offset, verdict }: Stretch): Promise<boolean> {
    if (verdict === 'equal') return true
    if (verdict === 'status differs') {
      this.#options.say(`Strict mode: Offset ${offset} block status mismatch!`)
      return false
    }
    const difference = await verdict
    if (difference === undefined) return true
    this.#options.say(`Content mismatch at offset ${difference}!`)
    return false
  }

  async *#stretches(start: number, end: number): AsyncGenerator<Stretch> {
    for (let offset = start; offset < end; ) {
      const [one, other] = await Promise.all(
        this.#images.map((image) => this.#statusOf(image, offset, end - offset)),
      )
      const common = Math.min(one?.length ?? Infinity, other?.length ?? Infinity)
      const quiet = (one?.zero ?? true) && (other?.zero ?? true)
      const length = quiet ? common : Math.min(common, maxLength)
      if (this.#options.strict && one && other && !sameStatus(one, other)) {
        yield { offset, length, verdict: 'status differs' }
      } else if (quiet) {
        yield { offset, length, verdict: 'equal' }
      } else {
        const verdict = this.#difference(offset, length, isData(one), isData(other))
        // Whoever waits for it may come later.
        verdict.catch(() => {})
        yield { offset, length, verdict }
      }
      offset += length
    }
  }

  /** Undefined behind the end of the image. */
  async #statusOf(
    { edge, filename }: ComparedImage,
    offset: number,
    length: number,
  ): Promise<BlockStatus | undefined> {
    const size = diskSize(edge.node)
    if (offset >= size) return undefined
    try {
      return await blockStatus(edge.node, offset, Math.min(length, size - offset))
    } catch (error) {
      if (!(error instanceof BlockError)) throw error
      throw new CommandFailure(`Sector allocation test failed for ${filename}`, cannotAsk)
    }
  }

  /** Offset of the first sector that differs; a disk without data there reads as zeroes. */
  async #difference(
    offset: number,
    length: number,
    one: boolean,
    other: boolean,
  ): Promise<number | undefined> {
    // Of those that used this pair before, the last has been judged: no more are ever ahead.
    const buffers = this.#buffers[this.#turn++ % depth]
    const bufferOf = (index: number) => {
      buffers[index] ??= new Uint8Array(maxLength)
      return buffers[index].subarray(0, length)
    }
    const [ours, theirs] = await Promise.all([
      one ? this.#read(0, offset, bufferOf(0)) : undefined,
      other ? this.#read(1, offset, bufferOf(1)) : undefined,
    ])
    const at = ours && theirs ? firstDifference(ours, theirs) : firstNonZero(ours ?? theirs)
    return at === undefined ? undefined : offset + at
  }

  async #read(index: number, offset: number, target: Uint8Array): Promise<Uint8Array> {
    const { edge, filename } = this.#images[index]
    const real = target.subarray(0, Math.max(0, edge.size - offset))
    target.fill(0, real.length)
    try {
      await edge.read(offset, real)
      return target
    } catch (error) {
      if (!(error instanceof BlockError)) throw error
      const reason = error.errno ? strerror(error.errno) : error.message
      throw new CommandFailure(
        `Error while reading offset ${offset} of ${filename}: ${reason}`,
        cannotRead,
      )
    }
  }
}

function isData(status: BlockStatus | undefined): boolean {
  return status !== undefined && !status.zero
}

function sameStatus(one: BlockStatus, other: BlockStatus): boolean {
  return (
    one.data === other.data &&
    one.zero === other.zero &&
    one.present === other.present &&
    one.encoded === other.encoded
  )
}

function firstDifference(one: Uint8Array, other: Uint8Array): number | undefined {
  if (Buffer.compare(one, other) === 0) return undefined
  for (let at = 0; ; at += sectorSize) {
    const end = at + sectorSize
    if (Buffer.compare(one.subarray(at, end), other.subarray(at, end)) !== 0) return at
  }
}

function firstNonZero(data: Uint8Array | undefined): number | undefined {
  if (!data || isZero(data)) return undefined
  for (let at = 0; ; at += sectorSize) {
    const part = data.subarray(at, at + sectorSize)
    if (Buffer.compare(part, zeroes.subarray(0, part.length)) !== 0) return at
  }
}
