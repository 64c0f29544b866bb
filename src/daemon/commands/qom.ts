/** Properties of objects, by path: `qom-list`, `qom-get`, `qom-set`, `qom-list-properties`. */
import { changedLimits, limitNames, limitOf } from '../../block/throttle-limits.ts'
import { parseLimits } from '../../block/throttle-options.ts'
import { BlockError } from '../../errors.ts'
import { command } from '../command.ts'
import { QmpError } from '../errors.ts'
import type { DaemonObject } from '../objects.ts'
import { any, list, object, optional, required, str } from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'

interface Property {
  readonly type: string
  readonly get: () => unknown
  /** Absent: it cannot be written. */
  readonly set?: (value: unknown) => void
}

/** A thing with a path, and its properties by name. */
interface Subject {
  readonly type: string
  readonly properties: ReadonlyMap<string, Property>
}

const propertyInfo = object('ObjectPropertyInfo', {
  name: required(str, 'Its name.'),
  type: required(str, 'Its type; `child<…>` is a part with properties of its own.'),
  description: optional(str, 'What it is for.'),
  'default-value': optional(any, 'What it is unless given.'),
})

const path = required(str, 'The object: `/objects/ID`, or `ID`.')
const property = required(str, 'The property.')

export const qomCommands = [
  command({
    name: 'qom-list',
    topic: 'Objects',
    doc: 'Lists the properties of an object.',
    args: object('QomListArg', { path }),
    returns: list(propertyInfo),
    concurrent: true,
    run: ({ path }, { daemon }) =>
      [...subjectAt(path, daemon).properties].map(([name, { type }]) => ({ name, type })),
  }),
  command({
    name: 'qom-get',
    topic: 'Objects',
    doc: 'Tells what a property of an object is.',
    args: object('QomGetArg', { path, property }),
    returns: any,
    concurrent: true,
    run: ({ path, property }, { daemon }) => propertyAt(path, property, daemon).get(),
  }),
  command({
    name: 'qom-set',
    topic: 'Objects',
    doc: 'Changes a property of an object; `limits` of a `throttle-group` are in force at once.',
    args: object('QomSetArg', { path, property, value: required(any, 'What it is to be.') }),
    run: ({ path, property, value }, { daemon }) => {
      const { set } = propertyAt(path, property, daemon)
      const { type } = subjectAt(path, daemon)
      if (!set) throw invalid(`Property '${type}.${property}' is not writable`)
      set(value)
    },
  }),
]

function propertyAt(path: string, name: string, daemon: StorageDaemon): Property {
  const { type, properties } = subjectAt(path, daemon)
  const found = properties.get(name)
  if (found) return found
  throw invalid(`Property '${type}.${name}' not found`)
}

/** A path may begin at the root or be cut short at its beginning. */
function subjectAt(path: string, daemon: StorageDaemon): Subject {
  const parts = path.split('/').filter((part) => part !== '')
  const absolute = path.startsWith('/')
  if (absolute && parts.length === 0)
    return container({ objects: 'container', chardevs: 'container' })
  if (parts.length === 1 && parts[0] === 'objects') return objectsContainer(daemon)
  if (parts.length === 1 && parts[0] === 'chardevs') return container({})
  const partial = !absolute && parts.length === 1
  const id = partial ? parts[0] : parts.length === 2 && parts[0] === 'objects' ? parts[1] : ''
  const found = daemon.objects.get(id)
  if (found) return objectSubject(found)
  throw new QmpError('DeviceNotFound', `Device '${path}' not found`)
}

function objectsContainer(daemon: StorageDaemon): Subject {
  const parts = [...daemon.objects.ids()].map((id) => [id, daemon.objects.get(id)?.type ?? ''])
  return container(Object.fromEntries(parts))
}

function container(parts: Readonly<Record<string, string>>): Subject {
  const children = Object.entries(parts).map(([name, type]): [string, Property] => [
    name,
    { type: `child<${type}>`, get: () => `/${name}` },
  ])
  return withType('container', children)
}

function objectSubject(found: DaemonObject): Subject {
  return withType(found.type, found.type === 'throttle-group' ? throttleProperties(found) : [])
}

function withType(type: string, properties: Iterable<[string, Property]>): Subject {
  const typeProperty: Property = { type: 'string', get: () => type }
  return { type, properties: new Map([['type', typeProperty], ...properties]) }
}

function throttleProperties({
  group,
}: Extract<DaemonObject, { type: 'throttle-group' }>): [string, Property][] {
  const fixed = () => {
    throw invalid('Property cannot be set after initialization')
  }
  const single = (name: string): [string, Property] => [
    `x-${name}`,
    { type: 'int', get: () => limitOf(group.limits, name), set: fixed },
  ]
  const limits: Property = {
    type: 'ThrottleLimits',
    get: () => Object.fromEntries(limitNames.map((name) => [name, limitOf(group.limits, name)])),
    set: (value) => {
      group.limits = changedLimits(group.limits, parseLimits(value))
    },
  }
  return [['limits', limits], ...limitNames.map(single)]
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
