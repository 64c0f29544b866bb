/** `varve backup`: a consistent backup of the disks that a daemon serves, for a person. */
import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { Option } from 'commander'
import { BlockError, invalid } from '../errors.ts'
import { QmpClient } from '../wire/qmp/client.ts'
import { type BackupRequest, type BackupState, DaemonBackup } from './backup/daemon-backup.ts'
import { PipedArchive } from './backup/piped-archive.ts'
import type { CliIo } from './command.ts'
import { parseSizeText, sizeText } from './img/size-text.ts'
import { collect, Interrupted, nativeProgram, runNative } from './native.ts'
import {
  isTerminal,
  openProgress,
  type ProgressMode,
  progressHelp,
  progressModes,
  secondsSince,
  takenText,
} from './progress.ts'
import { print } from './vma/support.ts'

interface Options {
  readonly monitor: string
  readonly config?: readonly string[]
  readonly device?: readonly string[]
  /** True: the daemon chooses the folder. */
  readonly fleecing?: string | true
  readonly spillLimit?: number
  readonly onSpillFull?: 'slow' | 'give-up'
  readonly speed: number
  readonly progress: ProgressMode
  readonly json?: boolean
}

/** What a backup that succeeded amounts to; what `--json` shows. */
interface Result {
  /** `-` is standard output. */
  readonly file: string
  readonly uuid: string
  /** Bytes of the disks, and how many of them were zero and take no room. */
  readonly bytes: number
  readonly zeroBytes: number
  /** Bytes of the archive; undefined when this machine does not see it. */
  readonly archiveSize: number | undefined
  readonly seconds: number
}

export async function run(args: string[], io: CliIo): Promise<number> {
  const program = nativeProgram('backup', 'Backs up the disks of a running daemon.')
    .argument(
      '<file>',
      'the archive: a new file, compressed if it ends in .zst or .gz, or - (stdout)',
    )
    .requiredOption('--monitor <socket>', "the daemon's QMP monitor: a socket file or HOST:PORT")
    .option('--config <file>', 'store this configuration file too; repeatable', collect)
    .option(
      '--device <node[=name]>',
      'back up this node only, under its own or another name; repeatable',
      collect,
    )
    .option(
      '--fleecing [folder]',
      'let guests wait for a spill file in that folder of the daemon, not for the archive',
    )
    .option('--spill-limit <size>', 'bytes of old data that may wait there: 10G', parseSize)
    .addOption(
      new Option(
        '--on-spill-full <choice>',
        'slow the guests down to the archive, or give up the backup',
      ).choices(['slow', 'give-up']),
    )
    .option('--speed <rate>', 'bytes a second at most: 50M', parseRate, 0)
    .addOption(new Option('--progress <kind>', progressHelp).choices(progressModes).default('auto'))
    .option('--json', 'describe the result as JSON')
    .action((file: string, options: Options) => backup(file, options, io))
  return await runNative(program, args, io)
}

function parseRate(text: string): number {
  const parsed = parseSizeText(text)
  if (parsed.kind === 'size' && Number.isSafeInteger(parsed.bytes)) return parsed.bytes
  throw invalid(`'${text}' is no rate; write bytes a second like 500k or 50M, 0 for no limit`)
}

function parseSize(text: string): number {
  const parsed = parseSizeText(text)
  if (parsed.kind === 'size' && Number.isSafeInteger(parsed.bytes)) return parsed.bytes
  throw invalid(`'${text}' is no size; write bytes like 512M or 10G`)
}

async function backup(file: string, options: Options, io: CliIo): Promise<void> {
  if (file === '-' && isTerminal(io.stdout)) {
    throw invalid('standard output is a terminal; redirect it or name a file')
  }
  if (options.fleecing === undefined && (options.spillLimit ?? options.onSpillFull) !== undefined) {
    throw invalid('--spill-limit and --on-spill-full need --fleecing')
  }
  const started = performance.now()
  using interruption = new Interruption(io.signal)
  try {
    const address = monitorOf(options.monitor, io)
    await using client = await QmpClient.connect(address, { signal: io.signal })
    const run = { client, options, io, interruption }
    const result = await (file === '-'
      ? backupToOutput(run)
      : backupToFile(run, resolve(io.cwd, file)))
    await report({ ...result, file, seconds: secondsSince(started) }, options, io)
  } catch (error) {
    if (!io.signal?.aborted || error instanceof Interrupted) throw error
    throw new Interrupted('interrupted before the backup began')
  }
}

interface Run {
  readonly client: QmpClient
  readonly options: Options
  readonly io: CliIo
  readonly interruption: Interruption
}

/** A socket file is relative to the folder that the command runs in. */
function monitorOf(address: string, io: CliIo): string {
  const isFile = address.includes('/') || !address.includes(':')
  return isFile && !address.startsWith('unix:') ? resolve(io.cwd, address) : address
}

type Stored = Omit<Result, 'file' | 'seconds'>

async function backupToFile(run: Run, path: string): Promise<Stored> {
  const running = await start(run, path)
  const state = await followUntilEnd(run, running, run.io.stdout)
  const found = await stat(path).catch(() => undefined)
  return storedOf(running, state, found?.isFile() ? found.size : undefined)
}

