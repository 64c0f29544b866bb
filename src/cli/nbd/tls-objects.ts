/** `--tls-creds` and `--tls-authz` of `varve nbd`. */
import { authoriseBy, credentialsFor } from '../../block/tls-objects.ts'
import { BlockError } from '../../errors.ts'
import type { Authorise } from '../../tls/accept.ts'
import type { TlsCredentials } from '../../tls/credentials.ts'
import type { Endpoint } from '../../tls/sanity-check.ts'
import type { NamedIo } from '../command.ts'
import type { NbdArguments } from './arguments.ts'
import { NbdFailure } from './failure.ts'

/** Refuses what goes with TLS alone, or with one side of it. */
export function checkTlsArguments({ mode, tlsCreds, tlsAuthz, tlsHostname }: NbdArguments): void {
  if (tlsCreds === undefined) {
    if (tlsAuthz !== undefined) {
      throw new NbdFailure('--tls-authz is not permitted without --tls-creds')
    }
    if (tlsHostname !== undefined) {
      throw new NbdFailure('--tls-hostname is not permitted without --tls-creds')
    }
  } else if (mode === 'list') {
    if (tlsAuthz !== undefined) {
      throw new NbdFailure('TLS authorization is incompatible with export list')
    }
  } else if (tlsHostname !== undefined) {
    throw new NbdFailure('TLS hostname is only supported with export list')
  }
}

/** The credentials that are to be used, if any. */
export function credentialsOf(
  { tlsCreds }: NbdArguments,
  io: NamedIo,
  endpoint: Endpoint,
): TlsCredentials | undefined {
  if (tlsCreds === undefined) return undefined
  try {
    return credentialsFor(io.tls?.find(tlsCreds), tlsCreds, endpoint)
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    throw new NbdFailure(`Failed to get TLS creds: ${error.message}`)
  }
}

/** Who of those with credentials may come in, where that is limited. */
export function authorisationOf({ tlsAuthz }: NbdArguments, io: NamedIo): Authorise | undefined {
  return tlsAuthz === undefined ? undefined : authoriseBy((id) => io.tls?.find(id), tlsAuthz)
}
