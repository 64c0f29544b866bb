/**
 * Loads a snapshot into a QEMU that waits for an incoming migration: all of RAM before the guest
 * runs (precopy), or a part of it, and the rest while the guest runs already (postcopy), pages
 * that it waits for first. A loader that died is followed by one that finds out what is missing.
 */

import { createHistogram } from 'node:perf_hooks'
import type { RateLimit } from '../../block/rate-limit.ts'
import { BlockError } from '../../errors.ts'
import type { SnapshotReader } from '../image/snapshot-reader.ts'
import { Outbox } from '../io/outbox.ts'
import type { ByteSink } from '../io/sink.ts'
import { command as commands, token } from '../stream/format.ts'
import {
  adviseCommand,
  bitmapCommand,
  commandBytes,
  discardCommand,
  packagedCommand,
  ramListSection,
  streamHeader,
} from '../stream/stream-writer.ts'
import { postcopyPiece, precopyPiece, RamPlan } from './ram-plan.ts'
import { type Loaded, RamSender } from './ram-sender.ts'
import type { PageRequest, ReturnPath } from './return-path.ts'

export interface LoadOptions {
  /** Switch to postcopy after this share of the pages that are not zero, 0 to 100; absent: never. */
  readonly postcopyPercent?: number
  /** Needed for postcopy and for recovery. */
  readonly returnPath?: () => ReturnPath
  /** Limits what is sent without having been asked for, once the guest runs. */
  readonly rate?: RateLimit
  readonly signal: AbortSignal
  readonly onPhase?: (phase: LoadPhase) => void
  /** A request was answered, so many ms after it came. */
  readonly onAnswer?: (request: PageRequest, ms: number) => void
}

export type LoadPhase = 'precopy' | 'postcopy' | 'done'

export interface LoadSummary {
  readonly normalPages: number
  /** Pages that the guest had to ask for. */
  readonly requests: number
  /** How long they took, from when they came until their pages were written: of 50 %, 99 %, all. */
  readonly requestMs?: { readonly p50: number; readonly p99: number; readonly most: number }
}

/** Pieces read ahead while the guest may ask for others. */
const postcopyDepth = 4

/** Slots of the read-ahead come first. */
const requestSlot = 64

export async function loadSnapshot(
  snapshot: SnapshotReader,
  sink: ByteSink,
  options: LoadOptions,
): Promise<LoadSummary> {
  return await new Loader(snapshot, sink, options).load()
}

/** Continues where a loader has died, after `migrate-recover`. */
export async function recoverLoad(
  snapshot: SnapshotReader,
  sink: ByteSink,
  options: LoadOptions,
): Promise<LoadSummary> {
  return await new Loader(snapshot, sink, options).recover()
}

class Loader {
  readonly #snapshot: SnapshotReader
  readonly #outbox: Outbox
  readonly #options: LoadOptions
  readonly #plan: RamPlan
  readonly #sender: RamSender
  readonly #blockByName: ReadonlyMap<string, number>
  #requests = 0
  /** Nanoseconds. */
  readonly #times = createHistogram()

  constructor(snapshot: SnapshotReader, sink: ByteSink, options: LoadOptions) {
    this.#snapshot = snapshot
    this.#outbox = new Outbox(sink)
    this.#options = options
    this.#plan = new RamPlan(snapshot)
    this.#sender = new RamSender(snapshot, this.#plan)
    this.#blockByName = new Map(snapshot.blocks.map(({ name }, index) => [name, index]))
  }

  async load(): Promise<LoadSummary> {
    const { postcopyPercent, returnPath, onPhase } = this.#options
    const postcopy = postcopyPercent !== undefined
    onPhase?.('precopy')
    await this.#begin(postcopy)
    if (postcopyPercent === undefined) {
      await this.#precopy(undefined)
      const { devices, tail } = this.#snapshot.parts
      for (const { bytes } of devices) await this.#send(bytes)
      await this.#send(tail)
      await this.#outbox.flush()
      onPhase?.('done')
      return this.#summary
    }
    if (!returnPath) throw new TypeError('postcopy without a return path')
    const path = returnPath()
    await this.#precopy(Math.ceil((postcopyPercent / 100) * this.#snapshot.normalPages))
    await this.#switch()
    return await this.#postcopy(path)
  }

  async recover(): Promise<LoadSummary> {
    const { returnPath, onPhase } = this.#options
    if (!returnPath) throw new TypeError('recovery without a return path')
    const path = returnPath()
    for (const [index, block] of this.#plan.blocks.entries()) {
      await this.#send(bitmapCommand(block))
      const bitmap = await path.bitmap()
      if (bitmap.block !== block.name) {
        throw new BlockError('PEER', `QEMU has sent the pages of '${bitmap.block}' for another's`)
      }
      this.#markReceived(index, bitmap.bits)
    }
    await this.#send(commandBytes(commands.MIG_CMD_POSTCOPY_RESUME))
    await path.resumed()
    onPhase?.('postcopy')
    return await this.#postcopy(path)
  }

