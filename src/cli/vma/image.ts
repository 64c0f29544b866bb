/** Disk images named on the command line of `vma create` and `vma extract -r`. */
import type { DiskSource } from '../../archive/vma/store-device.ts'
import { type Disk, openDisk } from '../../disk.ts'
import { drivers } from '../../drivers.ts'
import { BlockError } from '../../errors.ts'
import { formatOf } from '../../graph/probe.ts'
import { chainExtentAt } from '../../graph/status.ts'

export interface ImageSpec {
  readonly path: string
  /** Undefined: found out from the image. */
  readonly format: string | undefined
}

/**
 * Opens an image to read all of it. One whose format the user named may have a backing file
 * anywhere, as with qemu-img; one that was probed, only next to it.
 */
export async function openSourceImage({ path, format }: ImageSpec, signal?: AbortSignal) {
  return await openDisk(path, {
    format,
    readOnly: true,
    backing: format === undefined ? 'same-folder' : 'allow',
    signal,
  })
}

/**
 * The format of a target that the user did not name: raw, unless it looks like an image of another
 * format. A guest can write any header into a raw disk, so it is never opened as what it looks like.
 */
export async function guessRaw(path: string): Promise<'raw'> {
  await using disk = await openDisk(path, { format: 'raw', readOnly: true })
  const head = new Uint8Array(Math.min(probeLength, disk.size))
  await disk.read(0, head)
  const format = formatOf(drivers, head)
  if (format === undefined || format === 'raw') return 'raw'
  throw new BlockError(
    'INVALID_ARGUMENT',
    `'${path}' looks like a ${format} image; name its format, format=${format} or format=raw`,
    { path },
  )
}

const probeLength = 2048

/** Opens an existing image to be overwritten. */
export async function openTargetImage(
  { path, format }: { readonly path: string; readonly format: string },
  cache: { readonly direct: boolean; readonly noFlush: boolean },
  signal?: AbortSignal,
): Promise<Disk> {
  return await openDisk(path, {
    format,
    backing: 'allow',
    options: { cache: { direct: cache.direct, 'no-flush': cache.noFlush } },
    signal,
  })
}

/** A disk as the archive reads it: zeroes known through the whole chain of backing files. */
export function diskSource(disk: Disk): DiskSource {
  return {
    size: disk.size,
    read: (offset, target, io) => disk.read(offset, target, io),
    async extentAt(offset, length, io) {
      const run = await chainExtentAt(disk.node, offset, length, io)
      return run.zero
        ? { kind: 'zero', allocated: false, offset, length: run.length }
        : { kind: 'data', offset, length: run.length }
    },
  }
}
