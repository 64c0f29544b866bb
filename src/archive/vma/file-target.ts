/**
 * Extracted devices as raw files. A file has a temporary name until everything has succeeded; its
 * zeroes are holes.
 */
import { constants, type FileHandle, open, rename, unlink } from 'node:fs/promises'
import { systemError } from '../../errors.ts'
import { writeFully } from './io/descriptor.ts'
import type { StateTarget } from './restore.ts'

const newFileMode = 0o644

export class FileTarget implements StateTarget, AsyncDisposable {
  readonly #temporary: string
  readonly #path: string
  readonly #file: FileHandle
  #closed = false

  private constructor(path: string, temporary: string, file: FileHandle) {
    this.#path = path
    this.#temporary = temporary
    this.#file = file
  }

  /** A new file called `temporary`, of `size` zero bytes, that will become `path`. */
  static async create(path: string, temporary: string, size: number): Promise<FileTarget> {
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL
    const failed = (error: unknown) => systemError(error, `Could not create '${temporary}'`)
    const file = await open(temporary, flags, newFileMode).catch((error) => {
      throw failed(error)
    })
    try {
      await file.truncate(size)
      return new FileTarget(path, temporary, file)
    } catch (error) {
      await file.close()
      await unlink(temporary)
      throw failed(error)
    }
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    try {
      await writeFully(this.#file.fd, data, offset)
    } catch (error) {
      const details = { path: this.#temporary, offset }
      throw systemError(error, `Could not write '${this.#temporary}'`, details)
    }
  }

  async setLength(length: number): Promise<void> {
    try {
      await this.#file.truncate(length)
    } catch (error) {
      throw systemError(error, `Could not set the length of '${this.#temporary}'`)
    }
  }

  /** Everything is on stable storage afterwards. */
  async flush(): Promise<void> {
    try {
      await this.#file.datasync()
    } catch (error) {
      throw systemError(error, `Could not flush '${this.#temporary}'`)
    }
  }

  /** Gives the file its final name. */
  async publish(): Promise<void> {
    try {
      await rename(this.#temporary, this.#path)
    } catch (error) {
      throw systemError(error, `Could not rename '${this.#temporary}' to '${this.#path}'`)
    }
  }

  /** Closes the file; what was not published keeps its temporary name. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#file.close()
  }
}
