/**
 * Takes a snapshot of a running QEMU by its monitor. Everything that can be refused is, before the
 * guest is touched; and whatever fails afterwards, the guest runs again if it ran before.
 *
 * In the background (`background-snapshot`) the guest goes on at once and its state is that of the
 * beginning. Live, which every QEMU and host can do, it is that of the end, when the guest stands
 * still for a moment. Disks get their overlays while the guest stands still at that very moment.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { BlockError } from '../../errors.ts'
import type { QmpClient } from '../../wire/qmp/client.ts'
import type { Json } from '../../wire/qmp/parser.ts'
import type { SnapshotSummary } from '../image/snapshot-writer.ts'
import {
  capabilitiesOf,
  endedStates,
  migrationOf,
  migrationReaches,
  objectOf,
  runStateOf,
  setCapability,
} from './migration.ts'

export type TakeMode = 'background' | 'live'

/** A disk whose present content is part of the snapshot: it gets an overlay for what follows. */
export interface DiskOverlay {
  /** Of a device, as `query-block` has it, or of a node. */
  readonly disk: string
  /** Made by QEMU; does not exist yet. */
  readonly file: string
}

export interface TakeOptions {
  /** Unless given: in the background where QEMU allows that, and live otherwise. */
  readonly mode?: TakeMode
  readonly disks: readonly DiskOverlay[]
  /** Where QEMU is to send the stream. */
  readonly uri: string
  readonly signal: AbortSignal
  /**
   * Saves what comes, and commits it. Is called once QEMU is about to send. `onRam` is called when
   * RAM begins to come; `running` tells to save the guest as running although it was stopped.
   */
  readonly save: (hooks: SaveHooks) => Promise<SnapshotSummary>
  /** Reads on to the end what QEMU still sends, after `save` has failed. */
  readonly drain: () => Promise<void>
}

export interface SaveHooks {
  /** Aborted when QEMU will not send: it could not connect, for instance. */
  readonly signal: AbortSignal
  readonly onRam: () => void
  readonly running: boolean
}

export interface Taken extends SnapshotSummary {
  readonly mode: TakeMode
}

/**
 * Capabilities that make another kind of stream, or several: they are off meanwhile. Those that
 * need others come first.
 */
const foreign = ['zero-copy-send', 'multifd', 'mapped-ram', 'dirty-bitmaps', 'x-colo']

/** What the guest has to be doing. */
const allowedStates = ['running', 'paused']

export async function takeSnapshot(qmp: QmpClient, options: TakeOptions): Promise<Taken> {
  return await new Take(qmp, options).run()
}

/** Throws when the monitor's QEMU is in no state to be saved. */
export async function checkReady(qmp: QmpClient): Promise<void> {
  const runState = await runStateOf(qmp)
  if (!allowedStates.includes(runState)) {
    throw new BlockError('BUSY', `the guest is '${runState}'; it has to be running or paused`)
  }
  const { status } = await migrationOf(qmp)
  if (!endedStates.includes(status)) {
    throw new BlockError('BUSY', `QEMU has a migration under way ('${status}')`)
  }
}

class Take {
  readonly #qmp: QmpClient
  readonly #options: TakeOptions
  #wasRunning = false
  #mode: TakeMode = 'background'
  /** Capabilities that were changed, and what they were. */
  readonly #changed = new Map<string, boolean>()

  constructor(qmp: QmpClient, options: TakeOptions) {
    this.#qmp = qmp
    this.#options = options
  }

  async run(): Promise<Taken> {
    await checkReady(this.#qmp)
    this.#wasRunning = (await runStateOf(this.#qmp)) === 'running'
    const disks = await this.#diskActions()
    try {
      const mode = await this.#chooseMode()
      this.#mode = mode
      const summary =
        mode === 'background' ? await this.#background(disks) : await this.#live(disks)
      return { ...summary, mode }
    } finally {
      await this.#restore()
    }
  }

  /** `blockdev-snapshot-sync` for each disk, checked as far as can be. */
  async #diskActions(): Promise<readonly Json[]> {
    const { disks } = this.#options
    if (disks.length === 0) return []
    const blocks = await this.#qmp.execute('query-block')
    const devices = Array.isArray(blocks) ? blocks.map((one) => String(objectOf(one).device)) : []
    const named = await this.#qmp.execute('query-named-block-nodes')
    const nodes = Array.isArray(named) ? named.map((one) => String(objectOf(one)['node-name'])) : []
    return disks.map(({ disk, file }) => {
      const key = nodes.includes(disk) ? 'node-name' : devices.includes(disk) ? 'device' : undefined
      if (!key) {
        throw new BlockError('INVALID_ARGUMENT', `QEMU has no disk and no node '${disk}'`)
      }
      const data: Record<string, Json> = { [key]: disk, 'snapshot-file': file, format: 'qcow2' }
      return { type: 'blockdev-snapshot-sync', data }
    })
  }

