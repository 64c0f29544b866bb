/** Things with a path in QEMU's object model, and their properties. */

import { invalid } from '../../errors.ts'
import { QmpError } from '../errors.ts'
import type { StorageDaemon } from '../storage-daemon.ts'
import { notWritable, type PropertyValues } from './property-values.ts'
import { propertiesOf } from './types.ts'

export interface Subject {
  readonly path: string
  readonly type: string
  /** Types by name. */
  readonly properties: ReadonlyMap<string, string>
  readonly values: PropertyValues
}

/**
 * A path begins at the root, or is cut short at its beginning if that leaves no doubt. Throws
 * `DeviceNotFound` when it leads nowhere; an ambiguous one is `undefined`.
 */
export function subjectAt(path: string, daemon: StorageDaemon): Subject | undefined {
  const parts = path.split('/').filter((part) => part !== '')
  const found = subjects(daemon).filter((subject) => {
    const names = subject.path.split('/').filter((part) => part !== '')
    const tail = path.startsWith('/') ? names : names.slice(names.length - parts.length)
    return tail.length === parts.length && tail.every((name, index) => name === parts[index])
  })
  if (found.length === 0) throw notFound(path)
  return found.length === 1 ? found[0] : undefined
}

/** As `qom-get` and `qom-set` take a path. */
export function certainSubjectAt(path: string, daemon: StorageDaemon): Subject {
  const found = subjectAt(path, daemon)
  if (!found) throw notFound(path)
  return found
}

export function propertyOf(subject: Subject, name: string): unknown {
  checkKnown(subject, name)
  return name === 'type' ? subject.type : subject.values.get(name)
}

export function setProperty(subject: Subject, name: string, value: unknown): void {
  checkKnown(subject, name)
  if (name === 'type') throw notWritable(subject.type, name)
  subject.values.set(name, value)
}

function checkKnown({ type, properties }: Subject, name: string): void {
  if (!properties.has(name)) throw invalid(`Property '${type}.${name}' not found`)
}

function subjects(daemon: StorageDaemon): Subject[] {
  const objects = [...daemon.objects].map(([id, { type, values }]) => {
    return { path: `/objects/${id}`, type, properties: propertiesOf(type), values }
  })
  const chardevs = [...daemon.chardevs].map(([id, { type: kind, device }]) => {
    const type = `chardev-${kind}`
    const values = device.values ?? noValues
    return { path: `/chardevs/${id}`, type, properties: propertiesOf(type), values }
  })
  const containers = [container('/objects', objects), container('/chardevs', chardevs)]
  return [container('/', containers), ...containers, ...objects, ...chardevs]
}

/** Of devices that have no properties but their type. */
const noValues: PropertyValues = { get: () => undefined, set: () => {} }

function container(path: string, parts: readonly Subject[]): Subject {
  const paths = new Map(parts.map((part) => [nameOf(part), part.path]))
  const properties = parts.map((part): [string, string] => [nameOf(part), `child<${part.type}>`])
  const values: PropertyValues = {
    get: (name) => paths.get(name),
    set: (name) => {
      throw notWritable('container', name)
    },
  }
  const type = 'container'
  return { path, type, properties: new Map([...propertiesOf(type), ...properties]), values }
}

function nameOf({ path }: Subject): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

function notFound(path: string): QmpError {
  return new QmpError('DeviceNotFound', `Device '${path}' not found`)
}
