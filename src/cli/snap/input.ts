/**
 * What is read as a snapshot: an image, or a stream, a mapped-ram file or an internal snapshot, of
 * which an image is made first.
 */
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { plainIo } from '../../block/layer.ts'
import { alignUp, MiB } from '../../bytes/range.ts'
import { BlockError, systemError } from '../../errors.ts'
import { isMappedRam, mappedRamSource } from '../../snapshot/convert/mapped-ram.ts'
import type { RandomFile } from '../../snapshot/convert/random-file.ts'
import { blockAlignment } from '../../snapshot/image/layout.ts'
import { SnapshotReader } from '../../snapshot/image/snapshot-reader.ts'
import { DescriptorSource } from '../../snapshot/io/descriptor-io.ts'
import type { ByteSource } from '../../snapshot/stream/window.ts'
import type { NamedIo } from '../command.ts'
import { imageGraph, openImage } from '../open-image.ts'
import type { SnapArguments } from './arguments.ts'
import { NewSnapshotFile, openSnapshotImage } from './image.ts'
import { saveInto } from './save-into.ts'

export interface SnapshotInput extends AsyncDisposable {
  readonly snapshot: SnapshotReader
}

/** A stream from somewhere. */
export interface StreamInput extends AsyncDisposable {
  readonly source: ByteSource
}

type Settings = Pick<SnapArguments, 'cache' | 'snapshot' | 'pageSize' | 'noDescription'>

/** `folder` is for the image that is made of a stream, and removed again. */
export async function openInput(
  filename: string,
  settings: Settings,
  io: NamedIo,
  folder: string = tmpdir(),
): Promise<SnapshotInput> {
  const stream = await openStream(filename, settings, io)
  if (!stream) {
    const image = await openSnapshotImage(filename, io, { readOnly: true, cache: settings.cache })
    return await withReader(image, () => image[Symbol.asyncDispose]())
  }
  try {
    const file = await imageOf(stream.source, join(folder, 'snapshot'), settings, io)
    return await withReader({ ...file.image, name: filename }, () => file.discard())
  } finally {
    await stream[Symbol.asyncDispose]()
  }
}

/** A new image with what comes; it has no name yet, and is removed unless it gets one. */
async function imageOf(
  source: ByteSource,
  path: string,
  { pageSize, noDescription }: Settings,
  io: NamedIo,
): Promise<NewSnapshotFile> {
  const file = await NewSnapshotFile.create(path, io, { size: largestImage })
  try {
    const settings = { pageSize, noDescription, compress: false }
    await saveInto(file, source, settings, io)
    return file
  } catch (error) {
    await file.discard()
    throw error
  }
}

/** An image of unknown RAM: 64 TiB of disk cost 4 KiB. */
const largestImage = 64 * 1024 * 1024 * MiB

/** The stream that a file is or contains; undefined where it is a snapshot image. */
export async function openStream(
  filename: string,
  settings: Settings,
  io: NamedIo,
): Promise<StreamInput | undefined> {
  if (filename === '-') {
    return { source: new DescriptorSource(0, 'standard input'), async [Symbol.asyncDispose]() {} }
  }
  const handle = await open(filename).catch((error) => {
    throw systemError(error, `Could not open '${filename}'`, { path: filename })
  })
  const close = () => handle.close()
  try {
    const magic = Buffer.alloc(4)
    await handle.read(magic, 0, 4, 0)
    if (magic.toString('latin1') === 'QFI\xfb') {
      await close()
      return await internalStream(filename, settings.snapshot, io)
    }
    const file: RandomFile = {
      name: filename,
      size: (await handle.stat()).size,
      read: async (offset, target) =>
        (await handle.read(target, 0, target.length, offset)).bytesRead,
    }
    if (magic.toString('latin1') !== 'QEVM') {
      throw new BlockError('NOT_RECOGNISED', `${filename}: neither an image nor a stream`, {
        path: filename,
      })
    }
    const source = (await isMappedRam(file)) ? await mappedRamSource(file) : inOrder(file)
    return { source, [Symbol.asyncDispose]: close }
  } catch (error) {
    await close().catch(() => {})
    throw error
  }
}

function inOrder(file: RandomFile): ByteSource {
  let at = 0
  return {
    name: file.name,
    async read(target) {
      const count = await file.read(at, target)
      at += count
      return count
    },
  }
}

/** The state of an internal snapshot is a stream of its own. */
async function internalStream(
  filename: string,
  selector: string | undefined,
  io: NamedIo,
): Promise<StreamInput | undefined> {
  if (selector === undefined) return undefined
  const graph = imageGraph(io)
  const close = () => graph[Symbol.asyncDispose]()
  try {
    const node = await openImage(graph, { filename, format: 'qcow2', backing: false }, io)
    const { image, snapshots, vmState } = node.layer
    const list = (await image?.snapshots?.()) ?? []
    const found =
      list.find(({ id }) => id === selector) ?? list.find(({ name }) => name === selector)
    if (!found || !snapshots || !vmState) {
      throw new BlockError('INVALID_ARGUMENT', `${filename}: there is no snapshot '${selector}'`)
    }
    if (found.vmStateSize === 0) {
      throw new BlockError(
        'INVALID_ARGUMENT',
        `${filename}: snapshot '${selector}' has no VM state`,
      )
    }
    await snapshots.open(selector, plainIo)
    let at = 0
    const source: ByteSource = {
      name: `${filename}, snapshot '${selector}'`,
      async read(target) {
        const part = target.subarray(0, found.vmStateSize - at)
        if (part.length > 0) await vmState.read(at, part, plainIo)
        at += part.length
        return part.length
      },
    }
    return { source, [Symbol.asyncDispose]: close }
  } catch (error) {
    await close()
    throw error
  }
}

async function withReader(
  image: Parameters<typeof SnapshotReader.open>[0],
  close: () => PromiseLike<void>,
): Promise<SnapshotInput> {
  try {
    const snapshot = await SnapshotReader.open(image)
    return {
      snapshot,
      async [Symbol.asyncDispose]() {
        await close()
      },
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** Bytes of the disk that the RAM of a snapshot needs. */
export function diskSizeOf({ blocks }: SnapshotReader): number {
  const last = blocks.at(-1)
  return alignUp((last?.base ?? 0) + (last?.usedLength ?? 0), blockAlignment)
}
