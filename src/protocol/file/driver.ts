/** Drivers `file`, for regular files, `host_device`, for devices, and `host_cdrom`, for drives. */

import { channel } from 'node:diagnostics_channel'
import fs from 'node:fs'
import { promisify } from 'node:util'
import type { BlockDriver, NodeOptions, OpenContext } from '../../block/driver.ts'
import { BlockError, errnoOf, systemError } from '../../errors.ts'
import { sys as currentSys } from '../../sys/current.ts'
import type { Sys } from '../../sys/sys.ts'
import { CdromLayer } from './cdrom.ts'
import { type FileCreateOptions, fileCreator } from './create.ts'
import { deviceKind, deviceSize, isDevice } from './device.ts'
import { noDirect, probeAlignment } from './direct.ts'
import { FileLayer, type FileLayerOptions } from './file-layer.ts'
import { OpenFile } from './open-file.ts'
import { type FileOptions, parseFileOptions } from './options.ts'

const fstat = promisify(fs.fstat)
const stat = promisify(fs.stat)
const { O_RDONLY, O_RDWR, O_DIRECT, O_NONBLOCK } = fs.constants

type FileKind = 'file' | 'device' | 'cdrom'

/**
 * Says that an image is used without the locks that other processes would see:
 * `{ path, node, reason }`.
 */
const unlocked = channel('varve:file:unlocked')

export const file: BlockDriver<FileOptions, FileCreateOptions> = {
  name: 'file',
  kind: 'protocol',
  changeable: ['drop-cache'],
  lasting: ['drop-cache'],
  parse: (options) => parseFileOptions('file', options),
  parseFilename: (filename) => prefixedName('file', filename),
  open: (options, context) => openFileLayer('file', options, context, currentSys()),
  creator: fileCreator,
}

export const hostDevice: BlockDriver<FileOptions> = {
  name: 'host_device',
  kind: 'protocol',
  changeable: ['drop-cache'],
  lasting: ['drop-cache'],
  createsInPlace: true,
  parse: (options) => parseFileOptions('host_device', options),
  parseFilename: (filename) => prefixedName('host_device', filename),
  probeDevice: (path) => (deviceKind(path) === undefined ? 0 : 100),
  open: (options, context) => openFileLayer('device', options, context, currentSys()),
}

export const hostCdrom: BlockDriver<FileOptions> = {
  name: 'host_cdrom',
  kind: 'protocol',
  changeable: ['drop-cache'],
  lasting: ['drop-cache'],
  createsInPlace: true,
  parse: (options) => parseFileOptions('host_cdrom', options),
  parseFilename: (filename) => prefixedName('host_cdrom', filename),
  probeDevice: (path) => (deviceKind(path) === 'cdrom' ? 101 : 0),
  open: (options, context) => openFileLayer('cdrom', options, context, currentSys()),
}

/** Opens with a chosen `Sys`; the drivers use that of the process. */
export async function openFileLayer(
  kind: FileKind,
  options: FileOptions,
  context: OpenContext,
  sys: Sys,
): Promise<FileLayer> {
  const { flags, name } = context
  if (options.aio === 'native' && !flags.direct) throw nativeNeedsDirect()
  const names = { path: options.filename, node: name }
  await checkKind(kind, options.filename, flags.readOnly)
  const access = flags.readOnly ? O_RDONLY : O_RDWR
  const opened = await openOrExplain(names, access + modeOf(kind), flags.direct, sys)
  try {
    const size = await sizeOf(kind, opened)
    const settings: FileLayerOptions = {
      kind: kind === 'file' ? 'file' : 'device',
      size,
      readOnly: flags.readOnly,
      directAlignment: flags.direct ? await probeAlignment(opened, size) : undefined,
      noFlush: flags.noFlush,
      locking: mayLock(options, opened),
    }
    if (kind !== 'cdrom') return new FileLayer(opened, settings)
    const drive = new CdromLayer(opened, settings)
    await drive.medium.isInserted()
    return drive
  } catch (error) {
    await opened.close()
    throw error
  }
}

/** Before opening: a FIFO would wait for its other end. */
async function checkKind(kind: FileKind, path: string, readOnly: boolean): Promise<void> {
  let stats: fs.Stats
  try {
    stats = await stat(path)
  } catch (error) {
    throw systemError(error, `Could not open '${path}'`, { path })
  }
  const fits = kind === 'file' ? stats.isFile() : isDevice(stats)
  // What opening a folder for writing says is plainer.
  if (fits || (stats.isDirectory() && !readOnly)) return
  const needs =
    kind === 'file'
      ? `'file' driver requires '${path}' to be a regular file`
      : `'host_${kind}' driver requires '${path}' to be either a character or block device`
  throw new BlockError('INVALID_ARGUMENT', needs, { path })
}

/** A drive is opened with or without a medium in it. */
function modeOf(kind: FileKind): number {
  return kind === 'cdrom' ? O_NONBLOCK : 0
}

async function openOrExplain(
  names: { path: string; node: string },
  access: number,
  direct: boolean,
  sys: Sys,
): Promise<OpenFile> {
  // Systems other than Linux have no such flag.
  if (direct && !O_DIRECT) throw noDirect(names)
  try {
    return await OpenFile.open(names, direct ? access + O_DIRECT : access, sys)
  } catch (error) {
    if (direct && errnoOf(error) === 'EINVAL') throw noDirect(names, error)
    throw systemError(error, `Could not open '${names.path}'`, names)
  }
}

async function sizeOf(kind: FileKind, opened: OpenFile): Promise<number> {
  try {
    const stats = await opened.during((fd) => fstat(fd))
    return kind === 'file' ? stats.size : await deviceSize(opened, stats)
  } catch (error) {
    throw opened.fail(error, 'asking for the size')
  }
}

function mayLock(options: FileOptions, { path, node, sys }: OpenFile): boolean {
  if (options.locking === 'off') return false
  if (sys.supported.locks) return true
  const reason = 'this system, or Node without koffi, has no OFD locks'
  if (options.locking === 'on') {
    throw new BlockError('UNSUPPORTED', `locking=on for ${path}: ${reason}`, { path, node })
  }
  unlocked.publish({ path, node, reason })
  return false
}

function nativeNeedsDirect(): BlockError {
  return new BlockError(
    'INVALID_ARGUMENT',
    'aio=native was specified, but it requires cache.direct=on, which was not specified.',
  )
}

/** `file:PATH`. A plain path is the graph's to judge: it may be a device as well. */
function prefixedName(driver: string, filename: string): NodeOptions | undefined {
  const prefix = `${driver}:`
  if (filename.startsWith(prefix)) return { driver, filename: filename.slice(prefix.length) }
}
