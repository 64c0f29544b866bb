/** What `--object` of one run of a tool has made, by id. */
import { SecretTable } from '../block/secrets.ts'
import { ThrottleGroupTable } from '../block/throttle-options.ts'
import { TlsObjectTable } from '../block/tls-objects.ts'

export interface ObjectTables {
  readonly secrets: SecretTable
  readonly throttleGroups: ThrottleGroupTable
  /** Credentials, and authorizations. */
  readonly tls: TlsObjectTable
}

export function objectTables(): ObjectTables {
  const secrets = new SecretTable()
  const throttleGroups = new ThrottleGroupTable()
  const tls = new TlsObjectTable((id) => secrets.find(id) ?? throttleGroups.get(id))
  return { secrets, throttleGroups, tls }
}
