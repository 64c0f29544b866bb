/**
 * Requests that come together made fewer: those that follow each other on the disk become one. Each
 * saved is a walk through the graph, a system call, and for a cluster format one more chance to write
 * whole clusters without reading what is around.
 */

/** A part of the disk and the memory that belongs to it. */
export interface DiskPart {
  readonly offset: number
  readonly bytes: Uint8Array
}

/** One request, and the parts it is made of, in order. */
export interface JoinedParts {
  readonly offset: number
  readonly length: number
  readonly parts: readonly DiskPart[]
}

/**
 * In the order of the disk, each at most `limit` bytes long unless a part is longer. Undefined when
 * parts overlap: then their order matters, and they are better left alone.
 */
export function joinParts(parts: readonly DiskPart[], limit: number): JoinedParts[] | undefined {
  const sorted = parts.toSorted((one, other) => one.offset - other.offset)
  const joined: { offset: number; length: number; parts: DiskPart[] }[] = []
  for (const part of sorted) {
    const { offset, bytes } = part
    const last = joined.at(-1)
    const end = last ? last.offset + last.length : 0
    if (last && offset < end) return undefined
    if (last && offset === end && last.length + bytes.length <= limit) {
      last.length += bytes.length
      last.parts.push(part)
    } else {
      joined.push({ offset, length: bytes.length, parts: [part] })
    }
  }
  return joined
}

/** The bytes of all parts, one after the other; a single part's own. */
export function gathered({ parts }: JoinedParts): Uint8Array {
  return parts.length === 1 ? parts[0].bytes : Buffer.concat(parts.map(({ bytes }) => bytes))
}

/** Gives each part its share of what was read for all. */
export function scatter({ offset, parts }: JoinedParts, bytes: Uint8Array): void {
  for (const part of parts) {
    const start = part.offset - offset
    part.bytes.set(bytes.subarray(start, start + part.bytes.length))
  }
}
