/** Builds sections with pages of RAM, each in memory that is used again. */
import { viewOf } from '../../bytes/view.ts'
import { maxNameBytes, ramFlag, token } from './format.ts'

const { RAM_SAVE_FLAG_ZERO, RAM_SAVE_FLAG_PAGE, RAM_SAVE_FLAG_CONTINUE, RAM_SAVE_FLAG_EOS } =
  ramFlag

const sectionOverhead = 5 + 8 + 5
const recordOverhead = 9

export class RamPart {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #pageSize: number
  readonly #sectionId: number
  #name: Uint8Array = new Uint8Array(0)
  #length = 0
  #named = false

  /** Holds up to `pages` pages of one block. */
  constructor(sectionId: number, pageSize: number, pages: number) {
    const length = sectionOverhead + 1 + maxNameBytes + pages * (recordOverhead + pageSize)
    this.#bytes = new Uint8Array(Buffer.allocUnsafeSlow(length).buffer)
    this.#view = viewOf(this.#bytes)
    this.#pageSize = pageSize
    this.#bytes[0] = token.QEMU_VM_SECTION_PART
    this.#view.setUint32(1, sectionId)
    this.#sectionId = sectionId
  }

  /** Begins anew; `name` is the block's. */
  begin(name: Uint8Array): void {
    this.#length = 5
    this.#name = name
    this.#named = false
  }

  get isEmpty(): boolean {
    return this.#length <= 5
  }

  page(offset: number, data: Uint8Array): void {
    this.#record(offset, RAM_SAVE_FLAG_PAGE)
    this.#bytes.set(data, this.#length)
    this.#length += this.#pageSize
  }

  zero(offset: number): void {
    this.#record(offset, RAM_SAVE_FLAG_ZERO)
    this.#bytes[this.#length++] = 0
  }

  /** The section, valid until `begin`. */
  finish(): Uint8Array {
    this.#u64(RAM_SAVE_FLAG_EOS)
    this.#bytes[this.#length] = token.QEMU_VM_SECTION_FOOTER
    this.#view.setUint32(this.#length + 1, this.#sectionId)
    this.#length += 5
    return this.#bytes.subarray(0, this.#length)
  }

  /** The first record of a section names its block, so that sections stand alone. */
  #record(offset: number, flag: number): void {
    if (this.#named) {
      this.#u64(offset + flag + RAM_SAVE_FLAG_CONTINUE)
      return
    }
    this.#u64(offset + flag)
    this.#bytes[this.#length] = this.#name.length
    this.#bytes.set(this.#name, this.#length + 1)
    this.#length += 1 + this.#name.length
    this.#named = true
  }

  #u64(value: number): void {
    this.#view.setUint32(this.#length, Math.floor(value / 2 ** 32))
    this.#view.setUint32(this.#length + 4, value % 2 ** 32)
    this.#length += 8
  }
}
