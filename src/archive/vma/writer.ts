/**
 * Writes an archive: clusters of many devices, handed over in any order, become extents, which a bounded
 * ring brings to the sink. The first error is final; every later call reports it.
 */
import { createHash } from 'node:crypto'
import { zeroes } from '../../bytes/zero.ts'
import { BlockError } from '../../errors.ts'
import { encodeIndex, IndexBuilder } from './archive-index.ts'
import { maxOpenPages, type PageBudget } from './cluster-set.ts'
import { DeviceStream, type VmaStreamStatus } from './device-stream.ts'
import { ExtentRing } from './extent-ring.ts'
import { encodeHeader, type VmaConfig } from './header.ts'
import type { ArchiveSink } from './io/sink.ts'
import { checkDeviceName, configNameOf } from './names.ts'
import {
  extentHeader,
  maxBlobSize,
  maxConfigs,
  maxDeviceId,
  maxDeviceSize,
  vmaHeader,
} from './structures.ts'
import { asUuid, randomUuid } from './uuid.ts'

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

export interface VmaWriterStatus {
  /** 16 bytes; undefined until the header was written, unless it was given. */
  readonly uuid: Uint8Array | undefined
  readonly streams: readonly VmaStreamStatus[]
  /** The first error. */
  readonly error: unknown
}

export class VmaWriter implements AsyncDisposable {
  // Set once, the last two with the header.
  readonly #sink: ArchiveSink
  readonly #ring: ExtentRing
  readonly #options: VmaWriterOptions
  readonly #extensions: boolean
  #uuid: Uint8Array | undefined
  #index: IndexBuilder | undefined
  // What is being stored.
  readonly #configs: VmaConfig[] = []
  readonly #streams: DeviceStream[] = []
  readonly #pages: PageBudget = { left: maxOpenPages }
  #devicesInExtent = new Set<number>()
  #state: 'open' | 'closed' = 'open'

  private constructor(sink: ArchiveSink, options: VmaWriterOptions) {
    this.#sink = sink
    this.#ring = new ExtentRing(sink)
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
    this.#streams.push(new DeviceStream({ id, name, size }, this.#pages))
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
    const stream = this.#openStream(deviceId)
    const bytes = this.#claim(stream, cluster, data)
    const store = () => this.#store(stream, cluster, bytes, data)
    return this.#ring.mayStore(background) ? store() : this.#ring.whenRoom(background, store)
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
      if (this.#extensions) this.#ring.send(encodeIndex(this.#index!.finish(), this.#uuid!))
      await this.#ring.settle()
      this.#state = 'closed'
      await this.#sink.finish()
    } catch (error) {
      throw await this.#giveUp(error)
    }
  }

  get status(): VmaWriterStatus {
    return {
      uuid: this.#uuid,
      streams: this.#streams.map((stream) => stream.status),
      error: this.#ring.error,
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
    this.#ring.throwFailure()
    if (this.#state === 'closed') throw new BlockError('CLOSED', 'the archive is closed')
  }

  #openStream(deviceId: number): DeviceStream {
    const stream = this.#streams[deviceId - 1]
    if (stream && !stream.finished) return stream
    throw this.#ring.fail(
      new BlockError(
        'INVALID_ARGUMENT',
        stream ? `device '${stream.name}' was closed` : `there is no device ${deviceId}`,
      ),
    )
  }

  /** Checks a write and marks its cluster as stored; returns the bytes of the disk that it stands for. */
  #claim(stream: DeviceStream, cluster: number, data: Uint8Array | undefined): number {
    try {
      return stream.claim(cluster, data)
    } catch (error) {
      throw this.#ring.fail(error)
    }
  }

  /** Copies a cluster into the current extent; there is room. */
  #store(
    stream: DeviceStream,
    cluster: number,
    bytes: number,
    data: Uint8Array | undefined,
  ): VmaWriteResult {
    this.#begin()
    const extent = this.#ring.current()
    const content = stream.vmstate ? (data ?? zeroes) : data?.subarray(0, bytes)
    // Some readers drop the zero blocks of a vmstate instead of writing them, so it keeps them.
    const zeroBytes = extent.add(stream.id, cluster, content, stream.vmstate)
    this.#devicesInExtent.add(stream.id)
    const result = { bytes, zeroBytes: data ? zeroBytes : bytes }
    stream.count(bytes, result.zeroBytes)
    if (extent.full) this.#submit()
    return result
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
    this.#ring.send(header)
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
      throw this.#ring.fail(error)
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

  /** Sends the current extent on its way, if it has anything in it. */
  #submit(): void {
    const builder = this.#ring.takeCurrent()
    if (!builder) return
    const extent = builder.finish(this.#uuid!, this.#extensions)
    const md5At = extentHeader.offsets.md5
    this.#index!.add(extent.length, this.#devicesInExtent, extent.subarray(md5At, md5At + 16))
    this.#devicesInExtent.clear()
    this.#ring.send(extent, builder)
  }

  /** Sends everything that was written so far, and waits until it has arrived. */
  async #flush(): Promise<void> {
    await this.#ring.drain()
    this.#begin()
    this.#submit()
    await this.#ring.settle()
  }

  #checkComplete(): void {
    for (const stream of this.#streams) stream.checkComplete()
  }

  async #giveUp(error: unknown): Promise<unknown> {
    const first = this.#ring.fail(error)
    this.#state = 'closed'
    await this.#ring.abort()
    return first
  }
}
