/** A backup that a daemon makes: asked for, followed and cancelled over QMP. */
import { BlockError } from '../../errors.ts'
import { QmpClient, QmpCommandError } from '../../wire/qmp/client.ts'
import type { Json } from '../../wire/qmp/parser.ts'

export interface BackupRequest {
  /** What the daemon writes; absolute. */
  readonly file: string
  /** Absolute. */
  readonly configs: readonly string[]
  /** All exported nodes when there are none. */
  readonly devices: readonly { readonly node: string; readonly name?: string }[]
  /** Bytes a second; 0 is no limit. */
  readonly speed: number
  /** The folder is absolute. What is not given is the daemon's choice. */
  readonly fleecing?: {
    readonly folder?: string
    readonly limit?: number
    readonly onFull?: 'slow' | 'give-up'
  }
}

export interface BackupState {
  readonly status: 'active' | 'done' | 'error'
  /** Bytes. */
  readonly total: number
  readonly transferred: number
  readonly zeroBytes: number
  readonly message: string | undefined
}

/** Longest time between two looks at the progress. */
const pollMs = 250
const firstPollMs = 10

export class DaemonBackup {
  readonly uuid: string
  readonly #client: QmpClient
  #cancelled: Promise<unknown> | undefined

  private constructor(client: QmpClient, uuid: string) {
    this.#client = client
    this.uuid = uuid
  }

  /**
   * Settles when the moment is preserved. When `signal` fires before, because the daemon waits for
   * the reader of a FIFO for example, the backup is withdrawn and this rejects.
   */
  static async start(
    client: QmpClient,
    request: BackupRequest,
    signal: AbortSignal | undefined,
  ): Promise<DaemonBackup> {
    let withdrawal: Promise<void> | undefined
    const withdraw = () => {
      withdrawal = cancelIfOurs(client.address, request.file).catch(() => {})
    }
    signal?.addEventListener('abort', withdraw, { once: true })
    try {
      const result = await client.execute('backup', argumentsOf(request))
      return new DaemonBackup(client, text(result, 'UUID') ?? '')
    } catch (error) {
      if (!(error instanceof QmpCommandError) || error.class !== 'CommandNotFound') throw error
      throw new BlockError(
        'UNSUPPORTED',
        `the monitor at '${client.address}' has no command 'backup'; start the disks with 'varve daemon'`,
        { cause: error },
      )
    } finally {
      signal?.removeEventListener('abort', withdraw)
      await withdrawal
    }
  }

  /** Asks the daemon to end it and take everything back. `follow` tells when it has. */
  cancel(): void {
    this.#cancelled ??= this.#client.execute('backup-cancel').catch(() => {})
  }

  /** Looks at the progress until the end; the last state is `done` or `error`. */
  async follow(onState: (state: BackupState) => void): Promise<BackupState> {
    for (let pause = firstPollMs; ; pause = Math.min(2 * pause, pollMs)) {
      const state = await this.#look()
      onState(state)
      if (state.status !== 'active') return state
      await this.#pause(pause)
    }
  }

  async #look(): Promise<BackupState> {
    const found = await this.#client.execute('query-backup')
    const uuid = text(found, 'uuid')
    if (uuid !== this.uuid) {
      throw new BlockError(
        'PEER',
        `another backup has begun at '${this.#client.address}'; what became of this one is unknown`,
      )
    }
    const status = text(found, 'status')
    return {
      status: status === 'done' || status === 'error' ? status : 'active',
      total: number(found, 'total'),
      transferred: number(found, 'transferred'),
      zeroBytes: number(found, 'zero-bytes'),
      message: text(found, 'errmsg'),
    }
  }

  /** Ends early when something happens to a job, or to the connection. */
  async #pause(ms: number): Promise<void> {
    const { lost } = this.#client
    await new Promise<void>((resolve) => {
      const wake = () => {
        clearTimeout(timer)
        this.#client.off('event', wake)
        lost.removeEventListener('abort', wake)
        resolve()
      }
      const timer = setTimeout(wake, ms)
      this.#client.on('event', wake)
      lost.addEventListener('abort', wake)
    })
  }
}

/**
 * Over a connection of its own, since on the other one commands wait for each other. Nobody else's
 * backup is cancelled, which may be the reason why ours does not begin.
 */
async function cancelIfOurs(address: string, file: string): Promise<void> {
  await using client = await QmpClient.connect(address)
  const found = await client.execute('query-backup')
  const ours = text(found, 'status') === 'active' && text(found, 'backup-file') === file
  if (ours) await client.execute('backup-cancel')
}

/**
 * Proxmox's arguments as far as they go, so that its QEMU understands them too; ours where they
 * do not: several configuration files, names of disks in the archive.
 */
function argumentsOf(request: BackupRequest): Record<string, unknown> {
  const { file, configs, devices, speed, fleecing } = request
  const renamed = devices.some(({ name }) => name !== undefined)
  return {
    'backup-file': file,
    format: 'vma',
    ...(speed > 0 ? { speed } : {}),
    ...(configs.length === 1 ? { 'config-file': configs[0] } : {}),
    ...(configs.length > 1 ? { configs: configs.map((path) => ({ path })) } : {}),
    ...(devices.length > 0 && !renamed
      ? { devlist: devices.map(({ node }) => node).join(',') }
      : {}),
    ...(fleecing && {
      fleecing: true,
      'spill-folder': fleecing.folder,
      'spill-limit': fleecing.limit,
      'on-spill-full': fleecing.onFull,
    }),
    ...(renamed ? { devices: devices.map(({ node, name }) => ({ 'node-name': node, name })) } : {}),
  }
}

function text(value: Json, member: string): string | undefined {
  const found = memberOf(value, member)
  return typeof found === 'string' ? found : undefined
}

function number(value: Json, member: string): number {
  const found = memberOf(value, member)
  return typeof found === 'number' ? found : 0
}

function memberOf(value: Json, member: string): Json | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined
  return (value as Readonly<Record<string, Json>>)[member]
}
