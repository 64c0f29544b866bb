import type { BlockDriver } from '../block/driver.ts'
import type { BlockLayer } from '../block/layer.ts'
import { plainIo } from '../block/layer.ts'
import { BlockError } from '../errors.ts'
import { recognisedFormat } from '../format/recognised.ts'

/** Bytes at the start of an image that probing looks at. */
const probeLength = 2048

/**
 * Name of the first format that recognises the image; `raw` when none does. Throws `UNSUPPORTED`
 * for an image of a known format without a driver.
 */
export async function probeFormat(
  drivers: readonly BlockDriver[],
  storage: BlockLayer,
): Promise<string> {
  const head = new Uint8Array(Math.min(probeLength, storage.size))
  if (head.length > 0) await storage.read(0, head, plainIo)
  const format = formatOf(drivers, head) ?? 'raw'
  if (format === 'raw' || drivers.some(({ name }) => name === format)) return format
  throw new BlockError('UNSUPPORTED', `${format} images are not supported yet`, {
    path: storage.image?.filename,
    errno: 'ENOTSUP',
  })
}

/** The format that an image with this start is of, whether there is a driver for it or not. */
export function formatOf(drivers: readonly BlockDriver[], head: Uint8Array): string | undefined {
  return drivers.find((driver) => driver.probe?.(head))?.name ?? recognisedFormat(head)
}
