/**
 * Writes an archive: clusters of many devices, handed over in any order, become extents, and a
 * bounded ring of extents travels to the sink while the next one is being filled. The first error
 * is final; every later call reports it.
 */
import { createHash } from 'node:crypto'
import { zeroes } from '../../bytes/zero.ts'
import { BlockError } from '../../errors.ts'
import { encodeIndex, IndexBuilder } from './archive-index.ts'
import { ClusterSet, maxOpenPages, type PageBudget } from './cluster-set.ts'
import { ExtentBuilder } from './extent.ts'
import { encodeHeader, isVmstate, type VmaConfig, type VmaDevice } from './header.ts'
import type { ArchiveSink } from './io/sink.ts'
import { checkDeviceName, configNameOf } from './names.ts'
import {
  clusterSize,
  extentHeader,
  maxBlobSize,
  maxConfigs,
  maxDeviceClusters,
  maxDeviceId,
  maxDeviceSize,
  vmaHeader,
} from './structures.ts'
import { asUuid, randomUuid } from './uuid.ts'

/** Extents on their way to the sink while another one is being filled: 27 MB in all. */
const ringSize = 6

/** Extents of the ring that background writes leave to those for which a guest waits. */
const reservedExtents = 3

export interface VmaWriterOptions {
  /** 16 bytes; random when left out, or derived from names and sizes when `reproducible`. */
  readonly uuid?: Uint8Array
  /** Seconds since the epoch; now when left out, or 0 when `reproducible`. */
  readonly ctime?: number
  /** The same calls give the same bytes. */
  readonly reproducible?: boolean
  /** Data checksums and an index, which other readers skip. On unless set to false. */
  readonly extensions?: boolean
}

export interface VmaWriteResult {
  /** Bytes of the disk that the cluster stands for: 64 KiB, less at the disk's end. */
  readonly bytes: number
  /** How many of them lie in 4 KiB blocks of zeroes. */
  readonly zeroBytes: number
}

export interface VmaStreamStatus {
  readonly id: number
  readonly name: string
  readonly size: number
  readonly transferred: number
  readonly zeroBytes: number
  readonly finished: boolean
}

export interface VmaWriterStatus {
  /** 16 bytes; undefined until the header was written, unless it was given. */
  readonly uuid: Uint8Array | undefined
  readonly streams: readonly VmaStreamStatus[]
  /** The first error. */
  readonly error: unknown
}

interface Stream extends VmaDevice {
  readonly vmstate: boolean
  readonly stored: ClusterSet
  transferred: number
  zeroBytes: number
  finished: boolean
}

interface Waiter {
  readonly background: boolean
  run(): void
  reject(error: unknown): void
}

export class VmaWriter implements AsyncDisposable {
  // Set once, the last two with the header.
  readonly #sink: ArchiveSink
  readonly #options: VmaWriterOptions
  readonly #extensions: boolean
  #uuid: Uint8Array | undefined
  #index: IndexBuilder | undefined
  // What is being stored.
  readonly #configs: VmaConfig[] = []
  readonly #streams: Stream[] = []
  readonly #pages: PageBudget = { left: maxOpenPages }
  #devicesInExtent = new Set<number>()
  // The ring.
  #current: ExtentBuilder | undefined
  readonly #free: ExtentBuilder[] = []
  #builders = 0
  readonly #inFlight = new Set<Promise<void>>()
  readonly #waiting: Waiter[] = []
  // How it ends.
  #failure: { readonly error: unknown } | undefined
  #state: 'open' | 'closed' = 'open'

  private constructor(sink: ArchiveSink, options: VmaWriterOptions) {
    this.#sink = sink
    this.#options = options
    this.#extensions = options.extensions ?? true
    this.#uuid = options.uuid
  }

  /** Takes over `sink`: `close` finishes it, disposal without `close` aborts it. */
  static async open(sink: ArchiveSink, options: VmaWriterOptions = {}): Promise<VmaWriter> {
    const { uuid } = options
    if (uuid === undefined || uuid.length === 16) return new VmaWriter(sink, options)
    await sink.abort()
    throw new BlockError('INVALID_ARGUMENT', `a uuid has 16 bytes, not ${uuid.length}`)
  }

