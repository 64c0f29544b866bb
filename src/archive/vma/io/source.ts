/** Where an archive comes from: bytes in order, and at any offset where that is possible. */

export interface ArchiveSource extends AsyncDisposable {
  /** For messages. */
  readonly name: string
  /**
   * Fills `target` with the next bytes; fewer only at the end. The buffer is lent until the
   * promise settles; one read at a time.
   */
  read(target: Uint8Array): Promise<number>
  /** Independent of `read`; any number at a time. */
  readonly random?: RandomAccess
}

export interface RandomAccess {
  readonly size: number
  /** Fills `target` from `offset`; fewer bytes only at the end. */
  readAt(offset: number, target: Uint8Array): Promise<number>
}

/** Bytes of a stream that come in pieces of any size. */
export type Chunks = AsyncIterable<Uint8Array>
