/**
 * NBD_OPT_STARTTLS: the first and only thing that is said in the clear by a client that wants TLS.
 * A server that refuses it is left; it is never asked for anything without.
 */
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { BlockError } from '../../errors.ts'
import { connectTls } from '../../tls/connect.ts'
import type { TlsCredentials } from '../../tls/credentials.ts'
import { NBD_OPT_STARTTLS, NBD_REP_ACK, NBD_REP_ERR_UNSUP } from '../../wire/nbd/constants.ts'
import { type OptionReply, optionError } from './option-errors.ts'

export interface ClientTls {
  /** Of a client. */
  readonly credentials: TlsCredentials
  /** Whom the server's certificate must name. */
  readonly hostname?: string
}

/** Throws unless the server agrees. */
export function checkConsent(reply: OptionReply): void {
  if (reply.type === NBD_REP_ERR_UNSUP) {
    throw new BlockError('UNSUPPORTED', "Server don't support STARTTLS option", { errno: 'EINVAL' })
  }
  if (reply.type !== NBD_REP_ACK) throw optionError(NBD_OPT_STARTTLS, reply)
  if (reply.data.length > 0) {
    throw new BlockError(
      'PEER',
      `Option ${NBD_OPT_STARTTLS} ('starttls') response length is ${reply.data.length} (it should be zero)`,
      { errno: 'EINVAL' },
    )
  }
}

/** `early` is what came behind the consent, and could be anybody's. */
export async function secure(
  socket: Socket,
  early: Uint8Array,
  { credentials, hostname }: ClientTls,
): Promise<TLSSocket> {
  if (early.length > 0) {
    throw new BlockError('PEER', 'TLS handshake failed: An unexpected TLS packet was received.', {
      errno: 'EIO',
    })
  }
  return await connectTls(socket, credentials, hostname)
}
