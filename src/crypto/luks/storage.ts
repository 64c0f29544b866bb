/** Where a header and its key material lie: a file, some clusters of an image. */
export interface HeaderStorage {
  /** Offsets count from the beginning of the header. Fills `target`; fails where there is less. */
  read(offset: number, target: Uint8Array): Promise<void>
  write(offset: number, source: Uint8Array): Promise<void>
  /** What was written is on stable storage afterwards. */
  flush(): Promise<void>
}
