/** The server's side of a session. */
import type { X509Certificate } from 'node:crypto'
import type { Socket } from 'node:net'
import type { TLSSocket, TlsOptions } from 'node:tls'
import { certificateFacts } from './certificate.ts'
import type { TlsCredentials } from './credentials.ts'
import { distinguishedName } from './distinguished-name.ts'
import {
  certificateProblem,
  contextOptions,
  handshakeFailure,
  pskProblem,
  sharedKey,
} from './session.ts'

/** Throws when whoever has shown to be `identity` may not come in, or when that cannot be told. */
export type Authorise = (identity: string) => boolean

/**
 * Calls back once, with the secured socket or the reason why there is none; then the socket is
 * destroyed. With `authorise`, clients who do not show who they are do not come in.
 */
export function acceptTls(
  socket: Socket,
  credentials: TlsCredentials,
  authorise: Authorise | undefined,
  done: (result: TLSSocket | Error) => void,
): void {
  let user: string | undefined
  const findKey = (_: TLSSocket, identity: string) => {
    if (credentials.kind !== 'psk') return null
    const key = sharedKey(credentials, identity)
    user = key && identity
    return key ?? null
  }
  // A server that does not listen: connections are handed to it, the documented way to have its
  // checks on a socket that is already there. One for each, so no session is ever resumed.
  const options: TlsOptions = {
    ...contextOptions(credentials),
    ...(credentials.kind === 'psk' ? { pskCallback: findKey } : {}),
    requestCert: credentials.kind === 'x509' && credentials.verifyPeer,
    // Judged below, so that the reason can be told.
    rejectUnauthorized: false,
  }
  const halfOpen = socket.allowHalfOpen
  const server = process.getBuiltinModule('node:tls').createServer(options as never)
  server.once('secureConnection', (secured) => {
    const problem = problemOf(secured, credentials, user, authorise)
    secured.allowHalfOpen = halfOpen
    if (problem === undefined) return done(secured)
    secured.on('error', () => {})
    secured.destroy()
    done(new Error(problem))
  })
  server.once('tlsClientError', (error) => done(new Error(handshakeFailure(error))))
  // Whoever leaves in the handshake is gone.
  socket.allowHalfOpen = false
  server.emit('connection', socket)
}

function problemOf(
  socket: TLSSocket,
  credentials: TlsCredentials,
  user: string | undefined,
  authorise: Authorise | undefined,
): string | undefined {
  try {
    if (credentials.kind === 'x509') {
      if (!credentials.verifyPeer) return denied(undefined, 'x509', authorise)
      const certificate = socket.getPeerX509Certificate()
      return (
        certificateProblem(certificate, socket, credentials) ??
        denied(certificate && subjectOf(certificate), 'x509', authorise)
      )
    }
    if (credentials.kind === 'anon') return denied(undefined, 'anonymous', authorise)
    return pskProblem(socket, user !== undefined) ?? denied(user, 'psk', authorise)
  } catch (error) {
    // A certificate that cannot be read, rules that cannot: nobody comes in by mistake.
    return error instanceof Error ? error.message : String(error)
  }
}

function subjectOf({ raw }: X509Certificate): string | undefined {
  return distinguishedName(certificateFacts(raw).subject)
}

function denied(
  identity: string | undefined,
  kind: string,
  authorise: Authorise | undefined,
): string | undefined {
  if (!authorise) return undefined
  if (identity === undefined) {
    return kind === 'x509'
      ? 'Cannot get client distinguished name: The requested data were not available.'
      : `TLS ${kind} clients cannot be told apart, so none is authorized`
  }
  return authorise(identity) ? undefined : `TLS ${kind} authz check for ${identity} is denied`
}
