/**
 * What it takes to share memory with another process that is not trusted, and to hear from it: mappings,
 * copies that fail rather than kill, messages with descriptors, events.
 *
 * Whoever gave us a file may make it shorter at any time. A page of a mapping that has no file behind it
 * any more raises SIGBUS in who touches it, so nobody here does: the kernel copies, and says EFAULT.
 */

/** Copies between our buffers and mappings, piece by piece and in this order, in as few system calls as can be. */
export interface CopyList {
  /** `local`, of ours, and `mapped` are addresses. */
  add(local: number, mapped: number, length: number): void
  /** From the mappings; false when memory is gone. The list is empty afterwards. */
  read(): boolean
  /** To the mappings. Each piece can be seen by other processors before the next one. */
  write(): boolean
}

/** Descriptors that signal, of which one asks in one call which have. */
export interface EventSet extends Disposable {
  /** Readable when one of them has been signalled. */
  readonly fd: number
  /** Each signal is told once, whether anybody reads the descriptor or not. */
  add(fd: number, id: number): void
  delete(fd: number): void
  /** Ids of those that have been signalled since; never waits. */
  take(): readonly number[]
}

export const nothingYet = -1

export interface SharedMemorySys {
  /** Maps a file, shared, for reading and writing; the address. Offset and length are multiples of its pages. */
  map(fd: number, offset: number, length: number): number
  unmap(address: number, length: number): void
  /** Bytes of a mapping. Only of a file that cannot shrink, and not after `unmap`. */
  view(address: number, length: number): Uint8Array
  /** Whether a file of memory is sealed against becoming shorter; undefined for what is no file of memory. */
  cannotShrink(fd: number): boolean | undefined

  copyList(): CopyList
  /** Of the first byte; good as long as the buffer lives. */
  addressOf(bytes: Uint8Array): number

  eventSet(): EventSet
  /** Signals an event descriptor; one that has been signalled too often to count stays so. */
  signal(fd: number): void

  /**
   * Takes what a stream socket has for `target`, and adds descriptors that came with it to `fds`: at most 8
   * of a call, further ones are dropped. The number of bytes; 0 at the end, `nothingYet` while there is
   * nothing.
   */
  receive(socket: number, target: Uint8Array, fds: number[]): number
  /** Whether the socket has taken all of it at once. */
  send(socket: number, bytes: Uint8Array): boolean
}
