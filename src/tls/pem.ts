/** PEM (RFC 7468): texts with DER in Base64 between two lines. */

/** The DER of each part with one of these labels, in their order. */
export function pemParts(text: Uint8Array, ...labels: readonly string[]): Buffer[] {
  const pattern = new RegExp(
    `-----BEGIN (${labels.join('|')})-----([A-Za-z0-9+/=\\s]*)-----END \\1-----`,
    'g',
  )
  const latin1 = Buffer.from(text).toString('latin1')
  return [...latin1.matchAll(pattern)].map(([, , base64]) => Buffer.from(base64, 'base64'))
}

export const certificateLabels = ['CERTIFICATE', 'X509 CERTIFICATE'] as const
