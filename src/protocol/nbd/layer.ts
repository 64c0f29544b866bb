/** An export of an NBD server as a disk. */

import type { ImageFacts } from '../../block/abilities.ts'
import type { OpenContext } from '../../block/driver.ts'
import type {
  BlockLayer,
  Capabilities,
  Extent,
  HostRange,
  Io,
  Limits,
  WriteIo,
  ZeroIo,
} from '../../block/layer.ts'
import { noCredentials } from '../../block/tls-objects.ts'
import { alignDown, KiB } from '../../bytes/range.ts'
import { BlockError, invalid, strerror } from '../../errors.ts'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  NBD_PORTABLE_PAYLOAD,
  NBD_STATE_HOLE,
  NBD_STATE_ZERO,
} from '../../wire/nbd/constants.ts'
import { exportUrl } from './address.ts'
import type { NbdOptions } from './driver.ts'
import type { ExportFacts } from './handshake.ts'
import { maxLongRequest } from './limits.ts'
import { Link } from './link.ts'
import type { ClientTls } from './start-tls.ts'

/** The context that tells where data is. */
export const allocationContext = 'base:allocation'

/** Connects to a server and asks for the export, its size, and where its data is. */
export async function openNbdLayer(
  options: NbdOptions,
  { signal, flags, tlsCredentials }: OpenContext,
): Promise<NbdLayer> {
  const { context = allocationContext } = options
  const tls = tlsOf(options, tlsCredentials)
  const link = await Link.open({ ...options, tls, contexts: [context] }, signal)
  if (options.context !== undefined && !link.facts.contexts.has(context)) {
    await link[Symbol.asyncDispose]()
    throw invalid(`the server has no context '${context}'`)
  }
  const url = exportUrl(options.address, options.exportName)
  const layer = new NbdLayer(link, link.facts, url, context)
  if (flags.readOnly || layer.capabilities.write) return layer
  await layer[Symbol.asyncDispose]()
  throw new BlockError('READ_ONLY', `Could not open image: ${strerror('EACCES')}`, {
    errno: 'EACCES',
  })
}

function tlsOf(
  { address, tlsCredentials: id, tlsHostname }: NbdOptions,
  find: OpenContext['tlsCredentials'],
): ClientTls | undefined {
  if (id === undefined) return undefined
  // Nobody who wanted TLS gets along without.
  if (!find) throw noCredentials(id)
  const hostname = tlsHostname ?? (address.type === 'inet' ? address.host : undefined)
  return { credentials: find(id), hostname }
}

export class NbdLayer implements BlockLayer {
  readonly sizeIsGiven = 'NBD nodes'
  readonly size: number
  readonly capabilities: Capabilities
  readonly limits: Limits
  readonly image: ImageFacts
  readonly #link: Link
  readonly #flags: number
  /** The context that tells where data is. */
  readonly #contextId: number | undefined
  /** The server has refused a request for being longer than those that move data. */
  #refusesLong = false
  /** What is looked at is a dirty bitmap, or something else that is made to look like extents. */
  readonly #foreign: boolean

  constructor(
    link: Link,
    facts: ExportFacts,
    filename: string,
    context: string = allocationContext,
  ) {
    this.#link = link
    this.#flags = facts.transmissionFlags
    this.#contextId = facts.contexts.get(context)
    this.#foreign = context !== allocationContext
    this.size = facts.size
    this.capabilities = capabilitiesOf(facts)
    this.limits = limitsOf(facts)
    this.image = { filename }
  }

  read(offset: number, target: Uint8Array, { signal }: Io): Promise<void> | void {
    const length = Math.min(target.length, this.size - offset)
    if (length < target.length) target.fill(0, Math.max(length, 0))
    if (length <= 0) return
    const inside = target.subarray(0, length)
    const request = { name: 'read', type: NBD_CMD_READ, flags: 0, offset, length, target: inside }
    return this.#link.send(request, signal)
  }

  write(offset: number, source: Uint8Array, { fua, signal }: WriteIo): Promise<void> | void {
    const { length } = source
    if (length === 0) return
    const flags = this.#fuaFlag(fua)
    const request = { name: 'write', type: NBD_CMD_WRITE, flags, offset, length, payload: source }
    return this.#link.send(request, signal)
  }

