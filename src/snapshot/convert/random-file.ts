/** A file as conversions use it: anywhere, and in any order. */
export interface RandomFile {
  /** For messages. */
  readonly name: string
  readonly size: number
  /** Fills `target`, or as much of it as there is; says how much. */
  read(offset: number, target: Uint8Array): Promise<number>
}

export interface RandomTarget {
  readonly name: string
  /** What is skipped reads as zeroes. */
  write(offset: number, bytes: Uint8Array): Promise<void>
}
