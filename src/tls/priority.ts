/**
 * Which versions and ciphers a session may use. GnuTLS's priority strings are QEMU's way of saying
 * so; of those the ones are understood that people use: a level, and versions taken away.
 */
import { BlockError } from '../errors.ts'

export interface SessionSettings {
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3'
  readonly maxVersion: 'TLSv1.2' | 'TLSv1.3'
  /** OpenSSL's list of ciphers before TLS 1.3; its usual one when undefined. */
  readonly ciphers?: string
}

const levels: Readonly<Record<string, string | undefined>> = {
  NORMAL: undefined,
  PERFORMANCE: undefined,
  SECURE: 'HIGH:!aNULL',
  SECURE128: 'HIGH:!aNULL',
  SECURE192: 'AES256+HIGH:CHACHA20:!aNULL',
  SECURE256: 'AES256+HIGH:CHACHA20:!aNULL',
}

/** Older versions are not spoken whatever is said of them. */
const olderVersions = ['VERS-SSL3.0', 'VERS-TLS1.0', 'VERS-TLS1.1', 'VERS-DTLS-ALL']

/** Throws `UNSUPPORTED` for what has no counterpart in OpenSSL. */
export function parsePriority(priority: string | undefined): SessionSettings {
  if (priority === undefined || priority === '') return usualSession
  const [level, ...changes] = priority.split(':')
  if (!Object.hasOwn(levels, level)) throw unsupported(priority)
  const versions = new Set(['TLSv1.2', 'TLSv1.3'])
  for (const change of changes) applyChange(change, versions, priority)
  if (versions.size === 0) throw unsupported(priority)
  return {
    minVersion: versions.has('TLSv1.2') ? 'TLSv1.2' : 'TLSv1.3',
    maxVersion: versions.has('TLSv1.3') ? 'TLSv1.3' : 'TLSv1.2',
    ciphers: levels[level],
  }
}

export const usualSession: SessionSettings = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.3' }

function applyChange(change: string, versions: Set<string>, priority: string): void {
  const [, sign, name] = /^([-+!])(VERS-.*)$/.exec(change) ?? []
  if (name === undefined) throw unsupported(priority)
  const named = /^VERS-(?:TLS-)?ALL$/.test(name)
    ? ['TLSv1.2', 'TLSv1.3']
    : [name.replace(/^VERS-TLS(1\.[23])$/, 'TLSv$1')]
  for (const version of named) {
    if (olderVersions.includes(version)) continue
    if (!/^TLSv1\.[23]$/.test(version)) throw unsupported(priority)
    if (sign === '+') versions.add(version)
    else versions.delete(version)
  }
}

function unsupported(priority: string): BlockError {
  return new BlockError(
    'UNSUPPORTED',
    `TLS session priority '${priority}' is not supported: NORMAL, SECURE128, SECURE192 or ` +
      'SECURE256, and versions (:-VERS-TLS1.3), are',
    { errno: 'ENOTSUP' },
  )
}
