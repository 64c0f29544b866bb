import type { BlockDriver } from '../block/driver.ts'
import type { BlockLayer } from '../block/layer.ts'
import { plainIo } from '../block/layer.ts'

/** Bytes at the start of an image that probing looks at. */
const probeLength = 2048

/** Name of the first format that recognises the image; `raw` when none does. */
export async function probeFormat(
  drivers: readonly BlockDriver[],
  storage: BlockLayer,
): Promise<string> {
  const head = new Uint8Array(Math.min(probeLength, storage.size))
  if (head.length > 0) await storage.read(0, head, plainIo)
  return formatOf(drivers, head) ?? 'raw'
}

/** The format that a header belongs to, or undefined. */
export function formatOf(drivers: readonly BlockDriver[], head: Uint8Array): string | undefined {
  return drivers.find((driver) => driver.probe?.(head))?.name
}
