/**
 * What becomes of the source when saving has failed. QEMU 7.2 loses a guest for good when the
 * reader of a background snapshot leaves before the guest was started again, which happens early in
 * the stream (measured: after 100 kB it is frozen, after 1 MB it runs). So what comes is read on
 * for a while; then leaving makes QEMU report that the migration has failed, and the guest runs.
 */
import { fstatSync } from 'node:fs'
import { DescriptorSource } from '../../snapshot/io/descriptor-io.ts'
import type { ByteSource } from '../../snapshot/stream/window.ts'
import type { NamedIo } from '../command.ts'

/** Bytes and time after which a guest runs for sure. */
const safeBytes = 32 * 1024 * 1024
const safeMs = 2000

export async function drainAfterFailure(source: ByteSource): Promise<void> {
  const buffer = new Uint8Array(1024 * 1024)
  const start = performance.now()
  let bytes = 0
  while (bytes < safeBytes || performance.now() - start < safeMs) {
    const count = await attempt(() => source.read(buffer))
    if (count === 0) return
    bytes += count
  }
}

async function attempt(read: () => number | Promise<number>): Promise<number> {
  try {
    return await read()
  } catch {
    return 0
  }
}

/** The same for a command that could not begin, where standard input comes from another program. */
export async function drainStandardInput(io: NamedIo): Promise<void> {
  if (io.stdin !== process.stdin) return
  const kind = fstatSync(0, { throwIfNoEntry: false })
  if (!kind?.isFIFO() && !kind?.isSocket()) return
  await drainAfterFailure(new DescriptorSource(0, 'standard input'))
}
