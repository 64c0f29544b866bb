/**
 * Whether certificates are fit for their use, found out when they are loaded rather than by the
 * first client that is turned away. The checks, their order and their words are QEMU's.
 */
import type { X509Certificate } from 'node:crypto'
import { invalid } from '../errors.ts'
import {
  type CertificateFacts,
  certificateFacts,
  PURPOSE_ANY,
  PURPOSE_CLIENT,
  PURPOSE_SERVER,
  USAGE_DIGITAL_SIGNATURE,
  USAGE_KEY_CERT_SIGN,
} from './certificate.ts'

/** A certificate and the file that it comes from. */
export interface FiledCertificate {
  readonly file: string
  readonly certificate: X509Certificate
}

export type Endpoint = 'server' | 'client'

/** Throws `INVALID_ARGUMENT` with what is wrong. `own` is absent from clients that have none. */
export function checkSanity(
  endpoint: Endpoint,
  own: FiledCertificate | undefined,
  authorities: readonly FiledCertificate[],
): void {
  if (own) checkOne(own, endpoint)
  for (const authority of authorities) checkOne(authority, 'CA')
  if (!own) return
  const problem = trustProblem(own.certificate, authorities)
  if (problem === undefined) return
  const against = authorities[0]?.file
  throw invalid(`Our own certificate ${own.file} failed validation against ${against}: ${problem}`)
}

function checkOne({ file, certificate }: FiledCertificate, role: Endpoint | 'CA'): void {
  const facts = certificateFacts(certificate.raw)
  checkTimes(facts, file, role)
  checkConstraints(facts, file, role)
  checkUsage(facts, file, role)
  if (role !== 'CA') checkPurpose(facts, file, role)
}

function checkTimes({ notBefore, notAfter }: CertificateFacts, file: string, role: string): void {
  const now = Date.now()
  if (notAfter < now) throw invalid(`The ${role} certificate ${file} has expired`)
  if (notBefore > now) throw invalid(`The ${role} certificate ${file} is not yet active`)
}

function checkConstraints({ authority }: CertificateFacts, file: string, role: string): void {
  if (role === 'CA') {
    if (authority === undefined) {
      throw invalid(`The certificate ${file} is missing basic constraints for a CA`)
    }
    if (!authority) throw invalid(`The certificate ${file} basic constraints do not show a CA`)
  } else if (authority) {
    throw invalid(
      `The certificate ${file} basic constraints show a CA, but we need one for a ${role}`,
    )
  }
}

/** What a certificate says without insisting on it is no reason to refuse it. */
function checkUsage({ usage }: CertificateFacts, file: string, role: string): void {
  if (!usage?.critical) return
  const [needed, name] =
    role === 'CA'
      ? [USAGE_KEY_CERT_SIGN, 'certificate signing']
      : [USAGE_DIGITAL_SIGNATURE, 'digital signature']
  if (usage.allows(needed)) return
  throw invalid(`Certificate ${file} usage does not permit ${name}`)
}

function checkPurpose({ purposes }: CertificateFacts, file: string, role: Endpoint): void {
  if (!purposes?.critical) return
  const fitting = [PURPOSE_ANY, role === 'server' ? PURPOSE_SERVER : PURPOSE_CLIENT]
  if (purposes.ids.some((id) => fitting.includes(id))) return
  throw invalid(`Certificate ${file} purpose does not allow use with a TLS ${role}`)
}

/** Every certificate of the list is an anchor: one of them must have signed ours. */
function trustProblem(
  own: X509Certificate,
  authorities: readonly FiledCertificate[],
): string | undefined {
  const named = authorities.filter(({ certificate }) => certificate.subject === own.issuer)
  if (named.length === 0) return "The certificate hasn't got a known issuer"
  const signers = named.filter(
    ({ certificate }) => own.checkIssued(certificate) && own.verify(certificate.publicKey),
  )
  return signers.length === 0 ? 'The certificate is not trusted' : undefined
}
