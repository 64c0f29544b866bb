/**
 * Certificates and keys in the files that QEMU looks for: `ca-cert.pem`, `ca-crl.pem`,
 * `server-cert.pem`, `server-key.pem`, `client-cert.pem`, `client-key.pem`, `dh-params.pem`.
 */
import type { X509Certificate } from 'node:crypto'
import { accessSync, readFileSync } from 'node:fs'
import { BlockError, errnoOf, strerror, systemError } from '../errors.ts'
import { type RevocationList, revocationList } from './certificate.ts'
import type { X509Credentials } from './credentials.ts'
import { certificateLabels, pemParts } from './pem.ts'
import { type SessionSettings, usualSession } from './priority.ts'
import { checkSanity, type Endpoint, type FiledCertificate } from './sanity-check.ts'

export interface X509Options {
  readonly directory: string
  readonly endpoint: Endpoint
  /** Insist on a certificate of the other side; true unless given. */
  readonly verifyPeer?: boolean
  /** Judge our own certificates now; true unless given. */
  readonly sanityCheck?: boolean
  /** Of the private key; asked for when it is read. */
  readonly passphrase?: () => string
  /** The usual one unless given. */
  readonly session?: SessionSettings
}

/** Throws `INVALID_ARGUMENT`, or what the system says of a file that has to be there. */
export function loadX509(options: X509Options): X509Credentials {
  const { endpoint, directory, passphrase } = options
  const files = findFiles(directory, endpoint)
  if (options.sanityCheck ?? true) {
    const own = files.own && readOne(files.own.certificate, endpoint)
    checkSanity(endpoint, own, readAuthorities(files.authorities))
  }
  return {
    kind: 'x509',
    endpoint,
    verifyPeer: options.verifyPeer ?? true,
    session: options.session ?? usualSession,
    authorities: readCertificates(files.authorities),
    own: files.own && readPair(files.own.certificate, files.own.key, passphrase?.()),
    revoked: files.revocations === undefined ? [] : readRevocations(files.revocations),
    dhParameters: files.dhParameters === undefined ? undefined : readDh(files.dhParameters),
  }
}

interface Files {
  readonly authorities: string
  readonly own?: { readonly certificate: string; readonly key: string }
  readonly revocations?: string
  readonly dhParameters?: string
}

/** A client may do without a certificate; revocations and parameters are a server's, as in QEMU. */
function findFiles(directory: string, endpoint: Endpoint): Files {
  const at = (name: string) => `${directory}/${name}`
  const authorities = required(at('ca-cert.pem'))
  const certificate = at(`${endpoint}-cert.pem`)
  const key = at(`${endpoint}-key.pem`)
  if (endpoint === 'client') {
    return {
      authorities,
      own: exists(certificate) && exists(key) ? { certificate, key } : undefined,
    }
  }
  return {
    authorities,
    own: { certificate: required(certificate), key: required(key) },
    revocations: optional(at('ca-crl.pem')),
    dhParameters: optional(at('dh-params.pem')),
  }
}

function required(file: string): string {
  try {
    accessSync(file)
  } catch (error) {
    throw systemError(error, `Unable to access credentials ${file}`, { path: file })
  }
  return file
}

function optional(file: string): string | undefined {
  return exists(file) ? file : undefined
}

/** What is there and cannot be had is not passed over: a list of revocations is no decoration. */
function exists(file: string): boolean {
  try {
    accessSync(file)
    return true
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return false
    throw systemError(error, `Unable to access credentials ${file}`, { path: file })
  }
}

/** Bytes of a file of certificates or keys. */
const maxFileLength = 4 * 1024 * 1024

/** `complain` words that it cannot be read, for a reason. */
function readText(file: string, complain: (reason: string) => BlockError): Buffer {
  let text: Buffer
  try {
    text = readFileSync(file)
  } catch (error) {
    throw complain(`Error reading file “${file}”: ${strerror(errnoOf(error) ?? 'EIO')}`)
  }
  if (text.length <= maxFileLength) return text
  throw complain(`it has more than ${maxFileLength} bytes`)
}

/** Whatever it is that cannot be read, QEMU calls it a list of authorities. */
function readCertificates(file: string): Buffer {
  return readText(file, (reason) => invalid(`Cannot load CA cert list ${file}: ${reason}`))
}

function readOne(file: string, endpoint: Endpoint): FiledCertificate {
  const [der] = pemParts(readCertificates(file), ...certificateLabels)
  const certificate = der && parseCertificate(der)
  if (certificate) return { file, certificate }
  throw invalid(`Unable to import ${endpoint} certificate ${file}: Base64 unexpected header error.`)
}

function readAuthorities(file: string): FiledCertificate[] {
  const found = pemParts(readCertificates(file), ...certificateLabels).map(parseCertificate)
  if (found.length === 0 || found.includes(undefined)) {
    throw invalid(`Unable to import CA certificate list ${file}`)
  }
  return found.map((certificate) => ({ file, certificate: certificate as X509Certificate }))
}

function parseCertificate(der: Buffer): X509Certificate | undefined {
  const { X509Certificate: Certificate } = process.getBuiltinModule('node:crypto')
  try {
    return new Certificate(der)
  } catch {
    return undefined
  }
}

/** A certificate, with those behind it that lead to an authority, and its key. */
function readPair(
  certificateFile: string,
  keyFile: string,
  passphrase: string | undefined,
): X509Credentials['own'] {
  const fail = (problem: string) =>
    invalid(`Cannot load certificate '${certificateFile}' & key '${keyFile}': ${problem}`)
  const unreadable = () => fail('Error while reading file.')
  const certificate = readText(certificateFile, unreadable)
  const key = readText(keyFile, unreadable)
  const problem = pairProblem(certificate, key, passphrase)
  if (problem !== undefined) throw fail(problem)
  return { certificate, key, passphrase }
}

function pairProblem(
  certificate: Buffer,
  key: Buffer,
  passphrase: string | undefined,
): string | undefined {
  const [der] = pemParts(certificate, ...certificateLabels)
  const parsed = der && parseCertificate(der)
  if (!parsed) return 'Base64 decoding error.'
  const { createPrivateKey } = process.getBuiltinModule('node:crypto')
  try {
    const own = createPrivateKey({ key, passphrase })
    if (parsed.checkPrivateKey(own)) return undefined
    return 'The certificate and the given key do not match.'
  } catch {
    return key.includes('ENCRYPTED')
      ? 'Decryption has failed.'
      : 'The requested data were not available.'
  }
}

function readRevocations(file: string): RevocationList[] {
  const text = readText(file, () => invalid(`Cannot load CRL '${file}': Error while reading file.`))
  const parts = pemParts(text, 'X509 CRL')
  if (parts.length === 0) throw invalid(`Cannot load CRL '${file}': Base64 decoding error.`)
  try {
    return parts.map(revocationList)
  } catch (cause) {
    throw invalid(`Cannot load CRL '${file}': Error in DER parsing.`, cause)
  }
}

/** Diffie-Hellman parameters, where there are any. */
export function readOptionalDh(file: string): Buffer | undefined {
  return exists(file) ? readDh(file) : undefined
}

function readDh(file: string): Buffer {
  const text = readText(file, (reason) => invalid(reason))
  if (pemParts(text, 'DH PARAMETERS').length > 0) return text
  throw invalid(`Unable to load DH parameters from ${file}: Base64 unexpected header error.`)
}

function invalid(message: string, cause?: unknown): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL', cause })
}
