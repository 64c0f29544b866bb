/** Shorter ones cost less to collect than to give back. */
const worthwhile = 16 * 1024

/**
 * Frees the memory of a received chunk now, instead of when the garbage collector comes by: sockets
 * take fresh memory for every read, and at a gigabyte a second the collector runs for nothing else.
 * Only the owner may do this, when nobody looks at the chunk any more; afterwards it is empty.
 */
export function giveBack(chunk: Uint8Array): void {
  const { buffer } = chunk
  // Part of a larger buffer, or shared: others own the rest.
  if (chunk.length < worthwhile || chunk.length !== buffer.byteLength) return
  if (buffer instanceof ArrayBuffer) (buffer as Transferable).transfer?.(0)
}

/** ECMAScript 2024; Node has it from 21 on. */
type Transferable = ArrayBuffer & { transfer?(length: number): ArrayBuffer }
