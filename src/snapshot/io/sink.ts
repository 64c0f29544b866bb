/** Where a stream goes. */
export interface ByteSink {
  /** For messages. */
  readonly name: string
  /** Writes in order; the bytes are the caller's again when it settles. */
  write(bytes: Uint8Array): Promise<void>
  /** No more is written: the reader sees the end. */
  end(): Promise<void>
}
