/**
 * A disk that ends within a sector, as QEMU's NBD exports show it: to the end of that sector, with zeroes
 * behind what there is. Writing there makes the disk that much longer.
 */
import { Filter } from '../../block/filter.ts'
import type { BlockLayer, Completion, Extent, Io, WriteIo, ZeroIo } from '../../block/layer.ts'
import { alignUp } from '../../bytes/range.ts'

const sectorSize = 512

/** Whether somebody who serves the disk has to be able to make it longer. */
export function endsWithinSector({ size }: Pick<BlockLayer, 'size'>): boolean {
  return size % sectorSize !== 0
}

/** The disk itself where nothing is missing; nobody changes its size while it is served. */
export function inWholeSectors<L extends BlockLayer>(disk: L): L | WholeSectors {
  return endsWithinSector(disk) ? new WholeSectors(disk) : disk
}

export class WholeSectors extends Filter {
  /** One after the other: of two writes none cuts off what the other has. */
  #turn: Promise<void> = Promise.resolve()

  override get size(): number {
    return alignUp(this.next.size, sectorSize)
  }

  override read(offset: number, target: Uint8Array, io: Io): Completion {
    const inside = Math.max(0, this.next.size - offset)
    if (target.length <= inside) return this.next.read(offset, target, io)
    target.fill(0, inside)
    if (inside > 0) return this.next.read(offset, target.subarray(0, inside), io)
  }

  override write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    const write = () => this.next.write(offset, source, io)
    const end = offset + source.length
    return end <= this.next.size ? write() : this.#reach(end, io).then(write)
  }

  override writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    const write = () => this.next.writeZeroes(offset, length, io)
    const end = offset + length
    return end <= this.next.size ? write() : this.#reach(end, io).then(write)
  }

  override discard(offset: number, length: number, io: Io): Completion {
    const inside = Math.min(length, this.next.size - offset)
    if (inside > 0) return this.next.discard(offset, inside, io)
  }

  override extentAt(offset: number, length: number, io: Io): Extent | Promise<Extent> {
    const inside = Math.min(length, this.next.size - offset)
    if (inside > 0) return this.next.extentAt(offset, inside, io)
    return { kind: 'zero', allocated: false, offset, length }
  }

  /** The disk reaches to `end` at least. */
  #reach(end: number, io: Io): Promise<void> {
    const reached = this.#turn.then(async () => {
      if (end > this.next.size) await this.next.truncate(end, { signal: io.signal })
    })
    this.#turn = reached.catch(() => {})
    return reached
  }
}
