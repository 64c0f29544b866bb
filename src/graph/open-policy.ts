/**
 * The gate for what an image names: its backing file, its data file. An image is input from a
 * stranger, and a name inside it can be any file that this process may read.
 */
import path from 'node:path'
import type { ChildRole } from '../block/layer.ts'
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

/** Allows files in the folder of the image that names them, and below it. */
export const sameFolder: OpenPolicy = (file) => {
  if (file.image === undefined || hasProtocol(file.filename)) throw refusal(file)
  const folder = path.resolve(path.dirname(file.image))
  const target = path.resolve(file.filename)
  if (!target.startsWith(`${folder}${path.sep}`)) throw refusal(file)
}

export function refusal(file: ImpliedFile): BlockError {
  return new BlockError(
    'PERMISSION',
    `${file.image ?? 'the image'} names '${file.recorded}' as its ${file.role} file, which the ` +
      'open policy does not allow; allow it, or name the child yourself',
    { path: file.filename, errno: 'EPERM' },
  )
}
