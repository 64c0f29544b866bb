/**
 * The state in which the guest goes on when it is loaded, which the section `globalstate` has: a
 * length and 100 bytes for its name.
 */
import type { DeviceSection } from './stream/stream-item.ts'

const nameLength = 100

/** The section, copied, with the guest running; the same one where it is not what is expected. */
export function asRunning(section: DeviceSection): Uint8Array {
  const { name, body, bytes } = section
  if (name !== 'globalstate' || body.length < 4 + nameLength) return bytes
  const at = body.byteOffset - bytes.byteOffset
  const changed = Buffer.from(bytes)
  const text = Buffer.alloc(nameLength)
  const length = text.write('running') + 1
  changed.writeUInt32BE(length, at)
  text.copy(changed, at + 4)
  return changed
}
