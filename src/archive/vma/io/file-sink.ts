/**
 * An archive as a new file. It grows under a temporary name next to the final one and receives
 * the final name when it is complete and on stable storage, so that a half archive is never
 * mistaken for a whole one, and nothing that exists is ever overwritten.
 */
import { randomBytes } from 'node:crypto'
import { constants, type FileHandle, link, lstat, open, rename, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { BlockError, errnoOf, systemError } from '../../../errors.ts'
import { writeFully } from './descriptor.ts'
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
    const unique = randomBytes(6).toString('hex')
    const temporary = join(dirname(path), `.${basename(path).slice(0, 200)}.${unique}.partial`)
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
      await this.#publish()
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

  /** A hard link never replaces anything; file systems without them get a rename. */
  async #publish(): Promise<void> {
    try {
      await link(this.#temporary, this.#path)
      await unlink(this.#temporary)
    } catch (error) {
      if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'].includes(errnoOf(error) ?? '')) {
        throw error
      }
      await refuseExisting(this.#path)
      await rename(this.#temporary, this.#path)
    }
    this.#named = false
    await syncDirectory(dirname(this.#path))
  }
}

async function refuseExisting(path: string): Promise<void> {
  const found = await lstat(path).catch((error) => {
    if (errnoOf(error) === 'ENOENT') return undefined
    throw systemError(error, `Could not create '${path}'`, { path })
  })
  if (found) {
    throw new BlockError('INVALID_ARGUMENT', `Could not create '${path}': it exists already`, {
      path,
      errno: 'EEXIST',
    })
  }
}

/** Makes the new name durable. Some file systems cannot; then it is as durable as they make it. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, constants.O_RDONLY).catch(() => undefined)
  await directory?.sync().catch(() => {})
  await directory?.close()
}
