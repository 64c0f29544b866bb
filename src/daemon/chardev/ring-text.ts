/** Text and bytes of ring buffers, as QEMU turns one into the other. */
import { invalid } from '../../errors.ts'

/** U+0000 as QEMU's strings have it, which end at a byte of 0. */
const zero = Buffer.of(0xc0, 0x80)

/** What `ringbuf-write` of a text puts in. */
export function encodeText(text: string): Uint8Array {
  const parts = text.split('\0').map((part) => Buffer.from(part))
  return Buffer.concat(parts.flatMap((part, index) => (index === 0 ? [part] : [zero, part])))
}

/** What `ringbuf-read` says: the text up to a byte of 0, with U+FFFD for what is no UTF-8. */
export function decodeText(bytes: Uint8Array): string {
  const end = bytes.indexOf(0)
  const text = Buffer.from(end < 0 ? bytes : bytes.subarray(0, end))
  const parts: string[] = []
  let start = 0
  for (let at = text.indexOf(zero); at >= 0; at = text.indexOf(zero, start)) {
    parts.push(text.toString('utf8', start, at))
    start = at + zero.length
  }
  parts.push(text.toString('utf8', start))
  return parts.join('\0')
}

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

/**
 * As GLib decodes Base64, by which QEMU does: whole groups of four, white space skipped, an
 * incomplete group at the end dropped, `=` taken for zero wherever it stands.
 */
export function decodeBase64(text: string): Uint8Array {
  const digits = text.replaceAll(/\s/g, '')
  if (!/^[A-Za-z0-9+/=]*$/.test(digits)) throw invalid('Base64 data contains invalid characters')
  const bytes: number[] = []
  for (let at = 0; at + 4 <= digits.length; at += 4) {
    const group = digits.slice(at, at + 4)
    const value = [...group].reduce(
      (sum, digit) => sum * 64 + Math.max(0, alphabet.indexOf(digit)),
      0,
    )
    bytes.push(Math.floor(value / 65536))
    if (group[2] !== '=') bytes.push(Math.floor(value / 256) % 256)
    if (group[3] !== '=') bytes.push(value % 256)
  }
  return Uint8Array.from(bytes)
}
