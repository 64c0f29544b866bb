/** QEMU's object model: properties of objects, by path, and the types that there are. */

import { invalid } from '../../errors.ts'
import { command } from '../command.ts'
import { QmpError } from '../errors.ts'
import { certainSubjectAt, propertyOf, setProperty, subjectAt } from '../qom/subject.ts'
import { isKindOf, propertiesOf, qomTypes } from '../qom/types.ts'
import { any, bool, list, object, optional, required, str } from '../schema/types.ts'

const propertyInfo = object('ObjectPropertyInfo', {
  name: required(str, 'Its name.'),
  type: required(str, 'Its type; `child<…>` is a part with properties of its own.'),
  description: optional(str, 'What it is for.'),
  'default-value': optional(any, 'What it is unless given.'),
})

const typeInfo = object('ObjectTypeInfo', {
  name: required(str, 'Name of the type.'),
  abstract: optional(bool, 'Whether there can be no objects of it.'),
  parent: optional(str, 'The type it is a kind of.'),
})

const path = required(
  str,
  'The object: `/objects/ID`, `/chardevs/ID`, or the end of such a path that leaves no doubt.',
)
const property = required(str, 'The property.')

export const qomCommands = [
  command({
    name: 'qom-list',
    topic: 'Objects',
    doc: 'Lists the properties of an object.',
    args: object('QomListArg', { path }),
    returns: list(propertyInfo),
    concurrent: true,
    run({ path }, { daemon }) {
      const subject = subjectAt(path, daemon)
      if (!subject) throw invalid(`Path '${path}' is ambiguous`)
      return [...subject.properties].map(([name, type]) => ({ name, type }))
    },
  }),
  command({
    name: 'qom-get',
    topic: 'Objects',
    doc: 'Tells what a property of an object is.',
    args: object('QomGetArg', { path, property }),
    returns: any,
    concurrent: true,
    run: ({ path, property }, { daemon }) => propertyOf(certainSubjectAt(path, daemon), property),
  }),
  command({
    name: 'qom-set',
    topic: 'Objects',
    doc:
      'Changes a property of an object. `limits` of a `throttle-group` are in force at once; ' +
      'whatever else can be changed has no effect.',
    args: object('QomSetArg', { path, property, value: required(any, 'What it is to be.') }),
    run({ path, property, value }, { daemon }) {
      setProperty(certainSubjectAt(path, daemon), property, value)
    },
  }),
  command({
    name: 'qom-list-properties',
    topic: 'Objects',
    doc: 'Lists the properties that the objects of a type have.',
    args: object('QomListPropertiesArg', { typename: required(str, 'The type.') }),
    returns: list(propertyInfo),
    concurrent: true,
    run({ typename }) {
      if (!qomTypes.has(typename)) {
        throw new QmpError('DeviceNotFound', `Class '${typename}' not found`)
      }
      if (!isKindOf(typename, 'object')) {
        throw invalid("Parameter 'typename' expects a QOM type")
      }
      return [...propertiesOf(typename)].map(([name, type]) => ({ name, type }))
    },
  }),
  command({
    name: 'qom-list-types',
    topic: 'Objects',
    doc:
      "Lists the types of QEMU's daemon. `object-add` says which of them objects can be made of " +
      'here.',
    args: object('QomListTypesArg', {
      implements: optional(str, 'Only types of this kind; `user-creatable` is for `object-add`.'),
      abstract: optional(bool, 'With those, too, that there can be no objects of.'),
    }),
    returns: list(typeInfo),
    concurrent: true,
    run: ({ implements: kind, abstract: withAbstract = false }) =>
      [...qomTypes.values()]
        .filter(({ name }) => kind === undefined || isKindOf(name, kind))
        .filter(({ abstract = false }) => withAbstract || !abstract)
        .map(({ name, abstract, parent }) => ({ name, abstract, parent })),
  }),
]
