/** The header of LUKS version 1 as it is stored: "LUKS On-Disk Format Specification", section 3. */
import { array, bytes, struct, u16, u32 } from '../../bytes/struct.ts'

export const magic = Uint8Array.from([0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe])

/** The version that is done here. */
export const version = 1

/** Units of offsets in the header. */
export const headerSectorSize = 512

export const slotCount = 8
export const digestBytes = 20
export const saltBytes = 32

/** `LUKS_KEY_ENABLED` and `LUKS_KEY_DISABLED` */
export const slotState = { enabled: 0x00ac71f3, disabled: 0x0000dead } as const

/** How many stripes a key is spread over. Others are not in use. */
export const stripeCount = 4000

/** Key material begins here at the earliest, and is aligned to this many bytes where we lay it out. */
export const materialAlignment = 4096

const slotFields = {
  active: u32,
  iterations: u32,
  salt: bytes(saltBytes),
  /** In sectors, from the beginning of the header. */
  keyMaterialOffset: u32,
  stripes: u32,
}

export const slotStruct = struct('big', slotFields)

export const phdrStruct = struct('big', {
  magic: bytes(6),
  version: u16,
  cipherName: bytes(32),
  cipherMode: bytes(32),
  hashSpec: bytes(32),
  /** In sectors. */
  payloadOffset: u32,
  keyBytes: u32,
  mkDigest: bytes(digestBytes),
  mkDigestSalt: bytes(saltBytes),
  mkDigestIter: u32,
  uuid: bytes(40),
  slots: array(bytes(slotStruct.size), slotCount),
})

/** Whether the bytes begin as a LUKS header of the version that is done here does. */
export function isLuks(head: Uint8Array): boolean {
  return (
    head.length >= magic.length + 2 &&
    magic.every((byte, at) => head[at] === byte) &&
    head[6] * 256 + head[7] === version
  )
}
