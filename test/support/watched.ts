/** The storage of a broken image, which sees to it that not too much is asked of it at once. */
import { expect } from 'vitest'
import { Filter } from '../../src/block/filter.ts'
import type { Completion, Io } from '../../src/block/layer.ts'
import { maxL1Bytes } from '../../src/format/qcow2/limits.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'

export class Watched extends Filter {
  constructor(bytes: Uint8Array) {
    super(MemoryLayer.of(bytes))
  }

  override read(offset: number, target: Uint8Array, io: Io): Completion {
    expect(target.length).toBeLessThanOrEqual(maxL1Bytes)
    expect(offset + target.length).toBeLessThanOrEqual(this.next.size)
    return this.next.read(offset, target, io)
  }
}
