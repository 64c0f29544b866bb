/** A device of an archive as a new file: raw and sparse, or a qcow2 image. */
import { FileTarget } from '../../archive/vma/file-target.ts'
import { isVmstate, type VmaDevice } from '../../archive/vma/header.ts'
import { imageTarget, type RestoreTarget, type StateTarget } from '../../archive/vma/restore.ts'
import { alignUp } from '../../bytes/range.ts'
import { createImage } from '../../create-image.ts'
import { openDisk } from '../../disk.ts'
import { drivers } from '../../drivers.ts'
import { Graph } from '../../graph/graph.ts'
import type { NewFiles } from './new-files.ts'

export const deviceFormats = ['raw', 'qcow2'] as const
export type DeviceFormat = (typeof deviceFormats)[number]

interface DeviceFile {
  readonly target: RestoreTarget
  /** Everything has been written: writes metadata and closes. */
  finish(): Promise<void>
  /** Closes what is not finished; failing to is no news, for something else has failed before. */
  discard(): Promise<void>
}

export interface CreatedDevice {
  readonly name: string
  /** Bytes of the device. */
  readonly size: number
  /** The file's final name. */
  readonly path: string
  readonly format: DeviceFormat
}

/** The files of an archive's devices. */
export class DeviceFiles implements AsyncDisposable {
  readonly created: CreatedDevice[] = []
  /** By device id. */
  readonly targets = new Map<number, RestoreTarget>()
  state: { readonly id: number; readonly target: StateTarget } | undefined
  readonly #files: NewFiles
  readonly #format: DeviceFormat
  readonly #signal: AbortSignal
  readonly #open: DeviceFile[] = []

  constructor(files: NewFiles, format: DeviceFormat, signal: AbortSignal) {
    this.#files = files
    this.#format = format
    this.#signal = signal
  }

  /** A vmstate is no disk: its file is raw, and its length is found out at the end. */
  async create(device: VmaDevice, file: string): Promise<void> {
    const { path, temporary } = await this.#files.add(file)
    const { id, name, size } = device
    const format = isVmstate(device) ? 'raw' : this.#format
    this.created.push({ name, size, path, format })
    if (isVmstate(device)) {
      const opened = await createRawFile(temporary, 0)
      this.#open.push(opened)
      this.state = { id, target: opened.target }
    } else {
      const opened = await createDeviceFile(format, temporary, size, this.#signal)
      this.#open.push(opened)
      this.targets.set(id, opened.target)
    }
  }

  /** Everything has been written: the files are complete and closed afterwards. */
  async finish(): Promise<void> {
    for (const file of this.#open) await file.finish()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const file of this.#open) await file.discard()
  }
}

/** Sizes of images are counted in these. */
const sectorSize = 512

/** A new file of `size` bytes, all zero; whatever exists of that name is refused. */
async function createDeviceFile(
  format: DeviceFormat,
  filename: string,
  size: number,
  signal: AbortSignal,
): Promise<DeviceFile> {
  if (format === 'raw') return await createRawFile(filename, size)
  const options = { size: alignUp(size, sectorSize) }
  await using graph = new Graph({ drivers })
  await createImage(graph, { filename, format, options })
  const disk = await openDisk(filename, { format, signal })
  const close = () => disk[Symbol.asyncDispose]()
  return {
    target: imageTarget(disk, { signal }, { zeroes: false }),
    async finish() {
      await disk.flush()
      await close()
    },
    discard: () => close().catch(() => {}),
  }
}

async function createRawFile(filename: string, size: number) {
  const target = await FileTarget.create(filename, filename, size)
  const close = () => target[Symbol.asyncDispose]()
  return { target, finish: close, discard: () => close().catch(() => {}) }
}
