/**
 * Where a zstd frame ends (RFC 8878, section 3.1.1). The length of a compressed cluster is recorded
 * in sectors, so other data follows the frame, which Node's decoder takes for another one.
 */

const magicBytes = 4
const blockHeaderBytes = 3
const checksumBytes = 4
const dictionaryIdBytes = [0, 1, 2, 4]
const contentSizeBytes = [0, 2, 4, 8]
const blockType = { raw: 0, rle: 1, compressed: 2 }

/** Bytes of the first frame in `source`, or all of them where no whole frame is found. */
export function zstdFrameLength(source: Uint8Array): number {
  if (source.length <= magicBytes) return source.length
  const descriptor = source[magicBytes]
  const hasChecksum = Math.floor(descriptor / 4) % 2 === 1
  let at = magicBytes + headerBytes(descriptor)
  for (;;) {
    if (at + blockHeaderBytes > source.length) return source.length
    const header = source[at] + source[at + 1] * 2 ** 8 + source[at + 2] * 2 ** 16
    const type = Math.floor(header / 2) % 4
    const size = Math.floor(header / 8)
    at += blockHeaderBytes + (type === blockType.rle ? 1 : size)
    if (header % 2 === 1) break
  }
  return Math.min(source.length, at + (hasChecksum ? checksumBytes : 0))
}

/** Bytes between the magic number and the first block. */
function headerBytes(descriptor: number): number {
  const singleSegment = Math.floor(descriptor / 32) % 2 === 1
  const contentSizeFlag = Math.floor(descriptor / 64)
  const contentSize = contentSizeFlag === 0 && singleSegment ? 1 : contentSizeBytes[contentSizeFlag]
  return 1 + (singleSegment ? 0 : 1) + dictionaryIdBytes[descriptor % 4] + contentSize
}