  async writeZeroes(offset: number, length: number, io: ZeroIo): Promise<void> {
    const flags = this.#zeroFlags(io)
    // The maximum block size holds for these too, though they have no payload; not so where
    // headers are extended.
    const step = this.#link.extended ? length : this.limits.maxTransfer
    await this.#inPieces(offset, length, step, (at, part) => ({
      name: 'write zeroes',
      type: NBD_CMD_WRITE_ZEROES,
      flags,
      offset: at,
      length: part,
      signal: io.signal,
    }))
  }

  async discard(offset: number, length: number, { signal }: Io): Promise<void> {
    if (!this.#has(NBD_FLAG_SEND_TRIM)) return
    const step = this.#link.extended ? length : this.#longest
    await this.#inPieces(offset, length, step, (at, part) => ({
      name: 'trim',
      type: NBD_CMD_TRIM,
      flags: 0,
      offset: at,
      length: part,
      signal,
    }))
  }

  /** A server that does not offer flushes has nothing to flush. */
  flush({ signal }: Io): Promise<void> | void {
    if (!this.#has(NBD_FLAG_SEND_FLUSH) || !this.capabilities.write) return
    const request = { name: 'flush', type: NBD_CMD_FLUSH, flags: 0, offset: 0, length: 0 }
    return this.#link.send(request, signal)
  }

  truncate(size: number): void {
    if (size <= this.size) return
    throw new BlockError('UNSUPPORTED', 'Cannot grow NBD nodes', { errno: 'ENOTSUP' })
  }

  extentAt(offset: number, length: number, { signal }: Io): Extent | Promise<Extent> {
    if (this.#contextId === undefined) {
      return { kind: 'data', offset, length, host: this.#hostOf(offset, length) }
    }
    return this.#askExtent(this.#contextId, offset, length, signal)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#link[Symbol.asyncDispose]()
  }

  async #askExtent(
    contextId: number,
    offset: number,
    length: number,
    signal: AbortSignal,
  ): Promise<Extent> {
    const asked = this.#link.extended ? length : Math.min(length, this.#longest)
    let first: { length: number; flags: number } | undefined
    await this.#link.send(
      {
        name: 'block status',
        type: NBD_CMD_BLOCK_STATUS,
        flags: NBD_CMD_FLAG_REQ_ONE,
        offset,
        length: asked,
        onStatus(id, runLength, flags) {
          if (id === contextId) first ??= { length: runLength, flags }
        },
      },
      signal,
    )
    if (!first) throw new BlockError('PEER', 'no block status in the reply', { offset })
    const found = Math.min(first.length, asked)
    const host = this.#hostOf(offset, found)
    return extentOf(host, first.flags, this.#foreign)
  }

  /** Bytes of an export lie where they are. */
  #hostOf(offset: number, length: number): HostRange {
    return { layer: this, offset, length, writable: false }
  }

  async #inPieces(
    offset: number,
    length: number,
    step: number,
    request: (
      at: number,
      part: number,
    ) => Parameters<Link['send']>[0] & { readonly signal: AbortSignal },
  ): Promise<void> {
    let longest = this.#refusesLong ? Math.min(step, this.limits.maxTransfer) : step
    for (let at = 0; at < length; ) {
      const piece = request(offset + at, Math.min(longest, length - at))
      try {
        await this.#link.send(piece, piece.signal)
        at += piece.length
      } catch (error) {
        if (piece.length <= this.limits.maxTransfer || !isTooLong(error)) throw error
        this.#refusesLong = true
        longest = this.limits.maxTransfer
      }
    }
  }

  /** Bytes of one request without data where lengths have 32 bits. */
  get #longest(): number {
    return alignDown(maxLongRequest, this.limits.alignment)
  }

  #zeroFlags({ fua, mayUnmap, fastOnly }: ZeroIo): number {
    const fast = this.#has(NBD_FLAG_SEND_FAST_ZERO)
    if (!this.#has(NBD_FLAG_SEND_WRITE_ZEROES) || (fastOnly && !fast)) {
      throw new BlockError('UNSUPPORTED', 'the NBD server has no fast way to write zeroes', {
        errno: 'ENOTSUP',
      })
    }
    const hole = mayUnmap ? 0 : NBD_CMD_FLAG_NO_HOLE
    return this.#fuaFlag(fua) + hole + (fastOnly ? NBD_CMD_FLAG_FAST_ZERO : 0)
  }

  #fuaFlag(fua: boolean): number {
    return fua && this.#has(NBD_FLAG_SEND_FUA) ? NBD_CMD_FLAG_FUA : 0
  }

  #has(flag: number): boolean {
    return (this.#flags & flag) !== 0
  }
}

/**
 * "the server MAY reply with an NBD_EOVERFLOW or NBD_EINVAL error if the oversize request would
 * require too many server resources".
 */
function isTooLong(error: unknown): boolean {
  return error instanceof BlockError && (error.errno === 'EINVAL' || error.errno === 'EOVERFLOW')
}

/** `host` is where the bytes of the run lie: where they are. */
function extentOf(host: HostRange, flags: number, foreign: boolean): Extent {
  const { offset, length } = host
  // As QEMU shows it: whatever is dirty is neither data nor zeroes.
  if (foreign && flags === NBD_STATE_HOLE) return { kind: 'backing', offset, length }
  // A hole that need not read as zeroes is read like data.
  if ((flags & NBD_STATE_ZERO) === 0) return { kind: 'data', offset, length, host }
  return { kind: 'zero', allocated: (flags & NBD_STATE_HOLE) === 0, offset, length, host }
}

function capabilitiesOf({ transmissionFlags, contexts }: ExportFacts): Capabilities {
  const has = (flag: number) => ((transmissionFlags & flag) === 0 ? 'none' : 'native')
  const write = (transmissionFlags & NBD_FLAG_READ_ONLY) === 0
  return {
    write,
    resize: false,
    backing: false,
    fua: has(NBD_FLAG_SEND_FUA),
    writeZeroes: has(NBD_FLAG_SEND_WRITE_ZEROES),
    discard: has(NBD_FLAG_SEND_TRIM),
    extents: contexts.size > 0 ? 'native' : 'none',
    // What a server's disk holds at first is not for us to know.
    zeroInit: false,
  }
}

function limitsOf({ blockSizes, size }: ExportFacts): Limits {
  // "a client desiring maximum interoperability SHOULD constrain its requests to a minimum block
  // size of 2^9": where the server does not say, and the disk's size permits.
  const alignment = blockSizes?.minimum ?? (size % 512 === 0 ? 512 : 1)
  const maximum = Math.min(blockSizes?.maximum ?? NBD_PORTABLE_PAYLOAD, NBD_PORTABLE_PAYLOAD)
  return {
    alignment,
    memoryAlignment: 1,
    zeroAlignment: alignment,
    discardAlignment: alignment,
    preferredLength: Math.max(blockSizes?.preferred ?? 0, 64 * KiB),
    maxTransfer: alignDown(maximum, alignment),
  }
}
