/** The images that a device map names, opened to be overwritten. */
import type { VmaDevice } from '../../archive/vma/header.ts'
import { imageTarget, type RestoreTarget } from '../../archive/vma/restore.ts'
import { neverAborted } from '../../block/layer.ts'
import { RateLimit } from '../../block/rate-limit.ts'
import { MiB } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import type { Edge } from '../../graph/edge.ts'
import type { CliIo } from '../command.ts'
import type { DeviceMap, MappedDevice } from './device-map.ts'
import { Images } from './image.ts'

/** How much larger than its device a target may be. */
const maxSurplus = 4 * MiB

export class MappedTargets implements AsyncDisposable {
  readonly all = new Map<number, RestoreTarget>()
  readonly #images: Images
  readonly #signal: AbortSignal
  readonly #edges: Edge[] = []
  readonly #limits = new Map<string, RateLimit>()

  private constructor(io: CliIo) {
    this.#images = new Images(io)
    this.#signal = io.signal ?? neverAborted
  }

  static async open(
    devices: readonly VmaDevice[],
    map: DeviceMap | undefined,
    io: CliIo,
  ): Promise<MappedTargets> {
    const targets = new MappedTargets(io)
    try {
      for (const device of devices) await targets.#add(device, map!.mapped.get(device.name)!)
      return targets
    } catch (error) {
      await targets[Symbol.asyncDispose]()
      throw error
    }
  }

  /** Everything that was written is on stable storage afterwards. */
  async flush(): Promise<void> {
    for (const edge of this.#edges) await edge.flush()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#images[Symbol.asyncDispose]()
  }

  async #add(device: VmaDevice, entry: MappedDevice): Promise<void> {
    const edge = await this.#images.openTarget(entry, entry.cache)
    this.#edges.push(edge)
    checkSize(device, edge.size, entry.path)
    const options = { zeroes: entry.writeZeroes, through: entry.cache.writethrough }
    const target = imageTarget(edge, { signal: this.#signal }, options)
    const limit = this.#limitOf(device, entry)
    this.all.set(device.id, limit ? this.#throttled(target, limit) : target)
  }

  #limitOf(device: VmaDevice, { throttle }: MappedDevice): RateLimit | undefined {
    if (!throttle) return undefined
    // Devices without a group have one of their own; a group's last rate counts.
    const key = throttle.group === undefined ? `device ${device.id}` : `group ${throttle.group}`
    const limit = this.#limits.get(key) ?? new RateLimit()
    limit.rate = throttle.bytesPerSecond
    this.#limits.set(key, limit)
    return limit
  }

  #throttled(target: RestoreTarget, limit: RateLimit): RestoreTarget {
    return {
      ...target,
      write: async (offset, data) => {
        await limit.take(data.length, this.#signal)
        await target.write(offset, data)
      },
    }
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