  /** Stores a configuration file, at most 65,535 bytes, under the base name of `name`. */
  registerConfig(name: string, data: Uint8Array): void {
    this.#refuseAfterHeader('a configuration file')
    const base = configNameOf(name)
    if (this.#configs.some((config) => config.name === base)) {
      throw new BlockError('INVALID_ARGUMENT', `two configuration files are called '${base}'`)
    }
    if (this.#configs.length === maxConfigs) {
      throw new BlockError('INVALID_ARGUMENT', `more than ${maxConfigs} configuration files`)
    }
    if (data.length > maxBlobSize) {
      throw new BlockError(
        'INVALID_ARGUMENT',
        `'${name}' has ${data.length} bytes; a configuration file can have ${maxBlobSize}`,
      )
    }
    this.#configs.push({ name: base, data: Uint8Array.from(data) })
  }

  /**
   * Announces a device of `size` bytes and returns its id: 1, 2, … A device called `vmstate` is a
   * stream of clusters 0, 1, 2, … for which `size` is only an estimate.
   */
  registerStream(name: string, size: number): number {
    this.#refuseAfterHeader('a device')
    checkDeviceName(name)
    if (this.#streams.some((stream) => stream.name === name)) {
      throw new BlockError('INVALID_ARGUMENT', `two devices are called '${name}'`)
    }
    if (!Number.isSafeInteger(size) || size <= 0 || size > maxDeviceSize) {
      throw new BlockError(
        'INVALID_ARGUMENT',
        `device '${name}' has ${size} bytes; an archive holds 1 to ${maxDeviceSize}`,
      )
    }
    const id = this.#streams.length + 1
    if (id > maxDeviceId) {
      throw new BlockError('INVALID_ARGUMENT', `more than ${maxDeviceId} devices`)
    }
    const vmstate = isVmstate({ id, name, size })
    const clusters = vmstate ? maxDeviceClusters : Math.ceil(size / clusterSize)
    const stored = new ClusterSet(clusters, this.#pages)
    this.#streams.push({
      id,
      name,
      size,
      vmstate,
      stored,
      transferred: 0,
      zeroBytes: 0,
      finished: false,
    })
    return id
  }

  /**
   * Stores one cluster, each exactly once; `data` undefined stands for zeroes. `data` reaches to
   * the end of the cluster or of the device; bytes behind the device's end are not looked at. It
   * is copied by the time the call settles, which takes no promise while the ring has room.
   * `background` writes wait earlier, and behind all others.
   */
  write(
    deviceId: number,
    cluster: number,
    data: Uint8Array | undefined,
    background = false,
  ): VmaWriteResult | Promise<VmaWriteResult> {
    this.#throwFailure()
    const { stream, bytes } = this.#claim(deviceId, cluster, data)
    const mayOvertake = this.#waiting.every((waiter) => waiter.background && !background)
    if (mayOvertake && this.#hasRoom(background)) {
      return this.#store(stream, cluster, bytes, data)
    }
    return new Promise<VmaWriteResult>((resolve, reject) => {
      this.#waiting.push({
        background,
        run: () => resolve(this.#store(stream, cluster, bytes, data)),
        reject,
      })
    })
  }

  /** Ends a device; returns how many are still open. Ending the last one flushes the ring. */
  async closeStream(deviceId: number): Promise<number> {
    this.#throwFailure()
    this.#openStream(deviceId).finished = true
    const open = this.#streams.filter((stream) => !stream.finished).length
    if (open === 0) await this.#flush()
    return open
  }

  /**
   * Completes the archive. Fails, and leaves nothing behind under the archive's name, when a
   * device is open or has clusters missing, or anything failed before.
   */
  async close(): Promise<void> {
    if (this.#state === 'closed') this.#throwFailure()
    try {
      this.#throwFailure()
      this.#checkComplete()
      await this.#flush()
      if (this.#extensions) this.#send(encodeIndex(this.#index!.finish(), this.#uuid!))
      await this.#settle()
      this.#state = 'closed'
      await this.#sink.finish()
    } catch (error) {
      throw await this.#giveUp(error)
    }
  }

  get status(): VmaWriterStatus {
    return {
      uuid: this.#uuid,
      streams: this.#streams.map(({ stored, vmstate, ...status }) => status),
      error: this.#failure?.error,
    }
  }

  /** Without a `close` before, the archive is given up. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state === 'closed') return
    await this.#giveUp(new BlockError('CLOSED', 'the archive was given up before it was complete'))
  }

  #refuseAfterHeader(what: string): void {
    this.#throwFailure()
    if (this.#index) {
      throw new BlockError('BUSY', `${what} cannot be added: the archive's header is written`)
    }
  }

  #throwFailure(): void {
    if (this.#failure) throw this.#failure.error
    if (this.#state === 'closed') throw new BlockError('CLOSED', 'the archive is closed')
  }

  #openStream(deviceId: number): Stream {
    const stream = this.#streams[deviceId - 1]
    if (stream && !stream.finished) return stream
    throw this.#fail(
      new BlockError(
        'INVALID_ARGUMENT',
        stream ? `device '${stream.name}' was closed` : `there is no device ${deviceId}`,
      ),
    )
  }

  /** Checks a write and marks its cluster as stored. */
  #claim(deviceId: number, cluster: number, data: Uint8Array | undefined) {
    const stream = this.#openStream(deviceId)
    const fault = this.#faultOf(stream, cluster)
    if (fault) {
      throw this.#fail(
        new BlockError('INVALID_ARGUMENT', `${stream.name}: cluster ${cluster} ${fault}`),
      )
    }
    const bytes = stream.vmstate
      ? clusterSize
      : Math.min(clusterSize, stream.size - cluster * clusterSize)
    if (data && data.length !== clusterSize && data.length !== bytes) {
      throw this.#fail(
        new BlockError(
          'INVALID_ARGUMENT',
          `${stream.name}: cluster ${cluster} came with ${data.length} bytes instead of ${bytes}`,
        ),
      )
    }
    return { stream, bytes }
  }

  #faultOf(stream: Stream, cluster: number): string | undefined {
    if (!Number.isInteger(cluster) || cluster < 0 || cluster >= stream.stored.capacity) {
      return `lies outside the device, which has ${stream.stored.capacity}`
    }
    if (stream.vmstate && cluster !== stream.stored.size) {
      return `is out of sequence: ${stream.stored.size} comes next`
    }
    return stream.stored.add(cluster) ? undefined : 'was stored before'
  }

  #hasRoom(background: boolean): boolean {
    const free = this.#free.length + ringSize + 1 - this.#builders
    if (background && free < reservedExtents) return false
    return this.#current !== undefined || free > 0
  }

  /** Copies a cluster into the current extent; there is room. */
  #store(
    stream: Stream,
    cluster: number,
    bytes: number,
    data: Uint8Array | undefined,
  ): VmaWriteResult {
    this.#begin()
    this.#current ??= this.#free.pop() ?? this.#newBuilder()
    const content = stream.vmstate ? (data ?? zeroes) : data?.subarray(0, bytes)
    // Some readers drop the zero blocks of a vmstate instead of writing them, so it keeps them.
    const zeroBytes = this.#current.add(stream.id, cluster, content, stream.vmstate)
    this.#devicesInExtent.add(stream.id)
    const result = { bytes, zeroBytes: data ? zeroBytes : bytes }
    stream.transferred += bytes
    stream.zeroBytes += result.zeroBytes
    if (this.#current.full) this.#submit()
    return result
  }

  #newBuilder(): ExtentBuilder {
    this.#builders++
    return new ExtentBuilder()
  }

  /** Writes the header, before the first extent. */
  #begin(): void {
    if (this.#index) return
    const { reproducible } = this.#options
    const ctime = this.#options.ctime ?? (reproducible ? 0 : Math.floor(Date.now() / 1000))
    this.#uuid ??= reproducible ? this.#derivedUuid(ctime) : randomUuid()
    const header = this.#encodeHeader(this.#uuid, ctime)
    const md5At = vmaHeader.offsets.md5
    this.#index = new IndexBuilder({ size: header.length, md5: header.subarray(md5At, md5At + 16) })
    this.#send(header)
  }

  #encodeHeader(uuid: Uint8Array, ctime: number): Buffer {
    const extensions = { checksums: this.#extensions, index: this.#extensions }
    try {
      return encodeHeader({
        uuid,
        ctime,
        configs: this.#configs,
        devices: this.#streams,
        extensions,
      })
    } catch (error) {
      throw this.#fail(error)
    }
  }

  /** Names and sizes decide it: the header is written before the data is known. */
  #derivedUuid(ctime: number): Uint8Array {
    const hash = createHash('sha256').update(`varve vma ${ctime}\0`)
    for (const { name, data } of this.#configs)
      hash.update(`${name}\0${data.length}\0`).update(data)
    for (const { name, size } of this.#streams) hash.update(`${name}\0${size}\0`)
    return asUuid(hash.digest().subarray(0, 16), 8)
  }

  /** Sends the current extent on its way. */
  #submit(): void {
    const builder = this.#current!
    this.#current = undefined
    const extent = builder.finish(this.#uuid!, this.#extensions)
    const md5At = extentHeader.offsets.md5
    this.#index!.add(extent.length, this.#devicesInExtent, extent.subarray(md5At, md5At + 16))
    this.#devicesInExtent.clear()
    this.#send(extent, builder)
  }

  #send(bytes: Uint8Array, builder?: ExtentBuilder): void {
    const sent: Promise<void> = this.#sink.write(bytes).then(
      () => {
        this.#inFlight.delete(sent)
        if (builder) this.#recycle(builder)
      },
      (error) => {
        this.#inFlight.delete(sent)
        this.#fail(error)
      },
    )
    this.#inFlight.add(sent)
  }

  /** The extent has left: its memory is free for those who wait. */
  #recycle(builder: ExtentBuilder): void {
    builder.reset()
    this.#free.push(builder)
    while (this.#runNext((waiter) => !waiter.background)) {}
    while (this.#runNext((waiter) => waiter.background)) {}
  }

  /** Lets the first waiter of a kind store its cluster, if there is room for it. */
  #runNext(ofKind: (waiter: Waiter) => boolean): boolean {
    const at = this.#waiting.findIndex(ofKind)
    if (at < 0 || !this.#hasRoom(this.#waiting[at].background)) return false
    this.#waiting.splice(at, 1)[0].run()
    return true
  }

  /** Sends everything that was written so far, and waits until it has arrived. */
  async #flush(): Promise<void> {
    while (this.#waiting.length > 0) await this.#settle()
    this.#begin()
    if (this.#current && !this.#current.empty) this.#submit()
    await this.#settle()
  }

  /** Waits for all that is in flight now. */
  async #settle(): Promise<void> {
    await Promise.all(this.#inFlight)
    this.#throwFailure()
  }

  #checkComplete(): void {
    for (const stream of this.#streams) {
      if (!stream.finished) {
        throw new BlockError('INVALID_ARGUMENT', `device '${stream.name}' is still being written`)
      }
      if (!stream.vmstate && !stream.stored.complete) {
        throw new BlockError(
          'INVALID_ARGUMENT',
          `device '${stream.name}' is incomplete: ${stream.transferred} of ${stream.size} bytes`,
        )
      }
    }
  }

  /** Keeps the first error and returns it; those who wait learn of it. */
  #fail(error: unknown): unknown {
    this.#failure ??= { error }
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure.error)
    return this.#failure.error
  }

  async #giveUp(error: unknown): Promise<unknown> {
    const first = this.#fail(error)
    this.#state = 'closed'
    // The sink first: what is in flight may wait for a reader that never comes.
    await this.#sink.abort()
    await Promise.all(this.#inFlight)
    return first
  }
}

/** A random uuid, version 4. */
