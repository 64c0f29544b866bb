/** Makes new files: `create -f raw`, and the storage under every other format. */
import fs from 'node:fs'
import { promisify } from 'node:util'
import type { CreateContext, CreateOptionInfo, ImageCreator } from '../../block/driver.ts'
import { missing, OptionReader } from '../../block/options.ts'
import { allPermissions, type Permission } from '../../block/permission.ts'
import { MiB, maxDiskSize } from '../../bytes/range.ts'
import { BlockError, errnoOf, systemError } from '../../errors.ts'
import { sys as currentSys } from '../../sys/current.ts'
import type { Sys } from '../../sys/sys.ts'
import { setExtentSizeHint, setNoCow } from './file-attributes.ts'
import { FileLocks } from './image-locks.ts'
import { OpenFile } from './open-file.ts'
import { writeInPool } from './pool-io.ts'

const ftruncate = promisify(fs.ftruncate)
const fsync = promisify(fs.fsync)
const { O_RDWR, O_CREAT } = fs.constants

export interface FileCreateOptions {
  readonly filename: string
  /** Bytes. */
  readonly size: number
  readonly preallocation: 'off' | 'metadata' | 'falloc' | 'full'
  /** Asks the file system (btrfs) not to copy on write. Elsewhere without effect. */
  readonly nocow: boolean
  /** Bytes; asks the file system (XFS) to allocate in pieces of this size. 0: its own choice. */
  readonly extentSizeHint: number
}

const optionInfos: readonly CreateOptionInfo[] = [
  {
    name: 'extent_size_hint',
    type: 'size',
    description: 'Extent size hint for the image file, 0 to disable',
  },
  { name: 'nocow', type: 'bool', description: 'Turn off copy-on-write (valid only on btrfs)' },
  {
    name: 'preallocation',
    type: 'str',
    description: 'Preallocation mode (allowed values: off, falloc, full)',
  },
  { name: 'size', type: 'size', description: 'Virtual disk size' },
]

export const fileCreator: ImageCreator<FileCreateOptions> = {
  options: optionInfos,
  parse: parseCreateOptions,
  create: (options, context) => createFile(options, context, currentSys()),
}

/** QEMU's default: large enough to keep big images from falling into small pieces. */
const defaultExtentSizeHint = MiB

function parseCreateOptions(options: Readonly<Record<string, unknown>>): FileCreateOptions {
  const reader = new OptionReader(options)
  reader.take('driver')
  const filename = reader.requiredString('filename')
  const size = reader.bytes('size')
  if (size === undefined) throw missing('size')
  if (size > maxDiskSize) {
    throw new BlockError('INVALID_ARGUMENT', `A file of ${size} bytes is beyond the 8 PiB limit`)
  }
  const preallocation = parsePreallocation(reader.string('preallocation'))
  const nocow = reader.boolean('nocow') ?? false
  const extentSizeHint =
    reader.bytes('extent_size_hint') ?? reader.bytes('extent-size-hint') ?? defaultExtentSizeHint
  reader.finish()
  return { filename, size, preallocation, nocow, extentSizeHint }
}

function parsePreallocation(mode: string | undefined): FileCreateOptions['preallocation'] {
  if (mode === undefined) return 'off'
  if (mode === 'off' || mode === 'metadata' || mode === 'falloc' || mode === 'full') return mode
  throw new BlockError('INVALID_ARGUMENT', `Unsupported preallocation mode: ${mode}`)
}

/**
 * An existing file is emptied, once nobody else uses it. When something fails later, what is
 * there is an image of zeroes, shorter than asked for.
 */
export async function createFile(
  options: FileCreateOptions,
  context: CreateContext,
  sys: Sys,
): Promise<void> {
  context.signal.throwIfAborted()
  const path = options.filename
  const file = await openNew(path, sys)
  try {
    if (sys.supported.locks) lockForCreation(file)
    await resize(file, 0)
    // Found out late, as in QEMU: by then the file is there, and empty.
    if (options.preallocation === 'metadata') {
      throw new BlockError('UNSUPPORTED', 'Unsupported preallocation mode: metadata')
    }
    if (options.nocow) await setNoCow(file)
    if (options.extentSizeHint > 0) await setExtentSizeHint(file, options.extentSizeHint)
    await fill(file, options, context.signal)
  } finally {
    await file.close()
  }
}

async function openNew(path: string, sys: Sys): Promise<OpenFile> {
  try {
    return await OpenFile.open({ path, node: '' }, O_RDWR + O_CREAT, sys)
  } catch (error) {
    throw systemError(error, `Could not create '${path}'`, { path })
  }
}

function lockForCreation(file: OpenFile): void {
  const uses = new Set<Permission>(['write', 'resize'])
  const shares = new Set<Permission>(allPermissions.filter((other) => other !== 'resize'))
  new FileLocks(file).update(uses, shares)
}

async function resize(file: OpenFile, size: number): Promise<void> {
  try {
    await file.during((fd) => ftruncate(fd, size))
  } catch (error) {
    throw file.fail(error, `Could not resize file to ${size} bytes`)
  }
}

/** A first block on the disk lets whoever opens the file with O_DIRECT find the block size. */
const firstBlock = 4096

async function fill(
  file: OpenFile,
  { size, preallocation }: FileCreateOptions,
  signal: AbortSignal,
): Promise<void> {
  if (preallocation === 'falloc' && size > 0 && (await reserve(file, 0, size))) {
    await writeZeroBytes(file, Math.min(size, firstBlock), signal)
    return
  }
  await resize(file, size)
  // A system that cannot reserve space gets it written.
  if (preallocation === 'off') return writeZeroBytes(file, Math.min(size, firstBlock), signal)
  await writeZeroBytes(file, size, signal)
  try {
    await file.during(fsync)
  } catch (error) {
    throw file.fail(error, 'Could not flush file to disk')
  }
}

/** Space for a part of the file, which becomes that long. False where the system cannot do that. */
export async function reserve(file: OpenFile, offset: number, length: number): Promise<boolean> {
  try {
    await file.during((fd) => file.sys.fallocate(fd, 'allocate', offset, length))
    return true
  } catch (error) {
    const errno = errnoOf(error)
    if (errno === 'EOPNOTSUPP' || errno === 'ENOTSUP' || errno === 'ENOSYS') return false
    throw file.fail(error, 'Could not preallocate data for the new file')
  }
}

async function writeZeroBytes(file: OpenFile, length: number, signal: AbortSignal): Promise<void> {
  const zeroes = new Uint8Array(Math.min(length, MiB))
  for (let at = 0; at < length; at += zeroes.length) {
    signal.throwIfAborted()
    await writeInPool(file, zeroes.subarray(0, Math.min(zeroes.length, length - at)), 0, at)
  }
}
