/** `--object TYPE,id=ID,…` of the tools: secrets and, for those who take them, credentials. */
import { BlockError } from '../errors.ts'
import { parseJson } from '../wire/qmp/parser.ts'
import type { NamedIo } from './command.ts'
import { parseKeyval } from './keyval.ts'

export interface ObjectOption {
  readonly type: string
  /** All but the type. */
  readonly options: Readonly<Record<string, unknown>>
}

/** Takes JSON too. */
export function parseObjectOption(text: string): ObjectOption {
  const all: Record<string, unknown> = text.startsWith('{')
    ? parseObject(text)
    : parseKeyval(text, 'qom-type')
  const { 'qom-type': type, ...options } = all
  if (typeof type === 'string') return { type, options }
  throw invalid("Parameter 'qom-type' is missing")
}

/** Adds an object of a kind that images know. */
export function addImageObject(text: string, { secrets, throttleGroups }: NamedIo): void {
  const { type, options } = parseObjectOption(text)
  if (type === 'secret' && secrets) secrets.add(options)
  else if (type === 'secret_keyring' && secrets) secrets.addFromKeyring(options)
  else if (type === 'throttle-group' && throttleGroups) throttleGroups.add(options)
  else throw unknownType(type)
}

/** QEMU has it and we do not, or nobody has. */
export function unknownType(type: string): BlockError {
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
  'tls-creds-x509',
  'tls-creds-psk',
  'tls-creds-anon',
  'tls-cipher-suites',
  'authz-simple',
  'authz-list',
  'authz-listfile',
  'authz-pam',
  'throttle-group',
  'iothread',
  'main-loop',
]

function parseObject(text: string): Record<string, unknown> {
  const parsed = parseJson(text)
  if ('error' in parsed) throw invalid(parsed.error)
  // It begins with a brace.
  return parsed.value as Record<string, unknown>
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
