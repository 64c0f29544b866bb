/**
 * Zeroes and holes without writing bytes, as far as the file system goes along. What it has once
 * refused as unknown is not asked for again.
 */
import { errnoOf } from '../../errors.ts'
import type { AllocateMode } from '../../sys/sys.ts'
import type { OpenFile } from './open-file.ts'

export class Zeroing {
  readonly #file: OpenFile
  readonly #refused = new Set<AllocateMode>()

  constructor(file: OpenFile) {
    this.#file = file
    if (!file.sys.supported.fallocate) {
      for (const mode of ['punch', 'zero', 'allocate'] as const) this.#refused.add(mode)
    }
  }

  get canPunch(): boolean {
    return !this.#refused.has('punch')
  }

  /** Whether `zero` has a way that is still believed to work. */
  get canZero(): boolean {
    return !this.#refused.has('zero') || this.canPunch
  }

  /** Deallocates; false when this file system cannot. */
  punch(offset: number, length: number): Promise<boolean> {
    return this.#try('punch', offset, length)
  }

  /**
   * Makes the range, which lies inside the file, read as zeroes; false when only writing them
   * is left. Without `mayUnmap` the space stays reserved, if need be by a hole that is filled.
   */
  async zero(offset: number, length: number, mayUnmap: boolean): Promise<boolean> {
    if (mayUnmap && (await this.punch(offset, length))) return true
    if (await this.#try('zero', offset, length)) return true
    if (mayUnmap || this.#refused.has('allocate')) return false
    return (await this.punch(offset, length)) && (await this.#try('allocate', offset, length))
  }

  async #try(mode: AllocateMode, offset: number, length: number): Promise<boolean> {
    if (this.#refused.has(mode)) return false
    const file = this.#file
    try {
      await file.during((fd) => file.sys.fallocate(fd, mode, offset, length))
      return true
    } catch (error) {
      const errno = errnoOf(error)
      // A device takes whole blocks only (EINVAL): that says nothing about the next range.
      if (errno === 'EINVAL') return false
      if (
        errno !== 'EOPNOTSUPP' &&
        errno !== 'ENOTSUP' &&
        errno !== 'ENOSYS' &&
        errno !== 'ENODEV'
      ) {
        throw file.fail(error, `${doing[mode]} ${length} bytes`, offset)
      }
      this.#refused.add(mode)
      return false
    }
  }
}

const doing: Readonly<Record<AllocateMode, string>> = {
  punch: 'deallocating',
  zero: 'zeroing',
  'zero-extend': 'zeroing',
  allocate: 'allocating',
}
