/**
 * What both sides of a session have in common: the options of Node's TLS, and the verdict on the
 * other side once the handshake is through. Whoever is not verified is never spoken to.
 */
import type { X509Certificate } from 'node:crypto'
import type { SecureContextOptions, TLSSocket } from 'node:tls'
import { BlockError } from '../errors.ts'
import { isRevoked } from './certificate.ts'
import type { PskCredentials, TlsCredentials, X509Credentials } from './credentials.ts'

/** A suite, behind GnuTLS's name of its cipher. */
type Suite = readonly [cipher: string, suite: string]

/** The suites of TLS 1.3 do not say how keys are agreed on. Keys of ours go with SHA-256. */
const pskSuites13: readonly Suite[] = [
  ['AES-128-GCM', 'TLS_AES_128_GCM_SHA256'],
  ['CHACHA20-POLY1305', 'TLS_CHACHA20_POLY1305_SHA256'],
]

/**
 * Of the suites with pre-shared keys those whose keys are forgotten after the session. RSA-PSK is
 * none of them: it has a certificate.
 */
const pskSuites12: readonly Suite[] = [
  ['AES-128-GCM', 'DHE-PSK-AES128-GCM-SHA256'],
  ['AES-256-GCM', 'DHE-PSK-AES256-GCM-SHA384'],
  ['CHACHA20-POLY1305', 'ECDHE-PSK-CHACHA20-POLY1305'],
  ['CHACHA20-POLY1305', 'DHE-PSK-CHACHA20-POLY1305'],
]

/** OpenSSL has them at its lowest level only; TLS 1.3 has none. */
const anonymousSuites: readonly Suite[] = [
  ['AES-256-GCM', 'ADH-AES256-GCM-SHA384'],
  ['AES-128-GCM', 'ADH-AES128-GCM-SHA256'],
  ['AES-256-CBC', 'ADH-AES256-SHA256'],
  ['AES-128-CBC', 'ADH-AES128-SHA256'],
]

/** Throws `UNSUPPORTED` when the priority leaves nothing that goes with such credentials. */
export function contextOptions(credentials: TlsCredentials): SecureContextOptions {
  const { minVersion, maxVersion, ciphers, groups } = credentials.session
  const { SSL_OP_NO_RENEGOTIATION } = process.getBuiltinModule('node:constants')
  // Whoever was verified once could be somebody else after another handshake.
  const common = {
    secureOptions: SSL_OP_NO_RENEGOTIATION,
    minVersion,
    maxVersion,
    ...(groups === undefined ? {} : { ecdhCurve: groups }),
  }
  switch (credentials.kind) {
    case 'x509':
      return { ...common, ciphers, ...certificateOptions(credentials) }
    case 'psk':
      return { ...common, ...pskOptions(credentials), ca: noAuthorities, dhparam: 'auto' }
    case 'anon':
      return {
        ...common,
        minVersion: 'TLSv1.2',
        maxVersion: 'TLSv1.2',
        ciphers: `${suitesFor(credentials, anonymousSuites).join(':')}:@SECLEVEL=0`,
        ca: noAuthorities,
        dhparam: credentials.dhParameters ?? 'auto',
      }
  }
}

/** No version is spoken that has no suite left. */
function pskOptions(credentials: PskCredentials): SecureContextOptions {
  const { minVersion, maxVersion } = credentials.session
  const newer = maxVersion === 'TLSv1.3' ? allowedOf(credentials, pskSuites13) : []
  const older = minVersion === 'TLSv1.2' ? allowedOf(credentials, pskSuites12) : []
  if (newer.length + older.length === 0) throw nothingLeft(credentials)
  return {
    minVersion: older.length > 0 ? 'TLSv1.2' : 'TLSv1.3',
    maxVersion: newer.length > 0 ? 'TLSv1.3' : 'TLSv1.2',
    ciphers: [...newer, ...older].join(':'),
  }
}

function suitesFor(credentials: TlsCredentials, suites: readonly Suite[]): string[] {
  const names = allowedOf(credentials, suites)
  if (names.length === 0) throw nothingLeft(credentials)
  return names
}

function allowedOf({ session: { allowed } }: TlsCredentials, suites: readonly Suite[]): string[] {
  return suites.filter(([cipher]) => !allowed || allowed.has(cipher)).map(([, suite]) => suite)
}

