/** The images that a device map names, opened to be overwritten. */
import { stat } from 'node:fs/promises'
import type { VmaDevice } from '../../archive/vma/header.ts'
import { imageTarget, type RestoreTarget } from '../../archive/vma/restore.ts'
import { neverAborted } from '../../block/layer.ts'
import { MiB } from '../../bytes/range.ts'
import type { Disk } from '../../disk.ts'
import { BlockError, systemError } from '../../errors.ts'
import type { CliIo } from '../command.ts'
import type { DeviceMap, MappedDevice } from './device-map.ts'
import { guessRaw, openTargetImage } from './image.ts'
import { RateLimit } from './rate-limit.ts'
import { pathOf } from './support.ts'

/** How much larger than its device a target may be. */
const maxSurplus = 4 * MiB

export class MappedTargets implements AsyncDisposable {
  readonly all = new Map<number, RestoreTarget>()
  readonly #disks: Disk[] = []
  readonly #limits = new Map<string, RateLimit>()

  static async open(
    devices: readonly VmaDevice[],
    map: DeviceMap | undefined,
    io: CliIo,
  ): Promise<MappedTargets> {
    const targets = new MappedTargets()
    try {
      for (const device of devices) await targets.#add(device, map!.mapped.get(device.name)!, io)
      return targets
    } catch (error) {
      await targets[Symbol.asyncDispose]()
      throw error
    }
  }

  async flush(): Promise<void> {
    for (const disk of this.#disks) await disk.flush()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const disk of this.#disks.splice(0)) await disk[Symbol.asyncDispose]()
  }

  async #add(device: VmaDevice, entry: MappedDevice, io: CliIo): Promise<void> {
    const path = pathOf(entry.path, io)
    await stat(path).catch((error) => {
      throw systemError(error, `Could not open '${path}' for '${device.name}'`, { path })
    })
    const format = entry.format ?? (await guessRaw(path))
    const direct = entry.cache === 'none' || entry.cache === 'directsync'
    const noFlush = entry.cache === 'unsafe'
    const disk = await openTargetImage({ path, format }, { direct, noFlush }, io.signal)
    this.#disks.push(disk)
    checkSize(device, disk.size, path)
    const through = entry.cache === 'writethrough' || entry.cache === 'directsync'
    const signal = io.signal ?? neverAborted
    const target = imageTarget(disk, { signal }, { zeroes: entry.writeZeroes, through })
    const limit = this.#limitOf(device, entry, io)
    this.all.set(device.id, limit ? throttled(target, limit) : target)
  }

  #limitOf(device: VmaDevice, { throttle }: MappedDevice, io: CliIo): RateLimit | undefined {
    if (!throttle) return undefined
    // Devices without a group have one of their own; a group's first rate counts.
    const key = throttle.group === undefined ? `device ${device.id}` : `group ${throttle.group}`
    const limit = this.#limits.get(key) ?? new RateLimit(throttle.bytesPerSecond, io.signal)
    this.#limits.set(key, limit)
    return limit
  }
}

function checkSize(device: VmaDevice, size: number, path: string): void {
  if (size >= device.size && size <= device.size + maxSurplus) return
  throw new BlockError(
    'INVALID_ARGUMENT',
    `'${path}' has ${size} bytes; '${device.name}' needs ${device.size} and at most 4 MiB more`,
    { path },
  )
}

function throttled(target: RestoreTarget, limit: RateLimit): RestoreTarget {
  return {
    async write(offset, data) {
      await limit.take(data.length)
      await target.write(offset, data)
    },
    writeZeroes: target.writeZeroes && ((offset, length) => target.writeZeroes!(offset, length)),
  }
}
