/**
 * The gate for what an image names: its backing file, its data file. An image is input from a
 * stranger, and a name inside it can be any file that this process may read.
 */
import { realpath } from 'node:fs/promises'
import path from 'node:path'
import type { ChildRole } from '../block/permission.ts'
import { BlockError } from '../errors.ts'
import { hasProtocol } from './filename.ts'

export interface ImpliedFile {
  readonly role: ChildRole
  /** What would be opened. */
  readonly filename: string
  /** As the image records it. */
  readonly recorded: string
  readonly format?: string
  /** The image that names it. */
  readonly image?: string
}

/** Returns to allow, throws (usually `refuse(file)`) to forbid. */
export type OpenPolicy = (file: ImpliedFile) => void | Promise<void>

/** For tools whose user chose the image and trusts it, as qemu-img does. */
export const allowAll: OpenPolicy = () => {}

export const refuseAll: OpenPolicy = (file) => {
  throw refusal(file)
}

/**
 * Allows files in the folder of the image that names them, and below it. Links are followed first:
 * one that leads out of the folder does not bring its target in.
 */
export const sameFolder: OpenPolicy = async (file) => {
  if (file.image === undefined || hasProtocol(file.filename)) throw refusal(file)
  const folder = await realPath(path.dirname(file.image))
  const target = await realPath(file.filename)
  if (!target.startsWith(folder.endsWith(path.sep) ? folder : `${folder}${path.sep}`)) {
    throw refusal(file)
  }
}

/** Without links; of what does not exist, as far as it does. */
async function realPath(name: string): Promise<string> {
  const absolute = path.resolve(name)
  try {
    return await realpath(absolute)
  } catch {
    const parent = path.dirname(absolute)
    return parent === absolute
      ? absolute
      : path.join(await realPath(parent), path.basename(absolute))
  }
}

export function refusal(file: ImpliedFile): BlockError {
  return new BlockError(
    'PERMISSION',
    `${file.image ?? 'the image'} names '${file.recorded}' as its ${file.role} file, which the ` +
      'open policy does not allow; allow it, or name the child yourself',
    { path: file.filename, errno: 'EPERM' },
  )
}
