/** `--object TYPE,id=ID,…` of the tools: secrets, credentials, throttle groups. */
import type { Notation } from '../block/authorization-options.ts'
import { isTlsObjectType } from '../block/tls-objects.ts'
import { BlockError, invalid } from '../errors.ts'
import { parseJson } from '../wire/qmp/parser.ts'
import type { NamedIo } from './command.ts'
import { parseKeyval } from './keyval.ts'

interface ObjectOption {
  readonly type: string
  /** All but the type. */
  readonly options: Readonly<Record<string, unknown>>
  readonly notation: Notation
}

/** Takes JSON too. */
function parseObjectOption(text: string): ObjectOption {
  const notation = text.startsWith('{') ? 'json' : 'keyval'
  const all: Record<string, unknown> =
    notation === 'json' ? parseObject(text) : parseKeyval(text, 'qom-type')
  const { 'qom-type': type, ...options } = all
  if (typeof type === 'string') return { type, options, notation }
  throw invalid("Parameter 'qom-type' is missing")
}

/** Adds an object of a kind that images, or their servers, know. */
export function addImageObject(text: string, { secrets, throttleGroups, tls }: NamedIo): void {
  const { type, options, notation } = parseObjectOption(text)
  if (type === 'secret' && secrets) secrets.add(options)
  else if (type === 'secret_keyring' && secrets) secrets.addFromKeyring(options)
  else if (type === 'throttle-group' && throttleGroups) throttleGroups.add(options)
  else if (isTlsObjectType(type) && secrets && tls) {
    tls.add(type, options, (id) => secrets.get(id), notation)
  } else throw unknownType(type)
}

/** QEMU has it and we do not, or nobody has. */
function unknownType(type: string): BlockError {
  if (absentFromQemu.includes(type)) return invalid(`invalid object type: ${type}`)
  if (!knownToQemu.includes(type)) {
    return invalid(`Parameter 'qom-type' does not accept value '${type}'`)
  }
  return new BlockError('UNSUPPORTED', `objects of type '${type}' are not supported`, {
    errno: 'ENOTSUP',
  })
}

const knownToQemu = [
  'secret',
  'secret_keyring',
  'tls-cipher-suites',
  'throttle-group',
  'iothread',
  'main-loop',
]

/** Its schema names them, and its tools have no such objects. */
const absentFromQemu = ['authz-listfile', 'authz-pam']

function parseObject(text: string): Record<string, unknown> {
  const parsed = parseJson(text)
  if ('error' in parsed) throw invalid(parsed.error)
  // It begins with a brace.
  return parsed.value as Record<string, unknown>
}
