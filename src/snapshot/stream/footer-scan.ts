/**
 * Finds where a device's state ends: at the first footer with the section's id behind which
 * something stands that may stand there. Bytes that come later continue the search, so a section
 * is gone through once.
 */
import { command as commands, token } from './format.ts'

export type ScanResult =
  /** `end`: behind the footer. */
  | { readonly kind: 'end'; readonly end: number }
  /** More bytes are needed. */
  | { readonly kind: 'unknown' }

const unknown: ScanResult = { kind: 'unknown' }

const footerLength = 5

/** Section head: token, id, length of the name. */
const headLength = 6

export class FooterScan {
  readonly #pattern: Buffer
  readonly #isRam: (sectionId: number) => boolean
  /** Bytes in which there is no footer for sure. */
  #searched = 0

  constructor(sectionId: number, isRam: (sectionId: number) => boolean) {
    this.#pattern = Buffer.alloc(footerLength)
    this.#pattern[0] = token.QEMU_VM_SECTION_FOOTER
    this.#pattern.writeUInt32BE(sectionId, 1)
    this.#isRam = isRam
  }

  /** `bytes` begin with the section, its state with byte `from`. */
  find(bytes: Uint8Array, from: number): ScanResult {
    const data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    for (let at = Math.max(from, this.#searched); ; at++) {
      at = data.indexOf(this.#pattern, at)
      if (at < 0) {
        this.#searched = Math.max(from, data.length - footerLength + 1)
        return unknown
      }
      const follows = this.#canFollow(data, at + footerLength)
      if (follows === true) return { kind: 'end', end: at + footerLength }
      this.#searched = at
      if (follows === undefined) return unknown
    }
  }

  /** What the stream ended in, when it did behind a footer. */
  atEnd(bytes: Uint8Array, from: number): string | undefined {
    const found = Buffer.from(bytes).indexOf(this.#pattern, from) >= 0
    return found ? 'the place of a section' : undefined
  }

  /** Undefined: more bytes are needed to tell. */
  #canFollow(data: Buffer, at: number): boolean | undefined {
    if (at >= data.length) return undefined
    switch (data[at]) {
      case token.QEMU_VM_EOF:
        // The end of the stream, or the description; a source that waits sends neither for a while.
        if (at + 1 === data.length) return true
        return data[at + 1] === token.QEMU_VM_VMDESCRIPTION && fits(data, at + 6, isBrace)
      case token.QEMU_VM_SECTION_PART:
      case token.QEMU_VM_SECTION_END:
        return at + 5 > data.length ? undefined : this.#isRam(data.readUInt32BE(at + 1))
      case token.QEMU_VM_SECTION_START:
      case token.QEMU_VM_SECTION_FULL:
        return isHead(data, at)
      case token.QEMU_VM_COMMAND:
        if (at + 5 > data.length) return undefined
        return isCommand(data.readUInt16BE(at + 1), data.readUInt16BE(at + 3))
      default:
        return false
    }
  }
}

function isBrace(byte: number): boolean {
  return byte === 0x7b
}

/** Whether the byte, if it is there, is right. */
function fits(data: Buffer, at: number, right: (byte: number) => boolean): boolean {
  return at >= data.length || right(data[at])
}

function isHead(data: Buffer, at: number): boolean | undefined {
  if (at + headLength > data.length) return undefined
  const nameLength = data[at + 5]
  const end = at + headLength + nameLength
  if (nameLength === 0) return false
  if (end + 8 > data.length) return undefined
  for (let index = at + headLength; index < end; index++) {
    if (data[index] < 0x21 || data[index] > 0x7e) return false
  }
  // Versions of devices are small numbers; instances may be -1 or any number.
  return data.readUInt32BE(end + 4) < 65536
}

function isCommand(number: number, length: number): boolean {
  const last = Math.max(...Object.values(commands))
  return number > 0 && number <= last && length <= 4096
}
