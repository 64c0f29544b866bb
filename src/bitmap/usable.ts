/** Whether an operation may take a bitmap, by the rules and in the words of QEMU. */
import { BlockError } from '../errors.ts'
import type { DirtyBitmap } from './dirty-bitmap.ts'

export interface Allowed {
  readonly busy?: boolean
  readonly readOnly?: boolean
  readonly inconsistent?: boolean
}

/** Throws when the bitmap is busy, read-only or inconsistent and that is not `allowed`. */
export function checkUsable(bitmap: DirtyBitmap, allowed: Allowed = {}): void {
  const name = `Bitmap '${bitmap.name}'`
  if (bitmap.busy !== undefined && !allowed.busy) {
    const message = `${name} is currently in use by another operation and cannot be used`
    throw new BlockError('BUSY', message, { errno: 'EBUSY' })
  }
  if (bitmap.readOnly && !allowed.readOnly) {
    const message = `${name} is readonly and cannot be modified`
    throw new BlockError('READ_ONLY', message, { errno: 'EPERM' })
  }
  if (bitmap.inconsistent && !allowed.inconsistent) {
    const message = `${name} is inconsistent and cannot be used`
    throw new InconsistentBitmap(message)
  }
}

/** People are told what can be done about it. */
export class InconsistentBitmap extends BlockError {
  readonly hint = 'Try block-dirty-bitmap-remove to delete this bitmap from disk'

  constructor(message: string) {
    super('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
  }
}
