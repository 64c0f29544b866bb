/** What people write about errors to inject and states to enter, checked: `Rule`s. */
import { type DebugEvent, isDebugEvent } from '../../block/debug.ts'
import { OptionReader } from '../../block/options.ts'
import { invalid } from '../../errors.ts'

/** Kinds of requests that rules tell apart. */
export const ioTypes = [
  'read',
  'write',
  'write-zeroes',
  'discard',
  'flush',
  'block-status',
] as const
export type IoType = (typeof ioTypes)[number]

interface Occasion {
  readonly event: DebugEvent
  /** Holds in this state only; 0: in any. */
  readonly state: number
}

export interface InjectError extends Occasion {
  readonly kind: 'inject-error'
  readonly ioTypes: ReadonlySet<IoType>
  /** The system's number of the error. */
  readonly errno: number
  /** Fails only requests that contain this byte; any when undefined. */
  readonly offset?: number
  readonly once: boolean
  /** Fail before anything else can happen. */
  readonly immediately: boolean
}

export interface SetState extends Occasion {
  readonly kind: 'set-state'
  readonly newState: number
}

export interface Suspend extends Occasion {
  readonly kind: 'suspend'
  readonly tag: string
}

export type Rule = InjectError | SetState | Suspend

export const sectorSize = 512
const defaultErrno = 5
/** Without `iotype` errors hit what moves or keeps data, not questions about it. */
const usualIoTypes: ReadonlySet<IoType> = new Set(ioTypes.filter((type) => type !== 'block-status'))

export type RuleKind = 'inject-error' | 'set-state'
export type Section = Readonly<Record<string, unknown>>

/** Takes one section of the configuration, or one element of the option. */
export function parseRule(kind: RuleKind, section: Section): Rule {
  const reader = new OptionReader(section)
  const rule = kind === 'inject-error' ? injectError(reader) : setState(reader)
  for (const name of reader.left()) {
    throw invalid(`[${kind}] section doesn't support the option '${name}'`)
  }
  return rule
}

function injectError(reader: OptionReader): InjectError {
  const numbers = { errno: number(reader, 'errno'), sector: number(reader, 'sector') }
  const once = reader.boolean('once') ?? false
  const immediately = reader.boolean('immediately') ?? false
  const occasion = parseOccasion(reader)
  const ioType = reader.string('iotype')
  const { errno = defaultErrno, sector = -1 } = numbers
  return {
    kind: 'inject-error',
    ...occasion,
    ioTypes: ioType === undefined ? usualIoTypes : new Set([parseIoType(ioType)]),
    errno,
    offset: sector === -1 ? undefined : sector * sectorSize,
    once,
    immediately,
  }
}

function setState(reader: OptionReader): SetState {
  const newState = number(reader, 'new_state') ?? 0
  return { kind: 'set-state', ...parseOccasion(reader), newState }
}

function parseOccasion(reader: OptionReader): Occasion {
  const state = number(reader, 'state') ?? 0
  const event = reader.string('event')
  if (event === undefined) throw invalid('Missing event name for rule')
  if (!isDebugEvent(event)) throw invalid(`invalid parameter value: ${event}`)
  return { event, state }
}

function parseIoType(value: string): IoType {
  const found = ioTypes.find((each) => each === value)
  if (found) return found
  throw invalid(`invalid parameter value: ${value}`)
}

/** Decimal, hexadecimal or octal, as C's strtoull with base 0. */
function number(reader: OptionReader, name: string): number | undefined {
  const value = reader.take(name)
  if (value === undefined || (typeof value === 'number' && Number.isSafeInteger(value)))
    return value
  if (typeof value === 'string') {
    if (/^-?\d+$/.test(value)) return Number.parseInt(value, /^-?0\d/.test(value) ? 8 : 10)
    if (/^0x[0-9a-f]+$/i.test(value)) return Number(value)
  }
  throw invalid(`Parameter '${name}' expects a number`)
}
