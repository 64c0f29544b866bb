/** Fields of a device's state, found by the description that came with it. */
import { isObject } from '../stream/description.ts'
import type { DeviceSection } from '../stream/stream-item.ts'

interface Field {
  readonly name?: unknown
  readonly index?: unknown
  readonly size?: unknown
  readonly array_len?: unknown
}

/** Bytes of the fields of a device, by name; elements of arrays that are listed singly as `name[0]`. */
export function fieldsOf(
  { name, instance, body }: DeviceSection,
  description: string | undefined,
): ReadonlyMap<string, Buffer> {
  const found = new Map<string, Buffer>()
  if (description === undefined) return found
  const { devices = [] } = JSON.parse(description) as { devices?: unknown[] }
  const device = devices.find(
    (one): one is { fields: Field[] } =>
      isObject(one) &&
      one.name === name &&
      one.instance_id === instance &&
      Array.isArray(one.fields),
  )
  let at = 0
  for (const field of device?.fields ?? []) {
    const size = Number(field.size ?? 0) * Number(field.array_len ?? 1)
    const label = field.index === undefined ? String(field.name) : `${field.name}[${field.index}]`
    found.set(label, Buffer.from(body.subarray(at, at + size)))
    at += size
  }
  return found
}
