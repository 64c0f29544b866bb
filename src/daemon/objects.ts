/** Objects that nodes, servers and exports refer to by id: secrets, credentials, I/O threads. */
import { badIdentifier, duplicate, isIdentifier, noSecret } from '../block/secrets.ts'
import type { ThrottleGroup } from '../block/throttle-group.ts'
import {
  authoriseBy,
  credentialsFor,
  type TlsObject,
  type TlsObjectType,
} from '../block/tls-objects.ts'
import { invalid } from '../errors.ts'
import type { Authorise } from '../tls/accept.ts'
import type { TlsCredentials } from '../tls/credentials.ts'
import type { Endpoint } from '../tls/sanity-check.ts'
import type { PropertyValues } from './qom/property-values.ts'

/** What is particular to a kind of object. */
export type MadeObject = (
  | { readonly type: 'secret' | 'secret_keyring'; readonly value: Uint8Array }
  | { readonly type: TlsObjectType; readonly tls: TlsObject }
  | { readonly type: 'throttle-group'; readonly group: ThrottleGroup }
  /** Nothing but a name: there is one event loop, and a pool of threads behind it. */
  | { readonly type: 'iothread' | 'main-loop' }
) & {
  /** Unless those that were given are all that there is to tell. */
  readonly values?: PropertyValues
}

export type DaemonObject = MadeObject & { readonly values: PropertyValues }

export class ObjectTable {
  readonly #objects = new Map<string, DaemonObject>()

  get(id: string): DaemonObject | undefined {
    return this.#objects.get(id)
  }

  /** The credentials of that name, for that side. */
  tlsCredentials(id: string, endpoint: Endpoint): TlsCredentials {
    return credentialsFor(this.#tlsObject(id), id, endpoint)
  }

  /** Asks the object that has the name when a client comes. */
  authorisation(id: string): Authorise {
    return authoriseBy((name) => this.#tlsObject(name), id)
  }

  #tlsObject(id: string): unknown {
    const found = this.#objects.get(id)
    return found && 'tls' in found ? found.tls : found
  }

  /** Bytes of the secret of that name. */
  secret(id: string): Uint8Array {
    const found = this.#objects.get(id)
    if (!found) throw noSecret(id)
    if ('value' in found) return found.value
    throw invalid(`Object with id '${id}' is not a secret`)
  }

  /** Refuses an id that is malformed. */
  checkId(id: string): void {
    if (!isIdentifier(id)) throw badIdentifier()
  }

  checkFree(id: string): void {
    if (this.#objects.has(id)) throw duplicate(id)
  }

  /** Refuses an id that is malformed or taken. */
  add(id: string, object: DaemonObject): void {
    this.checkId(id)
    this.checkFree(id)
    this.#objects.set(id, object)
  }

  /** With their ids, in the order they were added. */
  [Symbol.iterator](): Iterator<[string, DaemonObject]> {
    return this.#objects.entries()
  }

  get hasMainLoop(): boolean {
    return [...this.#objects.values()].some(({ type }) => type === 'main-loop')
  }

  throttleGroup(id: string): ThrottleGroup | undefined {
    const found = this.#objects.get(id)
    return found?.type === 'throttle-group' ? found.group : undefined
  }

  remove(id: string): void {
    const inUse = this.throttleGroup(id)?.inUse || this.#objects.get(id)?.type === 'main-loop'
    if (inUse) throw invalid(`object '${id}' is in use, can not be deleted`)
    if (!this.#objects.delete(id)) throw invalid(`object '${id}' not found`)
  }
}
