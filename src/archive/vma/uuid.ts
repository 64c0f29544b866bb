import { randomBytes } from 'node:crypto'

/** A random UUID, 16 bytes: version 4 of RFC 9562. */
export function randomUuid(): Uint8Array {
  return asUuid(randomBytes(16), 4)
}

/** Sets the version and variant bits of RFC 9562; returns the same array. */
export function asUuid(uuid: Uint8Array, version: 4 | 8): Uint8Array {
  uuid[6] = (uuid[6] & 0x0f) | (version << 4)
  uuid[8] = (uuid[8] & 0x3f) | 0x80
  return uuid
}
