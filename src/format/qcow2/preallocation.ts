/** What is done to clusters that get their place in the file before anybody writes them. */
import { type HostRange, type Preallocation, plainWriteIo, plainZeroIo } from '../../block/layer.ts'
import { zeroes } from '../../bytes/zero.ts'

/**
 * Takes their space. Afterwards they read as zeroes, unless `keep`: in a data file whatever is there
 * is the disk's.
 */
export function takeSpace(mode: Preallocation, keep: boolean) {
  return async ({ layer, offset, length }: HostRange, zeroed: boolean): Promise<void> => {
    if (mode === 'full') {
      for (let at = 0; at < length; at += zeroes.length) {
        const part = zeroes.subarray(0, Math.min(zeroes.length, length - at))
        await layer.write(offset + at, part, plainWriteIo)
      }
    } else if (mode === 'falloc' || !(zeroed || keep)) {
      await layer.writeZeroes(offset, length, plainZeroIo)
    }
  }
}
