import { Filter } from '../../block/filter.ts'
import type { Completion, Io, WriteIo, ZeroIo } from '../../block/layer.ts'

/** An export with a write-through cache: what is answered is on stable storage. */
export class Writethrough extends Filter {
  override write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    return this.next.write(offset, source, { ...io, fua: true })
  }

  override writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    return this.next.writeZeroes(offset, length, { ...io, fua: true })
  }

  override async discard(offset: number, length: number, io: Io): Promise<void> {
    await this.next.discard(offset, length, io)
    await this.next.flush(io)
  }
}