function nothingLeft({ kind }: TlsCredentials): BlockError {
  return new BlockError(
    'UNSUPPORTED',
    `TLS session priority leaves no cipher that goes with tls-creds-${kind}`,
    { errno: 'ENOTSUP' },
  )
}

/** Without a list Node takes the authorities of the web. */
const noAuthorities = Buffer.alloc(0)

function certificateOptions({ authorities, own, dhParameters }: X509Credentials) {
  return {
    ca: authorities,
    // An authority of the list need not be a root.
    allowPartialTrustChain: true,
    cert: own?.certificate,
    key: own?.key,
    passphrase: own?.passphrase,
    dhparam: dhParameters ?? 'auto',
  }
}

/** Why a certificate is not to be trusted, as QEMU says it; `code` is OpenSSL's. */
export function distrust(code: string | undefined): string {
  return code === 'CERT_REVOKED'
    ? 'The certificate has been revoked'
    : 'The certificate is not trusted'
}

/**
 * What is wrong with the other side's certificate, OpenSSL's verdict taken in. It is asked of the
 * socket once: when its chain has been followed, Node 24 says that there is none.
 */
export function certificateProblem(
  certificate: X509Certificate | undefined,
  socket: TLSSocket,
  { revoked }: X509Credentials,
): string | undefined {
  if (!certificate) return 'Verify failed: No certificate was found.'
  if (!socket.authorized) return distrust(codeOf(socket.authorizationError))
  return chainOf(certificate).some(({ raw }) => isRevoked(revoked, raw))
    ? distrust('CERT_REVOKED')
    : undefined
}

/** Longest chain that is followed; OpenSSL has its own limit. */
const maxChain = 32

function chainOf(certificate: X509Certificate): X509Certificate[] {
  const chain = [certificate]
  for (let next = certificate.issuerCertificate; next; next = next.issuerCertificate) {
    if (chain.length === maxChain || chain.at(-1)?.fingerprint256 === next.fingerprint256) break
    chain.push(next)
  }
  return chain
}

/**
 * In TLS 1.3 a server that does not know our key can go on with a certificate instead, which would
 * be anybody's: whoever shows one has not used the key.
 */
export function pskProblem(socket: TLSSocket, used: boolean): string | undefined {
  return used && !socket.getPeerX509Certificate()
    ? undefined
    : 'TLS handshake failed: Insufficient credentials for that request.'
}

/** The key of a user whom the other side named. Nothing that goes wrong tells it why. */
export function sharedKey({ keys }: PskCredentials, user: string): Uint8Array | undefined {
  try {
    return keys.keyOf(user)
  } catch {
    return undefined
  }
}

function codeOf(error: unknown): string | undefined {
  if (typeof error === 'string') return error
  return error instanceof Error && 'code' in error ? String(error.code) : undefined
}

/** OpenSSL's reasons that have a sentence of GnuTLS, which is what users of QEMU know. */
const reasons: Readonly<Record<string, string>> = {
  ECONNRESET: 'The TLS connection was non-properly terminated.',
  EPIPE: 'Error in the push function.',
  ERR_SSL_NO_SHARED_CIPHER: 'No supported cipher suites have been found.',
  ERR_SSL_UNSUPPORTED_PROTOCOL: 'A packet with illegal or unsupported version was received.',
  ERR_SSL_NO_SUITABLE_SIGNATURE_ALGORITHM: 'Insufficient credentials for that request.',
  ERR_SSL_WRONG_VERSION_NUMBER: 'An unexpected TLS packet was received.',
  ERR_SSL_PACKET_LENGTH_TOO_LONG: 'An unexpected TLS packet was received.',
  ERR_SSL_BAD_RECORD_TYPE: 'An unexpected TLS packet was received.',
  ERR_SSL_BINDER_DOES_NOT_VERIFY: 'An illegal parameter has been received.',
  ERR_SSL_DECRYPTION_FAILED_OR_BAD_RECORD_MAC: 'Decryption has failed.',
  ERR_TLS_HANDSHAKE_TIMEOUT: 'The operation timed out',
}

export function handshakeFailure(error: Error & { readonly code?: string }): string {
  const { code = '' } = error
  if (Object.hasOwn(reasons, code)) return `TLS handshake failed: ${reasons[code]}`
  if (/ALERT/.test(code)) return 'TLS handshake failed: A TLS fatal alert has been received.'
  const reason = 'reason' in error ? String(error.reason) : error.message
  return `TLS handshake failed: ${reason}`
}
