/** A new image for each of two programs, and the same command line of `varve io` and qemu-io on it. */
import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { realIo, varveIo } from './io-tools.ts'

/** Makes an image, twice: one for each program. */
export type Maker = (path: string) => void | Promise<void>

/** One MiB, empty. */
export const raw: Maker = (path) => {
  writeFileSync(path, '')
  truncateSync(path, 1024 * 1024)
}

/** Ends within a sector. */
export const oddRaw: Maker = (path) => writeFileSync(path, Buffer.alloc(1000, 0x41))

/** Each byte of the first 256 is another. */
export const patterned: Maker = (path) => {
  const bytes = Buffer.alloc(64 * 1024, 0)
  for (let at = 0; at < 256; at++) bytes[at] = at
  writeFileSync(path, bytes)
}

/** Expects the same of both programs; returns the image that varve has left. */
export type CompareBoth = (
  make: Maker,
  args: (image: string) => readonly string[],
  input?: string,
) => Promise<string>

export function comparingIn(folder: string): CompareBoth {
  let images = 0
  return async (make, args, input = '') => {
    const image = join(folder, `image${images++}`)
    await make(image)
    const expected = await realIo(args(image), input)
    await make(image)
    expect(await varveIo(args(image), input)).toEqual(expected)
    return image
  }
}

export function commands(...lines: readonly string[]): string[] {
  return lines.flatMap((line) => ['-c', line])
}

/** What a qcow2 image is made like, by the options of qemu-img. */
export const qcow2Kinds: Readonly<Record<string, string>> = {
  'version 3': 'compat=1.1',
  'version 2': 'compat=0.10',
  'clusters of 512 bytes, refcounts of one bit': 'cluster_size=512,refcount_bits=1',
  'clusters of 2 MiB, lazy refcounts': 'cluster_size=2M,lazy_refcounts=on',
}
