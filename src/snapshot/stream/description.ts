/**
 * The description that QEMU puts behind the end of a stream: the fields of each device's state, in
 * JSON. Their lengths have to be those that were found in the stream.
 */
import { BlockError } from '../../errors.ts'

export interface SeenSection {
  readonly name: string
  readonly instance: number
  readonly bodyLength: number
}

interface Described {
  readonly vmsd_name?: unknown
  readonly fields?: unknown
  readonly subsections?: unknown
}

/** Token, length of the name, version: around a subsection's name and fields. */
const subsectionFrame = 1 + 1 + 4

/** Throws `CORRUPT_IMAGE` unless every device is described, and as long as it was. */
export function checkLengths(text: string, seen: Iterable<SeenSection>, source: string): void {
  const fault = (what: string, cause?: unknown) =>
    new BlockError('CORRUPT_IMAGE', `${source}: the description of the devices ${what}`, {
      path: source,
      cause,
    })
  const lengths = new Map<string, number>()
  for (const device of devicesOf(text, fault)) {
    if (!isObject(device)) throw fault('has a device that is none')
    lengths.set(`${device.name}/${device.instance_id}`, lengthOf(device))
  }
  for (const { name, instance, bodyLength } of seen) {
    if (name === 'ram') continue
    const described = lengths.get(`${name}/${instance}`)
    if (described === undefined) throw fault(`lacks '${name}'`)
    if (described !== bodyLength) {
      throw fault(`gives '${name}' ${described} bytes, but there are ${bodyLength}`)
    }
    lengths.delete(`${name}/${instance}`)
  }
  for (const [name, length] of lengths) {
    if (length > 0) throw fault(`has '${name}', which did not come`)
  }
}

function devicesOf(text: string, fault: (what: string, cause?: unknown) => Error): unknown[] {
  try {
    const parsed: unknown = JSON.parse(text)
    if (isObject(parsed) && Array.isArray(parsed.devices)) return parsed.devices
  } catch (error) {
    throw fault('is no JSON', error)
  }
  throw fault('lists no devices')
}

/** Bytes of a device's state: its fields, then its subsections with their names. */
function lengthOf(described: Described): number {
  let sum = 0
  for (const field of listOf(described.fields)) {
    if (!isObject(field)) continue
    sum += numberOf(field.size, 0) * numberOf(field.array_len, 1)
  }
  for (const subsection of listOf(described.subsections)) {
    if (!isObject(subsection)) continue
    const name = typeof subsection.vmsd_name === 'string' ? subsection.vmsd_name : ''
    sum += subsectionFrame + Buffer.byteLength(name) + lengthOf(subsection)
  }
  return sum
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : []
}

function numberOf(value: unknown, otherwise: number): number {
  return typeof value === 'number' ? value : otherwise
}

export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
