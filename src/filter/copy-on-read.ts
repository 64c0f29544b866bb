/**
 * What a guest reads from backing files is stored in the image too, so that it need not be read
 * from there again. `bottom` names the lowest image of the chain from which it is taken.
 */

import type { CompressedWriter, Medium } from '../block/abilities.ts'
import type { BlockDriver, ChainProbe, NodeReference } from '../block/driver.ts'
import { Filter } from '../block/filter.ts'
import type { BlockLayer, Completion, Extent, Io } from '../block/layer.ts'
import { OptionReader, takeFile } from '../block/options.ts'
import type { ChildRole, Permissions } from '../block/permission.ts'
import { BlockError } from '../errors.ts'

interface CopyOnReadOptions {
  readonly file: NodeReference
  readonly bottom?: string
}

export class CopyOnRead extends Filter {
  readonly #chain: ChainProbe | undefined

  /** `chain`: where what is copied comes from; all that is below unless given. Released in the end. */
  constructor(next: BlockLayer, chain: ChainProbe | undefined) {
    super(next)
    this.#chain = chain
  }

  get compressed(): CompressedWriter | undefined {
    return this.next.compressed
  }

  get medium(): Medium | undefined {
    return this.next.medium
  }

  override read(offset: number, target: Uint8Array, io: Io): Completion {
    const run = this.next.extentAt(offset, target.length, io)
    // What was asked here is asked again; if it fails, it is told there.
    if (run instanceof Promise) run.catch(() => {})
    else if (isHere(run) && run.length >= target.length) return this.next.read(offset, target, io)
    return this.#copyAndRead(offset, target, io)
  }

  /** Copying changes nothing that anybody sees, so it is allowed beside those who only read. */
  childPermissions(_role: ChildRole, needs: Permissions): Permissions {
    return {
      uses: new Set([...needs.uses, 'writeUnchanged']),
      shares: new Set([...needs.shares, 'writeUnchanged']),
    }
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    this.#chain?.release()
  }

  async #copyAndRead(offset: number, target: Uint8Array, io: Io): Promise<void> {
    const end = offset + target.length
    for (let at = offset; at < end; ) {
      const run = await this.next.extentAt(at, end - at, io)
      let { length } = run
      let wanted = !isHere(run)
      if (wanted && this.#chain) {
        const status = await this.#chain.extentAt(at, length, io)
        length = status.length
        wanted = status.allocated
      }
      if (wanted) await this.#copy(at, length, io)
      at += length
    }
    await this.next.read(offset, target, io)
  }

  /** The guest wants to read: that a copy cannot be kept is no reason to fail it. */
  async #copy(offset: number, length: number, io: Io): Promise<void> {
    try {
      await this.next.populate?.(offset, length, io)
    } catch (error) {
      if (io.signal.aborted || !(error instanceof BlockError)) throw error
    }
  }
}

function isHere(run: Extent): boolean {
  return run.kind !== 'backing'
}

export const copyOnRead: BlockDriver<CopyOnReadOptions> = {
  name: 'copy-on-read',
  kind: 'filter',
  naming: { strong: [], plain: 'none' },
  parse(options) {
    const reader = new OptionReader(options)
    const parsed = { file: takeFile(reader), bottom: reader.string('bottom') }
    reader.finish()
    return parsed
  },
  async open({ file, bottom }, context) {
    const next = await context.child('filtered', file)
    return new CopyOnRead(next, bottom === undefined ? undefined : context.chain?.(next, bottom))
  },
}
