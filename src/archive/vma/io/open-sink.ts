/** Names of outputs: which sink a name asks for. */
import { constants } from 'node:fs'
import { stat } from 'node:fs/promises'
import { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { BlockError, errnoOf, systemError } from '../../../errors.ts'
import { GzipSink, ZstdSink } from './compress-sink.ts'
import { openDescriptor, statDescriptor } from './descriptor.ts'
import { DescriptorSink } from './descriptor-sink.ts'
import { ExecSink } from './exec-sink.ts'
import { FileSink } from './file-sink.ts'
import type { ArchiveSink } from './sink.ts'
import { StreamSink } from './stream-sink.ts'

export interface OpenSinkOptions {
  /** What `-` and `/dev/fd/1` mean; without it they are refused. Left open at the end. */
  readonly stdout?: Writable
  /**
   * The descriptor behind `/dev/fdset/N` or `/dev/fdname/NAME`, to be taken over. Without it the
   * former means descriptor N of this process, and the latter is refused.
   */
  readonly descriptor?: (name: string) => number | undefined
  /** Makes writes fail that wait for a FIFO's reader or a command, and the wait for one. */
  readonly signal?: AbortSignal
}

/** How often to look whether a FIFO has got a reader. */
const fifoPollMs = 20

/**
 * Opens an output by name: a new file, an existing FIFO or character device, `/dev/fd/N`,
 * `/dev/fdset/N`, `/dev/fdname/NAME`, `-`, or `exec:COMMAND`. Files and FIFOs whose name ends in
 * `.zst` or `.gz` are compressed.
 */
export async function openSink(name: string, options: OpenSinkOptions = {}): Promise<ArchiveSink> {
  if (name === '-' || name === '/dev/fd/1') return stdoutSink(options)
  if (name.startsWith('exec:')) return ExecSink.start(name.slice('exec:'.length), options.signal)
  if (/^\/dev\/(fd|fdset|fdname)\//.test(name)) return inheritedSink(name, options)
  if (name.endsWith('.lzo')) {
    throw new BlockError('UNSUPPORTED', `'${name}': varve cannot compress with lzop; use .zst`, {
      path: name,
    })
  }
  const sink = await pathSink(name, options)
  if (name.endsWith('.zst')) return new ZstdSink(sink)
  return name.endsWith('.gz') ? new GzipSink(sink) : sink
}

function stdoutSink({ stdout }: OpenSinkOptions): ArchiveSink {
  if (stdout) return new StreamSink(stdout, { name: 'standard output', end: false })
  throw new BlockError('INVALID_ARGUMENT', 'an archive cannot go to standard output here')
}

async function inheritedSink(name: string, options: OpenSinkOptions): Promise<ArchiveSink> {
  const number = /^\/dev\/(?:fd|fdset)\/(\d{1,9})$/.exec(name)?.[1]
  const fd = options.descriptor?.(name) ?? (number === undefined ? undefined : Number(number))
  if (fd === undefined) {
    throw new BlockError('INVALID_ARGUMENT', `there is no descriptor '${name}'`, { path: name })
  }
  return descriptorSink(fd, name, options.signal)
}

async function descriptorSink(
  fd: number,
  name: string,
  signal: AbortSignal | undefined,
): Promise<ArchiveSink> {
  const facts = await statDescriptor(fd).catch((error) => {
    throw systemError(error, `Could not use '${name}'`, { path: name })
  })
  if (!facts.isFIFO() && !facts.isSocket()) return new DescriptorSink(fd, name)
  // Events instead of the thread pool: a write that nobody reads can still be given up.
  const socket = new Socket({ fd, readable: false, writable: true, signal })
  return new StreamSink(socket, { name: `'${name}'`, end: true })
}

async function pathSink(path: string, options: OpenSinkOptions): Promise<ArchiveSink> {
  const found = await stat(path).catch(() => undefined)
  if (found?.isFIFO()) {
    return descriptorSink(await openFifo(path, options.signal), path, options.signal)
  }
  if (found?.isCharacterDevice()) return new DescriptorSink(await openDevice(path), path)
  return FileSink.create(path)
}

/** Waits for a reader without blocking a thread. */
async function openFifo(path: string, signal?: AbortSignal): Promise<number> {
  for (;;) {
    signal?.throwIfAborted()
    try {
      return await openDescriptor(path, constants.O_WRONLY | constants.O_NONBLOCK)
    } catch (error) {
      if (errnoOf(error) !== 'ENXIO') throw systemError(error, `Could not open '${path}'`, { path })
    }
    // Aborted, it rejects with an error of its own; the reason is thrown above.
    await sleep(fifoPollMs, undefined, signal && { signal }).catch(() => {})
  }
}

async function openDevice(path: string): Promise<number> {
  return openDescriptor(path, constants.O_WRONLY).catch((error) => {
    throw systemError(error, `Could not open '${path}'`, { path })
  })
}
