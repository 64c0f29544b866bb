/** Where the parts of a header lie. Slots are behind the fields, each on a boundary of its own. */
import { alignUp } from '../../bytes/range.ts'
import { type CipherSpec, keyLengthOf } from '../cipher-spec.ts'
import { headerSectorSize, materialAlignment, slotCount, stripeCount } from './layout.ts'

/** Bytes of one slot's key material; the last sector may be filled up. */
export function materialLength(spec: CipherSpec): number {
  return alignUp(keyLengthOf(spec) * stripeCount, headerSectorSize)
}

/** Byte of a new header where the material of a slot lies; of the one behind the last, the disk. */
export function slotOffset(spec: CipherSpec, index: number): number {
  return materialAlignment + index * alignUp(materialLength(spec), materialAlignment)
}

/** Bytes of a new header with all its slots. */
export function payloadOffsetOf(spec: CipherSpec): number {
  return slotOffset(spec, slotCount)
}
