/** Brings the clusters of an archive back to disks. */
import type { BlockLayer, Io, ZeroIo } from '../../block/layer.ts'
import { isZero } from '../../bytes/zero.ts'
import { BlockError } from '../../errors.ts'
import { countBits, maskOf, type StoredCluster } from './extent.ts'
import type { LoadedExtent } from './extent-stream.ts'
import { isVmstate, type VmaDevice } from './header.ts'
import type { VmaReader } from './reader.ts'
import { blockSize, blocksPerCluster, clusterSize } from './structures.ts'

/** Where the content of one device goes. */
export interface RestoreTarget {
  /** Writes stored data; within the device's size. The buffer is lent until this settles. */
  write(offset: number, data: Uint8Array): Promise<void>
  /** Makes a range read as zeroes. Left out where everything does so from the start. */
  writeZeroes?(offset: number, length: number): Promise<void>
}

/** A target that can be cut to the length of what came: for vmstate. */
export interface StateTarget extends RestoreTarget {
  setLength(length: number): Promise<void>
}

export interface RestoreProgress {
  /** Bytes of the devices that have passed by since the last time. */
  readonly bytes: number
  /** How many of them were not stored, being zero. */
  readonly zeroBytes: number
  /** How many of these lie in clusters of which other blocks were stored. */
  readonly blockZeroes: number
}

export interface RestoreOptions {
  /** Targets by device id. Devices without one are passed over. */
  readonly targets: ReadonlyMap<number, RestoreTarget>
  /** The target of the device called `vmstate`, which has no size of its own. */
  readonly state?: { readonly id: number; readonly target: StateTarget }
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: RestoreProgress) => void | Promise<void>
}

/**
 * Reads an archive and writes the devices that have a target. Everything of the archive is checked
 * where all of its devices are wanted or it can only be read in order; otherwise what is needed is
 * read and checked. The caller makes the targets durable.
 */
export async function restoreArchive(reader: VmaReader, options: RestoreOptions): Promise<void> {
  const ids = new Set([...options.targets.keys(), ...(options.state ? [options.state.id] : [])])
  const partly = reader.seekable && ids.size < reader.header.devices.length
  const sizes = limitsOf(reader.header.devices)
  const state = options.state && new StateLength(reader.header.devices, options.state.id)
  const targets = new Map<number, RestoreTarget>(options.targets)
  if (options.state) targets.set(options.state.id, options.state.target)
  for await (const extent of partly ? reader.extentsOf(ids) : reader.extents()) {
    options.signal?.throwIfAborted()
    state?.take(extent)
    const runs = runsOf(extent, targets, sizes)
    await Promise.all(runs.map((run) => writeRun(run, extent, targets)))
    await options.onProgress?.(progressOf(extent, targets, sizes))
  }
  if (state) await options.state!.target.setLength(state.length)
}

/** First byte behind each device, by id; a vmstate has no end. */
export function limitsOf(devices: readonly VmaDevice[]): ReadonlyMap<number, number> {
  const limitOf = (device: VmaDevice) => (isVmstate(device) ? Number.MAX_SAFE_INTEGER : device.size)
  return new Map(devices.map((device) => [device.id, limitOf(device)]))
}

interface Run {
  readonly deviceId: number
  readonly offset: number
  length: number
  /** Where the data begins in the extent; undefined for zeroes. */
  readonly from: number | undefined
}

/** What an extent holds for the targets, neighbouring blocks joined. */
export function runsOf(
  extent: LoadedExtent,
  wanted: { has(deviceId: number): boolean },
  sizes: ReadonlyMap<number, number>,
): Run[] {
  const runs: Run[] = []
  for (const { deviceId, cluster, mask, dataOffset } of extent.clusters) {
    if (!wanted.has(deviceId)) continue
    const start = cluster * clusterSize
    const end = Math.min(start + clusterSize, sizes.get(deviceId)!)
    let from = dataOffset
    for (let block = 0, bit = 1; block < blocksPerCluster; block++, bit *= 2) {
      const offset = start + block * blockSize
      if (offset >= end) break
      const length = Math.min(blockSize, end - offset)
      const stored = (mask & bit) !== 0
      join(runs, { deviceId, offset, length, from: stored ? from : undefined })
      if (stored) from += blockSize
    }
  }
  return runs
}

