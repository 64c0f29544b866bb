/** `file` and `pipe`: what is written goes to a file, what is read comes from one. */
import { closeSync, openSync } from 'node:fs'
import { errnoOf, invalid, strerror } from '../../errors.ts'
import type { Chardev, ChardevData } from './chardev.ts'
import { FileStream, streamOf } from './descriptor-stream.ts'
import { SingleStream } from './single-stream.ts'

/** For all, but for the umask. */
const mode = 0o666

export function openFile({ in: input, out, append = false }: ChardevData<'file'>): Chardev {
  const output = openOrSay(out, append ? 'a' : 'w')
  if (input === undefined) return new SingleStream('file', new FileStream(output))
  try {
    return new SingleStream('file', streamOf(openOrSay(input, 'r'), output))
  } catch (error) {
    closeSync(output)
    throw error
  }
}

/** Two pipes, `device.in` and `device.out`, or one for both ways. */
export function openPipe({ device }: ChardevData<'pipe'>): Chardev {
  const [input, output] = [`${device}.in`, `${device}.out`].map(openBothWays)
  if (input !== undefined && output !== undefined) {
    return new SingleStream('pipe', streamOf(input, output))
  }
  for (const fd of [input, output]) if (fd !== undefined) closeSync(fd)
  const both = openOrSay(device, 'r+')
  return new SingleStream('pipe', streamOf(both, both))
}

/** Never waits for the other end of a pipe, being that itself. */
function openBothWays(path: string): number | undefined {
  try {
    return openSync(path, 'r+')
  } catch {
    return undefined
  }
}

export function openOrSay(path: string, flags: string | number): number {
  try {
    return openSync(path, flags, mode)
  } catch (error) {
    throw invalid(`Could not open '${path}': ${strerror(errnoOf(error) ?? 'EIO')}`)
  }
}
