/** The server's side of NBD_OPT_STARTTLS. */
import type { Socket } from 'node:net'
import { createServer, type TLSSocket } from 'node:tls'

/** PEM texts, as in the files of QEMU's `tls-creds-x509`. */
export interface TlsCredentials {
  readonly key: string | Buffer
  readonly cert: string | Buffer
  /** Authorities that sign the clients' certificates. */
  readonly ca?: string | Buffer
  /** Turn clients away that have no certificate signed by `ca`. */
  readonly verifyPeer: boolean
}

/** Calls back once, with the secured socket or the reason why there is none. */
export function acceptTls(
  socket: Socket,
  { key, cert, ca, verifyPeer }: TlsCredentials,
  done: (result: TLSSocket | Error) => void,
): void {
  // A server that does not listen: connections are handed to it, the documented way to have its
  // checks of the client's certificate on a socket that is already there.
  const server = createServer({
    key,
    cert,
    ca,
    requestCert: verifyPeer,
    rejectUnauthorized: verifyPeer,
    allowHalfOpen: true,
    minVersion: 'TLSv1.2',
  })
  server.once('secureConnection', done)
  server.once('tlsClientError', done)
  server.emit('connection', socket)
}
