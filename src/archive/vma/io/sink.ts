/** Where an archive goes: a stream of bytes that is published whole or not at all. */
export interface ArchiveSink {
  /**
   * Appends bytes. Calls follow each other in the order of the archive, each with whole units
   * (header, extents, index), and need not wait for one another. The buffer belongs to the sink
   * until the promise settles. A rejection is final: only `abort` may follow.
   */
  write(bytes: Uint8Array): Promise<void>
  /** All writes have settled: makes the archive durable and gives it its name. */
  finish(): Promise<void>
  /**
   * Gives up. A file that was begun is removed; what others own is left alone. Writes under way
   * settle, even those that nobody would ever have read. Never rejects.
   */
  abort(): Promise<void>
}
