/**
 * The parts that cipher suites are made of, as GnuTLS calls them, and the names that OpenSSL has for
 * suites and groups.
 */

/** Parts that a session may use, the preferred first. */
export interface SuiteParts {
  readonly ciphers: ReadonlySet<string>
  readonly exchanges: ReadonlySet<string>
  readonly digests: ReadonlySet<string>
}

const strong = ['AES-256-GCM', 'CHACHA20-POLY1305', 'AES-256-CCM', 'AES-256-CBC']
const usual = [...strong, 'AES-128-GCM', 'AES-128-CCM', 'AES-128-CBC']
const forgotten = ['ECDHE-ECDSA', 'ECDHE-RSA', 'DHE-RSA']
export const allExchanges = ['ECDHE-ECDSA', 'ECDHE-RSA', 'RSA', 'DHE-RSA']
export const allDigests = ['SHA1', 'SHA256', 'SHA384', 'AEAD']
export const allCiphers = usual

interface Level {
  readonly ciphers: readonly string[]
  readonly exchanges: readonly string[]
}

/** What the levels begin with. */
export const levelParts: Readonly<Record<string, Level>> = {
  NORMAL: { ciphers: usual, exchanges: allExchanges },
  PERFORMANCE: { ciphers: usual, exchanges: allExchanges },
  LEGACY: { ciphers: usual, exchanges: allExchanges },
  PFS: { ciphers: usual, exchanges: forgotten },
  SECURE: { ciphers: usual, exchanges: allExchanges },
  SECURE128: { ciphers: usual, exchanges: allExchanges },
  SECURE192: { ciphers: strong, exchanges: allExchanges },
  SECURE256: { ciphers: strong, exchanges: allExchanges },
  SUITEB128: { ciphers: ['AES-128-GCM', 'AES-256-GCM'], exchanges: ['ECDHE-ECDSA'] },
  SUITEB192: { ciphers: ['AES-256-GCM'], exchanges: ['ECDHE-ECDSA'] },
  NONE: { ciphers: [], exchanges: [] },
}

/** Names that have no suite with certificates, or none in OpenSSL: with or without is the same. */
export const withoutSuites: ReadonlySet<string> = new Set([
  ...['ANON-DH', 'ANON-ECDH', 'PSK', 'DHE-PSK', 'ECDHE-PSK', 'RSA-PSK', 'SRP', 'SRP-RSA'],
  ...['CAMELLIA-128-CBC', 'CAMELLIA-256-CBC', 'CAMELLIA-128-GCM', 'CAMELLIA-256-GCM'],
  ...['3DES-CBC', 'ARCFOUR-128', 'MD5', 'COMP-NULL', 'COMP-ALL'],
])

const suites13: Readonly<Record<string, string>> = {
  'AES-256-GCM': 'TLS_AES_256_GCM_SHA384',
  'CHACHA20-POLY1305': 'TLS_CHACHA20_POLY1305_SHA256',
  'AES-128-GCM': 'TLS_AES_128_GCM_SHA256',
  'AES-128-CCM': 'TLS_AES_128_CCM_SHA256',
}

export function suitesOfTls13({ ciphers }: SuiteParts): string[] {
  return [...ciphers].flatMap((cipher) => suites13[cipher] ?? [])
}

/** For each cipher the ends of its suites' names, by digest; and the exchanges that they go with. */
const suites12: Readonly<Record<string, readonly (readonly [string, string, RegExp])[]>> = {
  'AES-256-GCM': [['AEAD', 'AES256-GCM-SHA384', /./]],
  'AES-128-GCM': [['AEAD', 'AES128-GCM-SHA256', /./]],
  'CHACHA20-POLY1305': [['AEAD', 'CHACHA20-POLY1305', /DHE/]],
  'AES-256-CCM': [['AEAD', 'AES256-CCM', /^(ECDHE-ECDSA|DHE-RSA|RSA)$/]],
  'AES-128-CCM': [['AEAD', 'AES128-CCM', /^(ECDHE-ECDSA|DHE-RSA|RSA)$/]],
  'AES-256-CBC': [
    ['SHA384', 'AES256-SHA384', /ECDHE/],
    ['SHA256', 'AES256-SHA256', /^(DHE-)?RSA$/],
    ['SHA1', 'AES256-SHA', /./],
  ],
  'AES-128-CBC': [
    ['SHA256', 'AES128-SHA256', /./],
    ['SHA1', 'AES128-SHA', /./],
  ],
}

export function suitesOfTls12({ ciphers, exchanges, digests }: SuiteParts): string[] {
  return [...ciphers].flatMap((cipher) =>
    suites12[cipher].flatMap(([digest, name, fits]) =>
      [...exchanges]
        .filter((exchange) => digests.has(digest) && fits.test(exchange))
        .map((exchange) => (exchange === 'RSA' ? name : `${exchange}-${name}`)),
    ),
  )
}

/** Groups for the exchange of keys, in GnuTLS's order. */
export const groupNames: ReadonlyMap<string, string> = new Map([
  ['SECP256R1', 'P-256'],
  ['SECP384R1', 'P-384'],
  ['SECP521R1', 'P-521'],
  ['X25519', 'X25519'],
  ['X448', 'X448'],
  ['FFDHE2048', 'ffdhe2048'],
  ['FFDHE3072', 'ffdhe3072'],
  ['FFDHE4096', 'ffdhe4096'],
  ['FFDHE6144', 'ffdhe6144'],
  ['FFDHE8192', 'ffdhe8192'],
])
