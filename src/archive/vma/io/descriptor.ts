/** Whole reads and writes on descriptors, through the thread pool. */
import { close, fstat, open, read, type Stats, write } from 'node:fs'
import { promisify } from 'node:util'
import { patiently } from '../../../sys/patiently.ts'

export const openDescriptor: (path: string, flags: number) => Promise<number> = promisify(open)
export const closeDescriptor = promisify(close)
export const statDescriptor: (fd: number) => Promise<Stats> = promisify(fstat)

/** Writes all of `bytes` at `position`, or where the descriptor stands when it is null. */
export async function writeFully(
  fd: number,
  bytes: Uint8Array,
  position: number | null,
): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += await patiently((callback) =>
      write(
        fd,
        bytes,
        done,
        bytes.length - done,
        position === null ? null : position + done,
        callback,
      ),
    )
  }
}

/** Fills `target` from `position`, or from where the descriptor stands. Less only at the end. */
export async function readFully(
  fd: number,
  target: Uint8Array,
  position: number | null,
): Promise<number> {
  let done = 0
  while (done < target.length) {
    const count = await patiently((callback) =>
      read(
        fd,
        target,
        done,
        target.length - done,
        position === null ? null : position + done,
        callback,
      ),
    )
    if (count === 0) break
    done += count
  }
  return done
}
