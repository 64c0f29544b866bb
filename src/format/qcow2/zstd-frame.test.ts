import zlib from 'node:zlib'
import { expect, it } from 'vitest'
import { zstdFrameLength } from './zstd-frame.ts'

const contents: readonly (readonly [string, Uint8Array])[] = [
  ['nothing', new Uint8Array(0)],
  ['one value', new Uint8Array(65536).fill(7)],
  ['two values', Uint8Array.from({ length: 300_000 }, (_, index) => (index * index) % 251)],
]

it.each(contents)('finds the end of a frame of %s', (_, content) => {
  for (const checksum of [0, 1]) {
    const frame = zlib.zstdCompressSync(content, {
      params: { [zlib.constants.ZSTD_c_checksumFlag]: checksum },
    })
    const followed = Buffer.concat([frame, Buffer.alloc(300, 0xfd)])
    expect(zstdFrameLength(followed)).toBe(frame.length)
  }
})

it('takes all of what is cut off', () => {
  const frame = zlib.zstdCompressSync(new Uint8Array(5000).fill(1))
  for (let length = 0; length < frame.length; length++) {
    expect(zstdFrameLength(frame.subarray(0, length))).toBe(length)
  }
})
