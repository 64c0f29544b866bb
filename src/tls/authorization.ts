/**
 * Who may come in, as QEMU's objects of type `authz-simple`, `authz-list` and `authz-list-file`
 * decide it: by the distinguished name of a certificate, or the name of a user with a key.
 */
import { globMatches } from './glob.ts'

export interface Authorization {
  allows(identity: string): boolean
}

export type AuthorizationPolicy = 'allow' | 'deny'

export interface AuthorizationRule {
  readonly match: string
  readonly policy: AuthorizationPolicy
  /** Exactly so unless given. */
  readonly format?: 'exact' | 'glob'
}

export interface AuthorizationList {
  /** For those whom no rule matches; they are denied unless given. */
  readonly policy?: AuthorizationPolicy
  /** The first one that matches decides. */
  readonly rules?: readonly AuthorizationRule[]
}

export function simpleAuthorization(identity: string): Authorization {
  return { allows: (given) => given === identity }
}

export function listAuthorization({
  policy = 'deny',
  rules = [],
}: AuthorizationList): Authorization {
  return {
    allows(identity) {
      const decisive = rules.find((rule) => matches(rule, identity))
      return (decisive?.policy ?? policy) === 'allow'
    },
  }
}

function matches({ match, format = 'exact' }: AuthorizationRule, identity: string): boolean {
  return format === 'exact' ? match === identity : globMatches(match, identity)
}
