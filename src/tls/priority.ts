/**
 * Which versions, ciphers and groups a session may use. GnuTLS's priority strings are QEMU's way of
 * saying so: a level, and parts that are added to it or taken away. What has no counterpart in
 * OpenSSL is refused, so that nobody is less protected than was asked for.
 */
import { BlockError } from '../errors.ts'
import {
  allCiphers,
  allDigests,
  allExchanges,
  groupNames,
  levelParts,
  suitesOfTls12,
  suitesOfTls13,
  withoutSuites,
} from './cipher-suites.ts'

export interface SessionSettings {
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3'
  readonly maxVersion: 'TLSv1.2' | 'TLSv1.3'
  /** OpenSSL's list of suites with certificates; its usual one when undefined. */
  readonly ciphers?: string
  /** OpenSSL's list of groups; its usual one when undefined. */
  readonly groups?: string
  /** Ciphers (`AES-256-GCM`) that may be used at all; undefined when nothing was said of them. */
  readonly allowed?: ReadonlySet<string>
}

export const usualSession: SessionSettings = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.3' }

/** OpenSSL's own words for a level that nothing was changed of. */
const plainLevels: Readonly<Record<string, string | undefined>> = {
  NORMAL: undefined,
  PERFORMANCE: undefined,
  LEGACY: undefined,
  SECURE: 'HIGH:!aNULL',
  SECURE128: 'HIGH:!aNULL',
  SECURE192: 'AES256+HIGH:CHACHA20:!aNULL',
  SECURE256: 'AES256+HIGH:CHACHA20:!aNULL',
}

/** Older versions are not spoken whatever is said of them. */
const olderVersions = /^VERS-(SSL3\.0|TLS1\.[01]|DTLS.*)$/

/** Options of GnuTLS that say what is the case here anyway. */
const givenOptions: ReadonlySet<string> = new Set([
  ...['%SERVER_PRECEDENCE', '%SAFE_RENEGOTIATION', '%PARTIAL_RENEGOTIATION', '%NO_TICKETS'],
  ...['%COMPAT', '%LATEST_RECORD_VERSION'],
])

/** OpenSSL's security levels by GnuTLS's profiles. */
const profiles: Readonly<Record<string, number>> = {
  '%PROFILE_LOW': 1,
  '%PROFILE_LEGACY': 1,
  '%PROFILE_MEDIUM': 2,
  '%PROFILE_HIGH': 3,
  '%PROFILE_ULTRA': 4,
  '%PROFILE_FUTURE': 5,
}

/** What is left when the changes have been made, the preferred first. */
interface Choice {
  readonly versions: Set<string>
  readonly ciphers: Set<string>
  readonly exchanges: Set<string>
  readonly digests: Set<string>
  readonly groups: Set<string>
  securityLevel?: number
  /** Something was said of ciphers, exchanges or digests; of groups. */
  ciphersSaid: boolean
  groupsSaid: boolean
}

/** Throws `UNSUPPORTED` for what has no counterpart in OpenSSL, or leaves nothing to speak. */
export function parsePriority(priority: string | undefined): SessionSettings {
  if (priority === undefined || priority === '') return usualSession
  const [level, ...changes] = priority.split(':')
  if (!Object.hasOwn(levelParts, level)) throw unsupported(priority)
  const choice = startOf(level)
  for (const change of changes) {
    if (!apply(change, choice)) throw unsupported(priority)
  }
  const settings = settingsOf(choice, level)
  if (!settings) throw unsupported(priority)
  return settings
}

function startOf(level: string): Choice {
  const { ciphers, exchanges } = levelParts[level]
  const none = level === 'NONE'
  return {
    versions: new Set(none ? [] : ['TLSv1.2', 'TLSv1.3']),
    ciphers: new Set(ciphers),
    exchanges: new Set(exchanges),
    digests: new Set(none ? [] : allDigests),
    groups: new Set(none ? [] : groupNames.keys()),
    ciphersSaid: !Object.hasOwn(plainLevels, level),
    groupsSaid: none,
  }
}

/** Whether it is understood. */
function apply(change: string, choice: Choice): boolean {
  if (givenOptions.has(change)) return true
  if (Object.hasOwn(profiles, change)) {
    choice.securityLevel = profiles[change]
    return true
  }
  const [, sign, name] = /^([-+!])(.+)$/.exec(change) ?? []
  if (name === undefined) return false
  const add = sign === '+'
  return (
    changeVersion(name, add, choice) ||
    changeSuites(name, add, choice) ||
    changeGroup(name, add, choice)
  )
}

function changeVersion(name: string, add: boolean, { versions }: Choice): boolean {
  if (olderVersions.test(name)) return true
  const [, version] = /^VERS-(?:TLS-)?(ALL|TLS1\.[23])$/.exec(name) ?? []
  if (version === undefined) return false
  alter(versions, version === 'ALL' ? ['TLSv1.2', 'TLSv1.3'] : [`TLSv${version.slice(3)}`], add)
  return true
}

function changeSuites(name: string, add: boolean, choice: Choice): boolean {
  if (withoutSuites.has(name)) return true
  const kinds = [
    ['CIPHER-ALL', allCiphers, choice.ciphers],
    ['KX-ALL', allExchanges, choice.exchanges],
    ['MAC-ALL', allDigests, choice.digests],
  ] as const
  for (const [all, names, set] of kinds) {
    if (name !== all && !names.includes(name)) continue
    alter(set, name === all ? names : [name], add)
    choice.ciphersSaid = true
    return true
  }
  return false
}

function changeGroup(name: string, add: boolean, choice: Choice): boolean {
  const [, group] = /^(?:GROUP|CURVE)-(.+)$/.exec(name) ?? []
  if (group === undefined || (group !== 'ALL' && !groupNames.has(group))) return false
  alter(choice.groups, group === 'ALL' ? [...groupNames.keys()] : [group], add)
  choice.groupsSaid = true
  return true
}

function alter(set: Set<string>, names: readonly string[], add: boolean): void {
  for (const name of names) {
    if (add) set.add(name)
    else set.delete(name)
  }
}

/** Undefined when nothing is left that two sides could agree on. */
function settingsOf(choice: Choice, level: string): SessionSettings | undefined {
  const { versions, groups, securityLevel } = choice
  const newer = versions.has('TLSv1.3') ? suitesOfTls13(choice) : []
  const older = versions.has('TLSv1.2') ? suitesOfTls12(choice) : []
  if (newer.length + older.length === 0 || groups.size === 0) return undefined
  const names = choice.ciphersSaid ? [...newer, ...older].join(':') : plainLevels[level]
  return {
    minVersion: older.length > 0 ? 'TLSv1.2' : 'TLSv1.3',
    maxVersion: newer.length > 0 ? 'TLSv1.3' : 'TLSv1.2',
    ciphers: withLevel(names, securityLevel),
    groups: choice.groupsSaid
      ? [...groups].map((name) => groupNames.get(name)).join(':')
      : undefined,
    allowed: choice.ciphersSaid || names !== undefined ? choice.ciphers : undefined,
  }
}

function withLevel(names: string | undefined, level: number | undefined): string | undefined {
  return level === undefined ? names : `${names ?? 'DEFAULT'}:@SECLEVEL=${level}`
}

function unsupported(priority: string): BlockError {
  return new BlockError(
    'UNSUPPORTED',
    `TLS session priority '${priority}' is not supported: a level (NORMAL, SECURE256), and versions, ` +
      'ciphers, exchanges and groups added or taken away (:-VERS-TLS1.3), are',
    { errno: 'ENOTSUP' },
  )
}
