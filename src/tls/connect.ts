/** The client's side of a session. */
import type { X509Certificate } from 'node:crypto'
import { isIP, type Socket } from 'node:net'
import type { ConnectionOptions, TLSSocket } from 'node:tls'
import { BlockError } from '../errors.ts'
import type { TlsCredentials } from './credentials.ts'
import { certificateProblem, contextOptions, handshakeFailure, pskProblem } from './session.ts'

/**
 * The secured socket, to a server that has shown who it is. Throws `PEER` when it has not,
 * `IO` when the handshake fails; then the socket is destroyed. Nothing may have been read of what
 * the server sends behind its consent. `hostname` is whom its certificate must name.
 */
export async function connectTls(
  socket: Socket,
  credentials: TlsCredentials,
  hostname: string | undefined,
): Promise<TLSSocket> {
  let keyUsed = false
  const useKey = () => {
    const { user } = credentials as Extract<TlsCredentials, { kind: 'psk' }>
    if (!user) return null
    keyUsed = true
    return { psk: user.key, identity: user.name }
  }
  const options: ConnectionOptions = {
    ...contextOptions(credentials),
    socket,
    ...(credentials.kind === 'psk' ? { pskCallback: useKey as never } : {}),
    ...(hostname !== undefined && isIP(hostname) === 0 ? { servername: hostname } : {}),
    // Both are judged below, so that the reason can be told.
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
  }
  const secured = process.getBuiltinModule('node:tls').connect(options)
  try {
    await new Promise<void>((resolve, reject) => {
      secured.once('secureConnect', resolve)
      secured.once('error', reject)
      secured.once('close', () => reject(Object.assign(new Error(), { code: 'ECONNRESET' })))
    })
  } catch (error) {
    secured.on('error', () => {})
    secured.destroy()
    throw new BlockError('IO', handshakeFailure(error as Error), { errno: 'EIO', cause: error })
  }
  const problem = problemOf(secured, credentials, hostname, keyUsed)
  if (problem === undefined) return secured
  secured.on('error', () => {})
  secured.destroy()
  throw new BlockError('PEER', problem, { errno: 'EINVAL' })
}

function problemOf(
  socket: TLSSocket,
  credentials: TlsCredentials,
  hostname: string | undefined,
  keyUsed: boolean,
): string | undefined {
  if (credentials.kind === 'anon') return undefined
  if (credentials.kind === 'psk') return pskProblem(socket, keyUsed)
  if (!credentials.verifyPeer) return undefined
  const certificate = socket.getPeerX509Certificate()
  return certificateProblem(certificate, socket, credentials) ?? nameProblem(certificate, hostname)
}

function nameProblem(
  certificate: X509Certificate | undefined,
  hostname: string | undefined,
): string | undefined {
  if (hostname === undefined) return 'No hostname for certificate validation'
  const found =
    isIP(hostname) === 0 ? certificate?.checkHost(hostname) : certificate?.checkIP(hostname)
  return found === undefined ? `Certificate does not match the hostname ${hostname}` : undefined
}
