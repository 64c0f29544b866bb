/** `object-add` of credentials and of authorizations. */
import { bool, enumeration, list, object, optional, required, str } from './types.ts'

const loaded = optional(bool, 'Refused, as in QEMU: an object is always loaded.', ['deprecated'])

const credentials = {
  'verify-peer': optional(
    bool,
    'Whether the other side needs a certificate of the authority; true unless given.',
  ),
  dir: optional(str, 'Folder of the files; required but for `tls-creds-anon`.'),
  endpoint: optional(
    enumeration('QCryptoTLSCredsEndpoint', ['client', 'server']),
    'Whom they are for: `server` for the NBD server, `client` (unless given) for the driver `nbd`.',
  ),
  priority: optional(
    str,
    'Versions and ciphers: `NORMAL`, `SECURE128`, `SECURE192` or `SECURE256`, and `:-VERS-TLS1.3`.',
  ),
}

const x509 = object('TlsCredsX509Properties', {
  ...credentials,
  loaded,
  'sanity-check': optional(bool, 'Whether our own certificates are judged; true unless given.'),
  passwordid: optional(str, 'The `secret` that our private key is enciphered with.'),
})

const psk = object('TlsCredsPskProperties', {
  ...credentials,
  loaded,
  username: optional(str, 'The user that a client is; `qemu` unless given.'),
})

const anonymous = object('TlsCredsAnonProperties', { ...credentials, loaded })

const policy = enumeration('QAuthZListPolicy', ['deny', 'allow'])
const rule = object('QAuthZListRule', {
  match: required(str, 'Whom it is about: a distinguished name, or a user.'),
  policy: required(policy, 'What becomes of them.'),
  format: optional(enumeration('QAuthZListFormat', ['exact', 'glob']), '`exact` unless given.'),
})

export const tlsObjectTypes = {
  'tls-creds-anon': anonymous,
  'tls-creds-psk': psk,
  'tls-creds-x509': x509,
  'authz-list': object('AuthZListProperties', {
    policy: optional(policy, 'For those whom no rule is about; `deny` unless given.'),
    rules: optional(list(rule), 'The first that matches decides.'),
  }),
  'authz-list-file': object('AuthZListFileProperties', {
    filename: required(str, 'A file of JSON with the members of an `authz-list`.'),
    refresh: optional(bool, 'Whether a changed file is read anew; true unless given.'),
  }),
  'authz-simple': object('AuthZSimpleProperties', {
    identity: required(str, 'The one who may come in.'),
  }),
}

/** QEMU's schema has them, and its daemon no such objects. */
export const absentObjectTypes = {
  'authz-listfile': object('AuthZListFileProperties', {
    filename: required(str, 'Refused.'),
    refresh: optional(bool, 'Refused.'),
  }),
  'authz-pam': object('AuthZPAMProperties', { service: required(str, 'Refused.') }),
}
