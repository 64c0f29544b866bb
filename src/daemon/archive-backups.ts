/**
 * The one backup into an archive that may run at a time, and what became of the last one: the
 * state behind Proxmox's `backup`, `query-backup` and `backup-cancel`.
 */

import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { formatUuid } from '../archive/vma/header.ts'
import { openSink } from '../archive/vma/io/open-sink.ts'
import type { ArchiveSink } from '../archive/vma/io/sink.ts'
import { randomUuid } from '../archive/vma/uuid.ts'
import { BlockError, systemError } from '../errors.ts'
import type { Graph } from '../graph/graph.ts'
import { type ArchiveBackup, type ArchiveDisk, startArchiveBackup } from '../job/archive-backup.ts'
import type { FleecingOptions } from '../job/fleecing.ts'
import type { JobTable } from '../job/job-table.ts'

export interface ArchiveBackupRequest {
  /** As `openSink` takes it. */
  readonly file: string
  readonly disks: readonly ArchiveDisk[]
  /** Configuration files; stored under their base name unless another is given. */
  readonly configs: readonly { readonly path: string; readonly name?: string }[]
  /** Bytes a second; 0 is no limit. */
  readonly speed: number
  readonly jobId?: string
  readonly fleecing?: FleecingOptions
}

/** Members that `query-backup` reports. Sizes are bytes, times seconds since the epoch. */
export interface ArchiveBackupStatus {
  readonly status?: 'active' | 'done' | 'error'
  readonly errmsg?: string
  readonly total?: number
  readonly transferred?: number
  readonly 'zero-bytes'?: number
  readonly 'start-time'?: number
  readonly 'end-time'?: number
  readonly 'backup-file'?: string
  readonly uuid?: string
  readonly 'job-id'?: string
  readonly 'spill-used'?: number
  readonly 'spill-peak'?: number
}

interface Run {
  readonly request: ArchiveBackupRequest
  readonly uuid: Uint8Array
  readonly startTime: number
  readonly total: number
  /** Ends the wait for a FIFO's reader. */
  readonly abort: AbortController
  backup?: ArchiveBackup
  endTime?: number
  error?: unknown
}

/** Bytes of a configuration file, as the archive can hold. */
const maxConfigLength = 65_535

export class ArchiveBackups {
  readonly #graph: Graph
  readonly #jobs: JobTable
  #run: Run | undefined

  constructor(graph: Graph, jobs: JobTable) {
    this.#graph = graph
    this.#jobs = jobs
  }

  /** Settles, with the archive's uuid, when the moment is preserved; the copying goes on. */
  async start(request: ArchiveBackupRequest): Promise<string> {
    if (this.#run && this.#run.endTime === undefined) {
      throw new BlockError('BUSY', 'previous backup not finished', { errno: 'EBUSY' })
    }
    const run: Run = {
      request,
      uuid: randomUuid(),
      startTime: now(),
      total: request.disks.reduce((sum, { node }) => sum + node.size, 0),
      abort: new AbortController(),
    }
    this.#run = run
    try {
      run.backup = await this.#begin(run)
    } catch (failure) {
      // Whatever the cancel has interrupted, its reason explains it better.
      const error = run.abort.signal.aborted ? run.abort.signal.reason : failure
      end(run, error)
      throw error
    }
    // Cancelled while the moment was being preserved.
    if (run.abort.signal.aborted) run.backup.job.cancel().catch(() => {})
    run.backup.job.done.then(
      () => end(run),
      (error) => end(run, error),
    )
    return formatUuid(run.uuid)
  }

  /** Without effect when none is running. */
  cancel(): void {
    const run = this.#run
    if (!run || run.endTime !== undefined) return
    run.abort.abort(cancelled())
    // Reports its end by its status.
    run.backup?.job.cancel().catch(() => {})
  }

  status(): ArchiveBackupStatus {
    const run = this.#run
    if (!run) return {}
    const streams = run.backup?.streams() ?? []
    const spill = run.backup?.spill()
    return {
      status: run.endTime === undefined ? 'active' : run.error === undefined ? 'done' : 'error',
      errmsg: run.error === undefined ? undefined : describeEnd(run),
      total: run.total,
      transferred: streams.reduce((sum, stream) => sum + stream.transferred, 0),
      'zero-bytes': streams.reduce((sum, stream) => sum + stream.zeroBytes, 0),
      'start-time': run.startTime,
      'end-time': run.endTime,
      'backup-file': run.request.file,
      uuid: formatUuid(run.uuid),
      'job-id': run.backup?.job.id,
      'spill-used': spill?.used,
      'spill-peak': spill?.peak,
    }
  }

  async #begin(run: Run): Promise<ArchiveBackup> {
    const { request, uuid, abort } = run
    const configs = await Promise.all(request.configs.map(readConfig))
    const sink = await openSink(request.file, { signal: abort.signal })
    await this.#refuseIfCancelled(run, sink)
    return await startArchiveBackup(this.#graph, this.#jobs, {
      id: request.jobId ?? this.#jobs.freeId('backup'),
      sink,
      disks: request.disks,
      configs,
      speed: request.speed,
      fleecing: request.fleecing,
      uuid,
    })
  }

  async #refuseIfCancelled({ abort }: Run, sink: ArchiveSink): Promise<void> {
    if (!abort.signal.aborted) return
    await sink.abort()
    throw abort.signal.reason
  }
}

function end(run: Run, error?: unknown): void {
  run.endTime = now()
  run.error = error
}

async function readConfig(config: { readonly path: string; readonly name?: string }) {
  const name = config.name ?? path.basename(config.path)
  let data: Buffer
  try {
    data = await readFile(config.path)
  } catch (error) {
    throw systemError(error, `Could not open '${config.path}'`, { path: config.path })
  }
  if (data.length <= maxConfigLength) return { name, data }
  throw new BlockError(
    'INVALID_ARGUMENT',
    `'${config.path}' has ${data.length} bytes; a configuration file can have ${maxConfigLength}`,
    { path: config.path },
  )
}

function describeEnd({ abort, backup, error }: Run): string {
  if (abort.signal.aborted || backup?.job.cancelled) return cancelled().message
  return error instanceof Error ? error.message : String(error)
}

function cancelled(): BlockError {
  return new BlockError('CLOSED', 'backup canceled', { errno: 'ECANCELED' })
}

function now(): number {
  return Math.floor(Date.now() / 1000)
}
