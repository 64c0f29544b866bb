/** The raw format: the disk is the file, or a window of it (`offset`, `size`). */

import type { GivenSize, ImageFacts, Medium } from '../block/abilities.ts'
import type { BlockDriver, NodeReference } from '../block/driver.ts'
import { Filter } from '../block/filter.ts'
import type {
  BlockLayer,
  Capabilities,
  Completion,
  Extent,
  Io,
  Limits,
  ResizeIo,
  WriteIo,
  ZeroIo,
} from '../block/layer.ts'
import { OptionReader } from '../block/options.ts'
import type { ChildRole, Needs, Permissions } from '../block/permission.ts'
import { alignUp } from '../bytes/range.ts'
import { BlockError, invalid } from '../errors.ts'
import { looksFormatted } from './recognised.ts'

/** QEMU counts disks in sectors. */
const sectorSize = 512

interface RawOptions {
  readonly file: NodeReference
  /** Bytes of the file before the disk begins. */
  readonly offset: number
  /** Bytes of the disk; to the end of the file when undefined. */
  readonly size?: number
  /** The format was guessed: see `RawLayer`. */
  readonly probed: boolean
}

/**
 * Forwards to the file. Where the format was only guessed, a write that would make the disk look
 * like an image of another format is refused: the next open would guess that format and follow
 * what the guest has written into its header.
 */
class RawLayer extends Filter {
  #offset: number
  #size: number | undefined
  readonly #guarded: boolean
  /** Opened as a part of the file, whose end is then of importance. */
  readonly #isWindow: boolean

  constructor(file: BlockLayer, options: RawOptions) {
    super(file)
    this.#offset = options.offset
    this.#size = options.size
    this.#guarded = options.probed
    this.#isWindow = options.offset > 0 || options.size !== undefined
  }

  /** The file's own. */
  override get image(): ImageFacts | undefined {
    return this.next.image
  }

  get medium(): Medium | undefined {
    return this.next.medium
  }

  get ioctl(): BlockLayer['ioctl'] {
    return this.next.ioctl
  }

  override get size(): number {
    return this.#size ?? Math.max(0, this.next.size - this.#offset)
  }

  /**
   * The file's own, unless the disk ends within one of its blocks: whole blocks would reach behind the
   * end, which only the file itself knows how to read. Where blocks are larger than sectors a disk that
   * is written to keeps them: to write such a block would make the disk longer.
   */
  override get limits(): Limits {
    const { limits, capabilities } = this.next
    const { alignment } = limits
    if (this.size % alignment === 0) return limits
    return alignment > sectorSize && capabilities.write ? limits : { ...limits, alignment: 1 }
  }

  override get sizeIsGiven(): GivenSize | undefined {
    return this.#size === undefined ? this.next.sizeIsGiven : undefined
  }

  override get capabilities(): Capabilities {
    const own = this.next.capabilities
    return this.#size === undefined ? own : { ...own, resize: false }
  }