async function backupToOutput(run: Run): Promise<Stored> {
  const { client, io } = run
  await using pipe = await PipedArchive.create()
  const running = await start(run, pipe.path)
  // A daemon that waits for its reader would not notice that it is to end.
  const close = () => pipe.close()
  io.signal?.addEventListener('abort', close)
  const copying = pipe.copyTo(io.stdout).catch((error: unknown) => {
    running.cancel()
    pipe.close()
    throw error
  })
  copying.catch(() => {})
  try {
    const state = await followUntilEnd(run, running, io.stderr)
    return storedOf(running, state, await copying)
  } catch (error) {
    pipe.close()
    if (io.signal?.aborted || client.lost.aborted) throw error
    // The output's failure explains that of the backup, not the other way round.
    await copying.catch((failure) => {
      if (failure instanceof BlockError) throw failure
    })
    throw error
  } finally {
    io.signal?.removeEventListener('abort', close)
  }
}

async function start({ client, options, io, interruption }: Run, path: string) {
  const starting = DaemonBackup.start(client, requestOf(path, options, io), io.signal)
  return await interruption.orGiveUp(starting)
}

function storedOf(running: DaemonBackup, state: BackupState, archiveSize?: number): Stored {
  const { total: bytes, zeroBytes } = state
  return { uuid: running.uuid, bytes, zeroBytes, archiveSize }
}

function requestOf(file: string, options: Options, io: CliIo): BackupRequest {
  return {
    file,
    configs: (options.config ?? []).map((config) => resolve(io.cwd, config)),
    devices: (options.device ?? []).map((device) => {
      const equals = device.indexOf('=')
      return equals < 0
        ? { node: device }
        : { node: device.slice(0, equals), name: device.slice(equals + 1) }
    }),
    speed: options.speed,
    fleecing: fleecingOf(options, io),
  }
}

function fleecingOf({ fleecing, spillLimit, onSpillFull }: Options, io: CliIo) {
  if (fleecing === undefined) return undefined
  const folder = fleecing === true ? undefined : resolve(io.cwd, fleecing)
  return { folder, limit: spillLimit, onFull: onSpillFull }
}

/** Shows the progress; rejects when the backup failed, and when it was cancelled by a signal. */
async function followUntilEnd(
  { options, io, interruption }: Run,
  running: DaemonBackup,
  lines: CliIo['stdout'],
): Promise<BackupState> {
  const terminal = io.stderr
  const progress = openProgress({ mode: options.progress, label: 'backup', terminal, lines })
  const cancel = () => {
    running.cancel()
    if (!isTerminal(terminal)) return
    progress.stop()
    terminal.write('cancelling the backup; Ctrl-C again stops the waiting\n')
  }
  if (io.signal?.aborted) cancel()
  io.signal?.addEventListener('abort', cancel)
  try {
    const following = running.follow(({ transferred, total }) =>
      progress.update(transferred, total),
    )
    const state = await interruption.orGiveUp(following)
    if (state.status === 'done') return state
    if (io.signal?.aborted) throw new Interrupted('cancelled; nothing is left of the archive')
    throw new BlockError('IO', state.message ?? 'the backup failed, and the daemon says no more')
  } finally {
    io.signal?.removeEventListener('abort', cancel)
    progress.stop()
  }
}

/** The first Ctrl-C cancels and waits for the end; the second one gives up waiting. */
class Interruption implements Disposable {
  readonly #first: AbortSignal | undefined
  readonly #givenUp: Promise<never>
  #giveUp!: () => void

  constructor(first: AbortSignal | undefined) {
    this.#first = first
    this.#givenUp = new Promise((_, reject) => {
      this.#giveUp = () =>
        reject(new Interrupted('gave up waiting for the daemon to end the backup'))
    })
    this.#givenUp.catch(() => {})
    first?.addEventListener('abort', this.#listen)
  }

  async orGiveUp<T>(work: Promise<T>): Promise<T> {
    return await Promise.race([work, this.#givenUp])
  }

  [Symbol.dispose](): void {
    this.#first?.removeEventListener('abort', this.#listen)
    process.off('SIGINT', this.#giveUp).off('SIGTERM', this.#giveUp)
  }

  readonly #listen = () => {
    process.once('SIGINT', this.#giveUp).once('SIGTERM', this.#giveUp)
  }
}

async function report(result: Result, options: Options, io: CliIo): Promise<void> {
  const output = result.file === '-' ? io.stderr : io.stdout
  if (options.json || options.progress === 'json') {
    await print(output, `${JSON.stringify({ event: 'done', ...result })}\n`)
    return
  }
  const { file, uuid, bytes, zeroBytes, archiveSize, seconds } = result
  const zero = bytes === 0 ? 0 : Math.floor((100 * zeroBytes) / bytes)
  const stored = archiveSize === undefined ? '' : ` stored in ${sizeText(archiveSize)}`
  await print(
    output,
    `${file === '-' ? 'standard output' : file}: ${sizeText(bytes)} (${zero}% zero)${stored}, ` +
      `${takenText(seconds)}, ${sizeText(bytes / Math.max(seconds, 0.001))}/s, uuid ${uuid}\n`,
  )
}
