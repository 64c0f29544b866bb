/**
 * An archive as a new file. It grows under a temporary name next to the final one and receives
 * the final name when it is complete and on stable storage, so that a half archive is never
 * mistaken for a whole one, and nothing that exists is ever overwritten.
 */
import { constants, type FileHandle, open, unlink } from 'node:fs/promises'
import { systemError } from '../../../errors.ts'
import { writeFully } from './descriptor.ts'
import { giveName, refuseExisting, temporaryNameFor } from './new-name.ts'
import type { ArchiveSink } from './sink.ts'

const newFileMode = 0o644

export class FileSink implements ArchiveSink {
  readonly #path: string
  readonly #temporary: string
  readonly #file: FileHandle
  #offset = 0
  /** Writes under way; the file is closed after them. */
  readonly #writes = new Set<Promise<void>>()
  #named = true

  private constructor(path: string, temporary: string, file: FileHandle) {
    this.#path = path
    this.#temporary = temporary
    this.#file = file
  }

  /** Fails with `EEXIST` when something of that name exists, be it a dangling link. */
  static async create(path: string): Promise<FileSink> {
    await refuseExisting(path)
    const temporary = temporaryNameFor(path)
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL
    try {
      return new FileSink(path, temporary, await open(temporary, flags, newFileMode))
    } catch (error) {
      throw systemError(error, `Could not create '${path}'`, { path })
    }
  }

  async write(bytes: Uint8Array): Promise<void> {
    const offset = this.#offset
    this.#offset += bytes.length
    const writing = writeFully(this.#file.fd, bytes, offset)
    this.#writes.add(writing)
    try {
      await writing
    } catch (error) {
      throw systemError(error, `Could not write '${this.#path}'`, { path: this.#path, offset })
    } finally {
      this.#writes.delete(writing)
    }
  }

  async finish(): Promise<void> {
    try {
      await this.#file.datasync()
      await this.#file.close()
      await giveName(this.#temporary, this.#path)
      this.#named = false
    } catch (error) {
      throw systemError(error, `Could not complete '${this.#path}'`, { path: this.#path })
    }
  }

  async abort(): Promise<void> {
    await Promise.allSettled(this.#writes)
    await this.#file.close().catch(() => {})
    if (this.#named) await unlink(this.#temporary).catch(() => {})
    this.#named = false
  }
}
