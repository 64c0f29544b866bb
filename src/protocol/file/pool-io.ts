/**
 * Reads and writes in Node's thread pool. One promise a request, however often the system
 * transfers less than asked.
 */
import fs from 'node:fs'
import { BlockError } from '../../errors.ts'
import type { OpenFile } from './open-file.ts'

/**
 * Fills `target` from `start` on with the bytes at `offset + start`, and with zeroes behind the
 * end of the file.
 */
export function readInPool(
  file: OpenFile,
  target: Uint8Array,
  start: number,
  offset: number,
): Promise<void> {
  const fd = file.enter()
  return new Promise((resolve, reject) => {
    const next = (at: number) => {
      fs.read(fd, target, at, target.length - at, offset + at, (error, count) => {
        if (!error && count > 0 && at + count < target.length) return next(at + count)
        file.leave()
        if (error) return reject(file.fail(error, `reading ${target.length} bytes`, offset))
        if (count === 0) target.fill(0, at)
        resolve()
      })
    }
    next(start)
  })
}

/** Writes `source` from `start` on to `offset + start`. */
export function writeInPool(
  file: OpenFile,
  source: Uint8Array,
  start: number,
  offset: number,
): Promise<void> {
  const fd = file.enter()
  return new Promise((resolve, reject) => {
    const next = (at: number) => {
      fs.write(fd, source, at, source.length - at, offset + at, (error, count) => {
        if (!error && count > 0 && at + count < source.length) return next(at + count)
        file.leave()
        if (error) return reject(file.fail(error, `writing ${source.length} bytes`, offset))
        if (count === 0 && at < source.length) return reject(tookNothing(file, offset + at))
        resolve()
      })
    }
    next(start)
  })
}

/** One attempt: fewer bytes than asked for are the caller's to judge. */
export function readOnce(
  file: OpenFile,
  target: Uint8Array,
  length: number,
  offset: number,
): Promise<number> {
  const fd = file.enter()
  return new Promise((resolve, reject) => {
    fs.read(fd, target, 0, length, offset, (error, count) => {
      file.leave()
      if (error) reject(file.fail(error, `reading ${length} bytes`, offset))
      else resolve(count)
    })
  })
}

export function tookNothing(file: OpenFile, offset: number): BlockError {
  return new BlockError('IO', `${file.path} took none of the bytes written at ${offset}`, {
    node: file.node,
    path: file.path,
    offset,
    errno: 'EIO',
  })
}
