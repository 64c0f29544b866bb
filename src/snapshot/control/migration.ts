/** A QEMU's migration as QMP shows it. */
import { setTimeout as sleep } from 'node:timers/promises'
import { BlockError } from '../../errors.ts'
import type { QmpClient } from '../../wire/qmp/client.ts'
import type { Json } from '../../wire/qmp/parser.ts'

/** Between two looks. */
const pollMs = 20

export interface MigrationState {
  /** `none` where there has been no migration. */
  readonly status: string
  readonly error?: string
}

export const endedStates: readonly string[] = ['none', 'completed', 'failed', 'cancelled']

export async function migrationOf(qmp: QmpClient): Promise<MigrationState> {
  const found = objectOf(await qmp.execute('query-migrate'))
  return {
    status: typeof found.status === 'string' ? found.status : 'none',
    error: typeof found['error-desc'] === 'string' ? found['error-desc'] : undefined,
  }
}

/** Waits until the migration is in one of the states. */
export async function migrationReaches(
  qmp: QmpClient,
  states: readonly string[],
  signal: AbortSignal,
): Promise<MigrationState> {
  for (;;) {
    const state = await migrationOf(qmp)
    if (states.includes(state.status)) return state
    await sleep(pollMs, undefined, { signal })
  }
}

export async function runStateOf(qmp: QmpClient): Promise<string> {
  return String(objectOf(await qmp.execute('query-status')).status)
}

/** Bytes of the guest's memory, hot-plugged one included. */
export async function memorySizeOf(qmp: QmpClient): Promise<number> {
  const found = objectOf(await qmp.execute('query-memory-size-summary'))
  return Number(found['base-memory'] ?? 0) + Number(found['plugged-memory'] ?? 0)
}

/** Which capabilities there are, and whether they are on. */
export async function capabilitiesOf(qmp: QmpClient): Promise<Map<string, boolean>> {
  const list = await qmp.execute('query-migrate-capabilities')
  if (!Array.isArray(list)) throw new BlockError('PEER', 'QEMU lists no migration capabilities')
  return new Map(
    list.map((one) => [String(objectOf(one).capability), objectOf(one).state === true]),
  )
}

export async function setCapability(qmp: QmpClient, name: string, state: boolean): Promise<void> {
  await qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: name, state }] })
}

export function objectOf(value: Json | undefined): Readonly<Record<string, Json>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return {}
  return value as Readonly<Record<string, Json>>
}