  async #chooseMode(): Promise<TakeMode> {
    const { mode } = this.#options
    const known = await capabilitiesOf(this.#qmp)
    for (const name of foreign) await this.#set(name, false, known)
    if (mode !== 'live') {
      try {
        await this.#set('background-snapshot', true, known)
        return 'background'
      } catch (error) {
        if (mode === 'background') throw error
      }
    }
    await this.#set('background-snapshot', false, known)
    if (this.#options.disks.length > 0) await this.#set('pause-before-switchover', true, known)
    return 'live'
  }

  async #set(name: string, state: boolean, known: ReadonlyMap<string, boolean>): Promise<void> {
    const before = known.get(name)
    if (before === state || (before === undefined && !state)) return
    await setCapability(this.#qmp, name, state)
    this.#changed.set(name, before ?? false)
  }

  /**
   * The guest is stopped for the disks first, so that nothing is written between them and the RAM;
   * QEMU lets it go on when the state is saved, which is when RAM begins to come.
   */
  async #background(disks: readonly Json[]): Promise<SnapshotSummary> {
    const stopped = this.#wasRunning && disks.length > 0
    if (stopped) await this.#qmp.execute('stop')
    await this.#snapshotDisks(disks)
    const goOn = () => {
      if (stopped) this.#continue().catch(() => {})
    }
    return await this.#migrate({ onRam: goOn, running: stopped }, async () => {})
  }

  async #live(disks: readonly Json[]): Promise<SnapshotSummary> {
    return await this.#migrate({ onRam: () => {}, running: false }, async () => {
      if (disks.length === 0) return
      const states = ['pre-switchover', 'completed', 'failed', 'cancelled']
      const { status } = await migrationReaches(this.#qmp, states, this.#options.signal)
      if (status !== 'pre-switchover') return
      await this.#snapshotDisks(disks)
      await this.#qmp.execute('migrate-continue', { state: 'pre-switchover' })
    })
  }

  async #snapshotDisks(disks: readonly Json[]): Promise<void> {
    if (disks.length > 0) await this.#qmp.execute('transaction', { actions: disks })
  }

  /** Saves while QEMU sends; `beside` is done meanwhile. */
  async #migrate(
    hooks: Omit<SaveHooks, 'signal'>,
    beside: () => Promise<void>,
  ): Promise<SnapshotSummary> {
    const { save, uri, signal } = this.#options
    const refused = new AbortController()
    const saving = save({ ...hooks, signal: AbortSignal.any([signal, refused.signal]) })
    saving.catch(() => {})
    try {
      await this.#qmp.execute('migrate', { uri })
    } catch (error) {
      refused.abort(error)
      throw error
    }
    const watching = this.#watch(saving, refused)
    const [saved, done] = await Promise.allSettled([
      saving.catch((error) => this.#giveUp(error)),
      beside().catch((error) => this.#cancel(error)),
    ])
    await watching
    // Sooner failures explain later ones.
    if (done.status === 'rejected') throw done.reason
    if (saved.status === 'rejected') throw await this.#explained(saved.reason)
    const { status, error } = await migrationReaches(this.#qmp, endedStates, signal)
    if (status !== 'completed') {
      throw new BlockError('PEER', `QEMU says that the migration has ${status}: ${error ?? ''}`)
    }
    return saved.value
  }

  /** A QEMU that cannot connect says so here only. */
  async #watch(saving: Promise<unknown>, refused: AbortController): Promise<void> {
    let over = false
    const ended = saving.then(
      () => {},
      () => {},
    )
    void ended.then(() => {
      over = true
    })
    while (!over) {
      const state = await migrationOf(this.#qmp).catch(() => undefined)
      if (state?.status === 'failed' || state?.status === 'cancelled') {
        // What it has sent before is still on its way.
        await Promise.race([ended, sleep(graceMs)])
        const reason = state.error ?? 'it does not say why'
        refused.abort(new BlockError('PEER', `QEMU's migration has ${state.status}: ${reason}`))
        return
      }
      if (state === undefined) return
      await Promise.race([ended, sleep(watchMs)])
    }
  }

  /** Saving has failed: QEMU is told to stop, and what it sends is read until it does. */
  async #giveUp(error: unknown): Promise<never> {
    // A background snapshot whose reader leaves early costs the guest its life in QEMU 7.2.
    if (this.#mode === 'live') {
      await this.#qmp.execute('migrate_cancel').catch(() => {})
    }
    await this.#options.drain()
    throw error
  }

  async #cancel(error: unknown): Promise<never> {
    await this.#qmp.execute('migrate_cancel').catch(() => {})
    throw error
  }

  /** A stream that ends early has its reason in QEMU. */
  async #explained(error: unknown): Promise<unknown> {
    const state = await migrationOf(this.#qmp).catch(() => undefined)
    if (state?.status !== 'failed' || !(error instanceof BlockError)) return error
    if (error.code !== 'CORRUPT_IMAGE') return error
    return new BlockError('PEER', `QEMU's migration has failed: ${state.error ?? error.message}`, {
      cause: error,
    })
  }

  /** Capabilities as they were, and the guest running if it was. */
  async #restore(): Promise<void> {
    const qmp = this.#qmp
    if (qmp.lost.aborted) return
    await migrationReaches(qmp, endedStates, AbortSignal.timeout(restoreMs)).catch(() => {})
    for (const [name, state] of [...this.#changed].reverse()) {
      await setCapability(qmp, name, state).catch(() => {})
    }
    if (this.#wasRunning && (await runStateOf(qmp).catch(() => 'running')) !== 'running') {
      await qmp.execute('cont').catch(() => {})
    }
  }

  async #continue(): Promise<void> {
    if ((await runStateOf(this.#qmp)) !== 'running') await this.#qmp.execute('cont')
  }
}

/** Between two looks, while the stream comes. */
const watchMs = 200

/** How long a stream may take to end after its source has. */
const graceMs = 2000

/** How long QEMU may take to end a migration that was given up. */
const restoreMs = 30_000