function join(runs: Run[], next: Run): void {
  const last = runs.at(-1)
  const follows =
    last?.deviceId === next.deviceId &&
    last.offset + last.length === next.offset &&
    (last.from === undefined ? next.from === undefined : last.from + last.length === next.from)
  if (follows) last.length += next.length
  else runs.push(next)
}

async function writeRun(
  run: Run,
  extent: LoadedExtent,
  targets: ReadonlyMap<number, RestoreTarget>,
): Promise<void> {
  const target = targets.get(run.deviceId)!
  if (run.from === undefined) await target.writeZeroes?.(run.offset, run.length)
  else await target.write(run.offset, extent.data.subarray(run.from, run.from + run.length))
}

/** What the clusters of an extent amount to. Devices without a limit are passed over. */
export function progressOf(
  extent: { readonly clusters: readonly StoredCluster[] },
  wanted: { has(deviceId: number): boolean },
  limits: ReadonlyMap<number, number>,
): RestoreProgress {
  const sum = { bytes: 0, zeroBytes: 0, blockZeroes: 0 }
  for (const { deviceId, cluster, mask } of extent.clusters) {
    const limit = limits.get(deviceId)
    if (limit === undefined || !wanted.has(deviceId)) continue
    const bytes = Math.min(clusterSize, limit - cluster * clusterSize)
    const missing = countBits(maskOf(bytes)) - countBits(mask)
    const zeroBytes = mask === 0 ? bytes : Math.min(bytes, missing * blockSize)
    sum.bytes += bytes
    sum.zeroBytes += zeroBytes
    if (mask !== 0) sum.blockZeroes += zeroBytes
  }
  return sum
}

/**
 * How long a vmstate is. Its registered size is only an estimate, but when the clusters end where
 * it says and nothing is stored behind it, it is the truth; otherwise whole clusters count.
 */
class StateLength {
  readonly #id: number
  readonly #size: number
  #clusters = 0
  #behind = false

  constructor(devices: readonly VmaDevice[], id: number) {
    this.#id = id
    this.#size = devices.find((device) => device.id === id)!.size
  }

  get length(): number {
    const exact = this.#clusters === Math.ceil(this.#size / clusterSize) && !this.#behind
    return exact ? this.#size : this.#clusters * clusterSize
  }

  take(extent: LoadedExtent): void {
    for (const { deviceId, cluster, mask, dataOffset } of extent.clusters) {
      if (deviceId !== this.#id) continue
      this.#clusters = cluster + 1
      const inside = this.#size - cluster * clusterSize
      if (inside >= clusterSize) continue
      let from = dataOffset
      for (let block = 0, bit = 1; block < blocksPerCluster; block++, bit *= 2) {
        if ((mask & bit) === 0) continue
        const data = extent.data.subarray(from, from + blockSize)
        from += blockSize
        const skip = Math.min(blockSize, Math.max(0, inside - block * blockSize))
        if (!isZero(data.subarray(skip))) this.#behind = true
      }
    }
  }
}

export interface ImageTargetOptions {
  /** Whether ranges that were not stored have to be written. */
  readonly zeroes: boolean
  /** Whether each write has to be on stable storage before it counts. */
  readonly through?: boolean
}

/** An image as a target. */
export function imageTarget(
  image: Pick<BlockLayer, 'write' | 'writeZeroes'>,
  io: Io,
  options: ImageTargetOptions,
): RestoreTarget {
  const writeIo = { signal: io.signal, fua: options.through ?? false, unchanged: false }
  const zeroIo: ZeroIo = { ...writeIo, mayUnmap: true, fastOnly: false }
  return {
    write: async (offset, data) => await image.write(offset, data, writeIo),
    writeZeroes: options.zeroes
      ? async (offset, length) => await image.writeZeroes(offset, length, zeroIo)
      : undefined,
  }
}

/** The device of that name; throws when a name is unknown or belongs to two devices. */
export function deviceNamed(devices: readonly VmaDevice[], name: string): VmaDevice {
  const found = devices.filter((device) => device.name === name)
  if (found.length === 1) return found[0]
  const what = found.length === 0 ? 'there is no device' : `${found.length} devices are called`
  throw new BlockError('INVALID_ARGUMENT', `${what} '${name}' in the archive`)
}