  #markReceived(block: number, bits: Uint8Array): void {
    const { pageSize } = this.#plan
    const pages = this.#plan.blocks[block].usedLength / pageSize
    for (let page = 0; page < pages; page++) {
      const byte = bits[Math.floor(page / 8)] ?? 0
      if ((byte >>> (page % 8)) % 2 === 1) this.#plan.markSent(block, page * pageSize)
    }
  }

  /** Everything up to the first page. Commands of the original stream were not kept. */
  async #begin(postcopy: boolean): Promise<void> {
    const { parts, blocks, pageSize } = this.#snapshot
    await this.#send(streamHeader())
    if (parts.configuration) await this.#send(parts.configuration.bytes)
    if (postcopy) {
      await this.#send(commandBytes(commands.MIG_CMD_OPEN_RETURN_PATH))
      await this.#send(adviseCommand(blocks, pageSize))
    }
    const { sectionId } = parts.ramList
    await this.#send(ramListSection(blocks, { sectionId, pageSizes: postcopy }))
    for (const { bytes } of parts.early) await this.#send(bytes)
  }

  /** Sends pieces in order until so many pages that are not zero have gone. */
  async #precopy(pages: number | undefined): Promise<void> {
    for await (const loaded of this.#sender.ahead({ length: precopyPiece, pages })) {
      await this.#sendPiece(loaded)
    }
  }

  /** The guest runs from here on. */
  async #switch(): Promise<void> {
    const parts: Uint8Array[] = []
    for (const { block, offset, length } of this.#plan.left()) {
      await this.#send(discardCommand(block, [{ offset, length }]))
    }
    parts.push(commandBytes(commands.MIG_CMD_POSTCOPY_LISTEN))
    for (const { bytes } of this.#snapshot.parts.devices) parts.push(bytes)
    parts.push(commandBytes(commands.MIG_CMD_POSTCOPY_RUN))
    await this.#send(packagedCommand(parts))
    this.#options.onPhase?.('postcopy')
  }

  async #postcopy(path: ReturnPath): Promise<LoadSummary> {
    const { rate, signal } = this.#options
    const pieces = this.#sender.ahead({ length: postcopyPiece, depth: postcopyDepth })
    try {
      for (;;) {
        const next = await this.#serveUntil(pieces.next(), path)
        if (next.done) break
        if (rate) await this.#serveUntil(rate.take(next.value.piece.length, signal), path)
        // What is asked for meanwhile comes before this piece.
        await this.#serveUntil(this.#outbox.flush(), path)
        await this.#sendPiece(next.value)
      }
    } finally {
      await pieces.return()
    }
    await this.#send(Buffer.of(token.QEMU_VM_EOF))
    await this.#outbox.flush()
    const verdict = await path.shut()
    if (verdict !== 0) throw new BlockError('PEER', 'QEMU reports that loading has failed')
    this.#options.onPhase?.('done')
    return this.#summary
  }

  /** Answers requests, all that there are and then those that come before `turn` settles. */
  async #serveUntil<T>(turn: Promise<T>, path: ReturnPath): Promise<T> {
    let due = false
    const ready = turn.finally(() => {
      due = true
    })
    ready.catch(() => {})
    for (;;) {
      await this.#serve(path)
      if (due) return await ready
      await Promise.race([ready, path.news()])
    }
  }

  async #serve(path: ReturnPath): Promise<void> {
    for (let request = path.takeRequest(); request; request = path.takeRequest()) {
      this.#requests++
      await this.#answer(request)
      await this.#outbox.flush()
      const ms = performance.now() - request.cameAt
      this.#times.record(Math.max(1, Math.round(ms * 1e6)))
      this.#options.onAnswer?.(request, ms)
    }
  }

  async #answer({ block: name, offset, length }: PageRequest): Promise<void> {
    const block = this.#blockByName.get(name)
    if (block === undefined) {
      throw new BlockError('PEER', `QEMU asks for pages of '${name}', which is not in the snapshot`)
    }
    if (offset + length > this.#plan.blocks[block].usedLength) {
      throw new BlockError('PEER', `QEMU asks for ${offset}+${length} of '${name}', behind its end`)
    }
    const piece = this.#plan.requested(block, offset, length)
    if (this.#plan.isDone(piece)) return
    await this.#sendPiece(await this.#sender.load(piece, requestSlot))
  }

  async #sendPiece(loaded: Loaded): Promise<void> {
    for (const section of this.#sender.sections(loaded)) await this.#send(section)
  }

  async #send(bytes: Uint8Array): Promise<void> {
    this.#options.signal.throwIfAborted()
    await this.#outbox.put(bytes)
  }

  get #summary(): LoadSummary {
    const summary = { normalPages: this.#sender.normalPages, requests: this.#requests }
    if (this.#requests === 0) return summary
    const msOf = (ns: number) => Math.round(ns / 1e4) / 100
    const [p50, p99] = [50, 99].map((percent) => msOf(this.#times.percentile(percent)))
    return { ...summary, requestMs: { p50, p99, most: msOf(this.#times.max) } }
  }
}
