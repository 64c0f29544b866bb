/**
 * Grows a file in large steps as a format writes behind its end, since file systems do that better
 * than many small ones. What is reserved is not shown, and given back when the node is closed or
 * nobody writes any more.
 */
import type { BlockDriver, NodeReference } from '../block/driver.ts'
import { Filter } from '../block/filter.ts'
import { type BlockLayer, type Io, plainIo, plainZeroIo } from '../block/layer.ts'
import { OptionReader, takeFile } from '../block/options.ts'
import type { ChildRole, Permissions } from '../block/permission.ts'
import { alignUp, MiB } from '../bytes/range.ts'
import { BlockError, invalid } from '../errors.ts'

interface PreallocateOptions {
  readonly file: NodeReference
  /** The file's size becomes a multiple of this. */
  readonly align: number
  /** Bytes that are reserved behind what is written. */
  readonly size: number
}

const sectorSize = 512

class Preallocate extends Filter {
  #options: PreallocateOptions
  /** Where the data ends while more is reserved; undefined when nothing is. */
  #dataEnd: number | undefined

  constructor(next: BlockLayer, options: PreallocateOptions) {
    super(next)
    this.#options = options
  }

  /** From the next time on that room is reserved. */
  reopen(options: PreallocateOptions): void {
    this.#options = options
  }

  override get size(): number {
    return this.#dataEnd ?? this.next.size
  }

  /** Reserves ahead, where the file can; otherwise grows it to `end`. */
  async extend(end: number, io: Io): Promise<void> {
    const fileEnd = this.next.size
    if (end > fileEnd && !(await this.#reserve(fileEnd, end, io)))
      return await this.truncate(end, io)
    this.#dataEnd = end
  }

  override async truncate(size: number, io: Io): Promise<void> {
    if (this.next.size !== size) await this.next.truncate(size, io)
    this.#dataEnd = undefined
  }

  /** What is reserved will have to be cut off, also when no parent may write any more. */
  childPermissions(_role: ChildRole, needs: Permissions): Permissions {
    const grows = needs.uses.has('write') && needs.uses.has('resize')
    if (!grows && this.#dataEnd === undefined) return needs
    const shares = new Set(needs.shares)
    shares.delete('write')
    shares.delete('resize')
    return { uses: new Set([...needs.uses, 'write', 'resize']), shares }
  }

  async setReadOnly(readOnly: boolean, io: Io): Promise<void> {
    if (readOnly) await this.#giveBack(io)
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await this.#giveBack(plainIo)
  }

  async #reserve(fileEnd: number, end: number, io: Io): Promise<boolean> {
    const target = alignUp(end + this.#options.size, this.#options.align)
    const before = this.size
    try {
      await this.next.truncate(target, io)
      const zeroIo = { ...plainZeroIo, signal: io.signal, fastOnly: true }
      await this.next.writeZeroes(fileEnd, target - fileEnd, zeroIo)
      return true
    } catch (error) {
      if (io.signal.aborted || !(error instanceof BlockError)) throw error
      // No room for so much, or no fast way to reserve it: what is needed is asked for plainly.
      this.#dataEnd = before
      return false
    }
  }

  async #giveBack(io: Io): Promise<void> {
    const end = this.#dataEnd
    if (end === undefined) return
    if (this.next.size > end) await this.next.truncate(end, io)
    this.#dataEnd = undefined
  }
}

export const preallocate: BlockDriver<PreallocateOptions> = {
  name: 'preallocate',
  kind: 'filter',
  naming: { strong: [], plain: 'none' },
  changeable: ['prealloc-align', 'prealloc-size'],
  lasting: ['prealloc-align', 'prealloc-size'],
  parse(options) {
    const reader = new OptionReader(options)
    const parsed = {
      file: takeFile(reader),
      align: reader.bytes('prealloc-align') ?? MiB,
      size: reader.bytes('prealloc-size') ?? 128 * MiB,
    }
    if (parsed.align % sectorSize !== 0) {
      throw invalid(
        `prealloc-align parameter of preallocate filter is not aligned to ${sectorSize}`,
      )
    }
    reader.finish()
    return { ...parsed, align: Math.max(1, parsed.align) }
  },
  open: async (options, context) =>
    new Preallocate(await context.child('filtered', options.file), options),
}
