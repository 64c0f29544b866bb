/** Brings a snapshot into a QEMU that was started with `-incoming defer`, by its monitor. */
import { setTimeout as sleep } from 'node:timers/promises'
import { BlockError } from '../../errors.ts'
import type { QmpClient } from '../../wire/qmp/client.ts'
import type { SnapshotReader } from '../image/snapshot-reader.ts'
import type { LoadSummary } from '../load/load.ts'
import { migrationOf, migrationReaches, runStateOf, setCapability } from './migration.ts'

export interface ResumeOptions {
  /** See `LoadOptions`. */
  readonly postcopyPercent?: number
  /** Where QEMU is to wait for the stream. */
  readonly uri: string
  /** Leave the guest as it was saved, even if that was paused. */
  readonly keepPaused: boolean
  readonly signal: AbortSignal
  /** Connects to `uri`, and loads. */
  readonly load: () => Promise<LoadSummary>
}

export interface Resumed extends LoadSummary {
  /** From the moment that QEMU was asked until the guest ran. */
  readonly runningAfterMs: number | undefined
}

/** Throws when the QEMU does not wait for a snapshot like this one. */
export async function checkWaiting(qmp: QmpClient, snapshot: SnapshotReader): Promise<void> {
  const runState = await runStateOf(qmp)
  if (runState !== 'inmigrate') {
    throw new BlockError('BUSY', `QEMU is '${runState}'; it has to be started with -incoming defer`)
  }
  const type = await qmp.execute('qom-get', { path: '/machine', property: 'type' })
  const { machine } = snapshot.parts
  if (machine !== '' && type !== `${machine}-machine`) {
    throw new BlockError(
      'INVALID_ARGUMENT',
      `the snapshot is of a machine '${machine}', and QEMU has a '${type}'`,
    )
  }
}

export async function resumeSnapshot(qmp: QmpClient, options: ResumeOptions): Promise<Resumed> {
  const { postcopyPercent, uri, keepPaused, signal, load } = options
  if (postcopyPercent !== undefined) await setCapability(qmp, 'postcopy-ram', true)
  const start = performance.now()
  await qmp.execute('migrate-incoming', { uri })
  const running = whenRunning(qmp, signal)
  running.catch(() => {})
  let summary: LoadSummary
  try {
    summary = await load()
  } catch (error) {
    throw await explained(qmp, error)
  }
  const { status, error } = await migrationReaches(qmp, ['completed', 'failed'], signal)
  if (status === 'failed') {
    throw new BlockError(
      'PEER',
      `QEMU could not load the snapshot: ${error ?? 'it does not say why'}`,
    )
  }
  if ((await settledState(qmp, signal)) !== 'running' && !keepPaused) await qmp.execute('cont')
  const at = keepPaused ? undefined : await running
  return { ...summary, runningAfterMs: at === undefined ? undefined : Math.round(at - start) }
}

async function whenRunning(qmp: QmpClient, signal: AbortSignal): Promise<number> {
  while ((await runStateOf(qmp)) !== 'running') await sleep(5, undefined, { signal })
  return performance.now()
}

async function settledState(qmp: QmpClient, signal: AbortSignal): Promise<string> {
  for (;;) {
    const state = await runStateOf(qmp)
    if (state !== 'inmigrate') return state
    await sleep(5, undefined, { signal })
  }
}

/** QEMU knows better why it has hung up, unless it is gone. */
async function explained(qmp: QmpClient, error: unknown): Promise<unknown> {
  const state = await migrationOf(qmp).catch(() => undefined)
  if (state?.error === undefined) return error
  return new BlockError('PEER', `QEMU could not load the snapshot: ${state.error}`, {
    cause: error,
  })
}
