/** Which parts of a file have data. */
import type { ByteRange } from '../../bytes/range.ts'
import type { OpenFile } from './open-file.ts'

export interface FileRun extends ByteRange {
  readonly kind: 'data' | 'hole'
}

export class Holes {
  readonly #file: OpenFile
  #supported: boolean
  /**
   * The last run of data. Only data is remembered: should another process change the file,
   * a hole taken for data costs time, data taken for a hole would lose it.
   */
  #dataStart = 0
  #dataEnd = 0

  constructor(file: OpenFile) {
    this.#file = file
    this.#supported = file.sys.supported.holes
  }

  get supported(): boolean {
    return this.#supported
  }

  /** The first run at `offset`, at most `length` long. */
  runAt(offset: number, length: number): FileRun {
    if (!this.#supported) return { kind: 'data', offset, length }
    if (offset >= this.#dataStart && offset < this.#dataEnd) {
      return { kind: 'data', offset, length: Math.min(length, this.#dataEnd - offset) }
    }
    try {
      return this.#ask(offset, length)
    } catch {
      // The descriptor cannot seek to holes: everything counts as data.
      this.#supported = false
      return { kind: 'data', offset, length }
    }
  }

  /** Data may have become a hole. */
  forget(): void {
    this.#dataEnd = 0
  }

  #ask(offset: number, length: number): FileRun {
    const { fd, sys } = this.#file
    const data = sys.seekData(fd, offset)
    if (data === undefined) return { kind: 'hole', offset, length }
    if (data > offset) return { kind: 'hole', offset, length: Math.min(length, data - offset) }
    const end = sys.seekHole(fd, offset)
    // Another process may have cut the file between the two questions.
    if (end === undefined || end <= offset) return { kind: 'data', offset, length }
    this.#dataStart = offset
    this.#dataEnd = end
    return { kind: 'data', offset, length: Math.min(length, end - offset) }
  }
}
