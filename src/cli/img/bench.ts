/** `img bench`: a number of equal requests in a row, many in flight, and how long they take. */

import { BlockError, strerror } from '../../errors.ts'
import type { Edge } from '../../graph/edge.ts'
import type { NamedIo } from '../command.ts'
import {
  attachImage,
  type CacheMode,
  cacheMode,
  checkNative,
  type ImageRequest,
  imageGraph,
  openImage,
} from '../open-image.ts'
import { Arguments, forceShare, imageOpts, type OptionChecks } from './arguments.ts'
import { CommandFailure, usageFailure } from './failure.ts'
import type { ImgCommand } from './img-command.ts'
import { sizeArgument, wholeNumber } from './size-text.ts'
import { checkImageOpts } from './source-options.ts'

interface Load {
  write: boolean
  count: number
  depth: number
  /** Bytes. */
  length: number
  /** 0: as `length`. */
  step: number
  offset: number
  pattern: number
  /** Requests between flushes; 0: none. */
  flushInterval: number
  /** A flush waits for the requests before it. */
  drain: boolean
  aio: string
  cache: CacheMode
}

const defaults: Load = {
  write: false,
  count: 75_000,
  depth: 64,
  length: 4096,
  step: 0,
  offset: 0,
  pattern: 0,
  flushInterval: 0,
  drain: true,
  aio: 'threads',
  cache: cacheMode('writeback')!,
}
const aioModes = ['threads', 'native', 'io_uring']

export const bench: ImgCommand = async (words, io) => {
  const load: Load = { ...defaults }
  const args = new Arguments(
    'bench',
    words,
    'c:d:f:ni:o:qs:S:t:wU',
    [
      imageOpts,
      { name: 'pattern', argument: 'required' },
      { name: 'flush-interval', argument: 'required' },
      { name: 'no-drain' },
      forceShare,
    ],
    checksOf(load, io),
  )
  const { cache, aio } = load
  load.step ||= load.length
  if (args.rest.length !== 1) throw usageFailure('Expecting one image file name')
  if (!load.write && load.flushInterval > 0) {
    throw new CommandFailure('--flush-interval is only available in write tests')
  }
  if (load.flushInterval > 0 && load.flushInterval < load.depth) {
    throw new CommandFailure("Flush interval can't be smaller than depth")
  }
  checkImageOpts(args.has('image-opts'), args.value('f'))
  const [filename] = args.rest
  await using graph = imageGraph(io)
  const request: ImageRequest = {
    filename,
    imageOpts: args.has('image-opts'),
    format: args.value('f'),
    readOnly: !load.write,
    forceShare: args.has('U'),
    cache,
  }
  if (aio === 'native') await checkNative(graph, request, io)
  const node = await openImage(graph, request, io)
  await using edge = attachImage(graph, node, filename, {
    description: 'img bench',
    uses: load.write ? ['consistentRead', 'write'] : ['consistentRead'],
  })
  io.stdout.write(describe(load))
  const began = performance.now()
  await run(edge, load)
  const seconds = (performance.now() - began) / 1000
  io.stdout.write(`Run completed in ${seconds.toFixed(3)} seconds.\n`)
  return 0
}

/** What each option says is checked, and put into `load`, as it is read. */
function checksOf(load: Load, io: NamedIo): OptionChecks {
  const number = (text: string, name: string, lowest: number, highest: number) => {
    const value = wholeNumber(text)
    if (value >= lowest && value <= highest) return value
    throw new CommandFailure(`Invalid ${name} specified`)
  }
  const max = 2 ** 31 - 1
  return {
    c: (text) => {
      load.count = number(text, 'request count', 0, max)
    },
    d: (text) => {
      load.depth = number(text, 'queue depth', 1, max)
    },
    i: (text) => {
      if (!aioModes.includes(text)) throw new CommandFailure(`Invalid aio option: ${text}`)
      // Nothing takes that back.
      if (load.aio !== 'native') load.aio = text
    },
    n: () => {
      load.aio = 'native'
    },
    'no-drain': () => {
      load.drain = false
    },
    o: (text) => {
      load.offset = sizeArgument('offset', text, io)
    },
    s: (text) => {
      load.length = sizeArgument('buffer size', text, io)
    },
    S: (text) => {
      load.step = sizeArgument('step_size', text, io)
    },
    t: (text) => {
      const cache = cacheMode(text)
      if (!cache) throw new CommandFailure('Invalid cache mode')
      load.cache = cache
    },
    w: () => {
      load.write = true
    },
    pattern: (text) => {
      load.pattern = number(text, 'pattern byte', 0, 255)
    },
    'flush-interval': (text) => {
      load.flushInterval = number(text, 'flush interval', 0, max)
    },
  }
}

function describe({ write, count, depth, length, step, offset, flushInterval }: Load): string {
  const sending =
    `Sending ${count} ${write ? 'write' : 'read'} requests, ${length} bytes each, ` +
    `${depth} in parallel (starting at offset ${offset}, step size ${step})\n`
  if (flushInterval === 0) return sending
  return `${sending}Sending flush every ${flushInterval} requests\n`
}

async function run(edge: Edge, load: Load): Promise<void> {
  try {
    await new Bench(edge, load).run()
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    // What does not fit the disk is an error of its kind to qemu-img.
    const errno = error.code === 'OUT_OF_RANGE' ? 'EIO' : error.errno
    throw new CommandFailure(`Failed request: ${errno ? strerror(errno) : error.message}`)
  }
}

class Bench {
  readonly #edge: Edge
  readonly #load: Load
  /** Requests that were begun. */
  #begun = 0
  #at: number
  /** Who sends a request has to wait for this flush. */
  #flushing: Promise<void> = Promise.resolve()
  #inFlight = new Set<Promise<void>>()

  constructor(edge: Edge, load: Load) {
    this.#edge = edge
    this.#load = load
    this.#at = load.offset
  }

  async run(): Promise<void> {
    const workers = Math.min(this.#load.depth, this.#load.count)
    await Promise.all(Array.from({ length: workers }, () => this.#work()))
    await this.#flushing
  }

  async #work(): Promise<void> {
    const buffer = new Uint8Array(this.#load.length).fill(this.#load.pattern)
    while (this.#begun < this.#load.count) {
      await this.#flushing
      if (this.#begun >= this.#load.count) return
      this.#begun++
      await this.#track(this.#request(buffer))
      this.#flushIfDue()
    }
  }

  async #request(buffer: Uint8Array): Promise<void> {
    const { write, length, step } = this.#load
    if (length === 0) return
    const at = this.#at
    // A request that reaches over the end fails, as qemu-img's does.
    this.#at = this.#edge.size === 0 ? 0 : (at + step) % this.#edge.size
    if (write) await this.#edge.write(at, buffer)
    else await this.#edge.read(at, buffer)
  }

  async #track(request: Promise<void>): Promise<void> {
    this.#inFlight.add(request)
    try {
      await request
    } finally {
      this.#inFlight.delete(request)
    }
  }

  #flushIfDue(): void {
    const { flushInterval, drain } = this.#load
    if (flushInterval === 0 || this.#begun % flushInterval !== 0) return
    const before = drain ? [...this.#inFlight] : []
    this.#flushing = this.#flushing.then(async () => {
      await Promise.all(before)
      await this.#edge.flush()
    })
    // Seen by whoever waits for it.
    this.#flushing.catch(() => {})
  }
}