  childPermissions(_role: ChildRole, { uses, shares: given }: Needs): Permissions | undefined {
    if (!this.#isWindow) return undefined
    const shares = new Set(given)
    shares.delete('resize')
    return { uses, shares }
  }

  reopen({ offset, size }: RawOptions): void {
    checkWindow(this.next, { offset, size })
    this.#offset = offset
    this.#size = size
  }

  override read(offset: number, target: Uint8Array, io: Io): Completion {
    const event = this.next.debugEvent
    if (event) return after(event('read_aio'), () => this.#read(offset, target, io))
    return this.#read(offset, target, io)
  }

  #read(offset: number, target: Uint8Array, io: Io): Completion {
    return this.next.read(offset + this.#offset, target, io)
  }

  override write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    const event = this.next.debugEvent
    if (event) return after(event('write_aio'), () => this.#write(offset, source, io))
    return this.#write(offset, source, io)
  }

  override writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    return this.next.writeZeroes(offset + this.#offset, length, io)
  }

  override discard(offset: number, length: number, io: Io): Completion {
    return this.next.discard(offset + this.#offset, length, io)
  }

  override truncate(size: number, io: ResizeIo): Completion {
    return this.next.truncate(size + this.#offset, io)
  }

  /** Where the bytes lie is the file's business; so is whether they are holes. */
  override extentAt(offset: number, length: number, io: Io): Extent | Promise<Extent> {
    const found = this.next.extentAt(offset + this.#offset, length, io)
    return found instanceof Promise ? found.then((run) => this.#here(run)) : this.#here(found)
  }

  #write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    if (this.#guarded && offset < guardedLength) return this.#writeHead(offset, source, io)
    return this.next.write(offset + this.#offset, source, io)
  }

  async #writeHead(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    const head = new Uint8Array(Math.min(guardedLength, this.size))
    await this.next.read(this.#offset, head, io)
    head.set(source.subarray(0, head.length - offset), offset)
    refuseHeaders(head)
    await this.next.write(offset + this.#offset, source, io)
  }

  #here(run: Extent): Extent {
    const offset = run.offset - this.#offset
    if (run.kind !== 'data' && run.kind !== 'zero') return { ...run, offset }
    const { length } = run
    return {
      ...run,
      offset,
      host: { layer: this.next, offset: run.offset, length, writable: true },
    }
  }
}

/** Goes on once a breakpoint lets it. */
function after(held: Completion, work: () => Completion): Completion {
  return held ? held.then(work) : work()
}

/** Bytes at the start that formats are recognised by, in the granularity of writes. */
const guardedLength = 512

/** Refuses a write after which the disk would begin like an image of some format. */
function refuseHeaders(head: Uint8Array): void {
  if (!looksFormatted(head)) return
  throw new BlockError(
    'PERMISSION',
    "this write would make a disk, whose format 'raw' was only guessed, look like another format; " +
      "name the format 'raw' to permit it",
    { offset: 0, errno: 'EPERM' },
  )
}

function checkWindow(
  file: BlockLayer,
  { offset, size = 0 }: Pick<RawOptions, 'offset' | 'size'>,
  node?: string,
): void {
  const refuse = (reason: string) => {
    throw new BlockError('INVALID_ARGUMENT', reason, { node, errno: 'EINVAL' })
  }
  // As QEMU's messages have it, files are counted in sectors.
  const whole = alignUp(file.size, sectorSize)
  if (offset > file.size) {
    refuse(`Offset (${offset}) cannot be greater than size of the containing file (${whole})`)
  }
  if (offset + size > file.size) {
    refuse(
      `The sum of offset (${offset}) and size (${size}) has to be smaller or equal to the ` +
        ` actual size of the containing file (${whole})`,
    )
  }
  if (size % sectorSize !== 0) refuse(`Specified size is not multiple of ${sectorSize}`)
}

export const raw: BlockDriver<RawOptions> = {
  name: 'raw',
  kind: 'format',
  naming: { strong: ['offset', 'size'] },
  changeable: ['offset', 'size'],
  parse(options) {
    const reader = new OptionReader(options)
    const parsed = {
      file: reader.take('file') as NodeReference,
      offset: reader.bytes('offset') ?? 0,
      size: reader.bytes('size'),
      probed: reader.boolean('x-probed') ?? false,
    }
    reader.finish()
    if (parsed.file === undefined) {
      throw invalid('A block device must be specified for "file"')
    }
    return parsed
  },
  async open(options, context) {
    const file = await context.child('filtered', options.file)
    checkWindow(file, options, context.name)
    return new RawLayer(file, options)
  },
  creator: {
    options: [{ name: 'size', type: 'size', description: 'Virtual disk size' }],
    parse(options) {
      const reader = new OptionReader(options)
      const size = reader.bytes('size')
      reader.finish()
      return { size }
    },
    async create(options, context) {
      const { size } = options as { size?: number }
      if (size !== undefined) await context.file?.truncate(size, context)
    },
    async measure(_options, source) {
      const size = alignUp(source.size, sectorSize)
      return { required: size, fullyAllocated: size }
    },
  },
}
