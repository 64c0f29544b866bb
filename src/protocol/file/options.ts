/** Options of the drivers `file` and `host_device`. */
import type { NodeOptions } from '../../block/driver.ts'
import { OptionReader } from '../../block/options.ts'
import { BlockError } from '../../errors.ts'

export interface FileOptions {
  readonly filename: string
  /** Accepted for QEMU's sake; all three are served by the page cache and the thread pool. */
  readonly aio: 'threads' | 'native' | 'io_uring'
  /** `auto`: locks where the system has them. */
  readonly locking: 'auto' | 'on' | 'off'
}

/** `driver` is named in messages. */
export function parseFileOptions(driver: string, options: NodeOptions): FileOptions {
  const reader = new OptionReader(options)
  reader.take('driver')
  const filename = reader.string('filename')
  if (!filename) {
    throw new BlockError('INVALID_ARGUMENT', `The '${driver}' block driver requires a file name`)
  }
  const aio = reader.oneOf('aio', ['threads', 'native', 'io_uring']) ?? 'threads'
  const locking = reader.oneOf('locking', ['auto', 'on', 'off']) ?? 'auto'
  reader.boolean('drop-cache')
  reader.boolean('x-check-cache-dropped')
  refusePrManager(reader.string('pr-manager'))
  reader.finish()
  return { filename, aio, locking }
}

function refusePrManager(id: string | undefined): void {
  if (id === undefined) return
  throw new BlockError(
    'UNSUPPORTED',
    `pr-manager '${id}': persistent reservations are not supported`,
  )
}
