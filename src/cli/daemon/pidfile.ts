/**
 * The file that a daemon's process id is in. It is locked for as long as the daemon runs, so that a
 * second one, or QEMU's, does not take the same.
 */
import { constants } from 'node:fs'
import { type FileHandle, open, rm } from 'node:fs/promises'
import { BlockError, errnoOf, strerror } from '../../errors.ts'
import { sys } from '../../sys/current.ts'

const { O_RDWR, O_CREAT } = constants

export class Pidfile implements AsyncDisposable {
  readonly #path: string
  readonly #file: FileHandle

  /** Throws, in QEMU's words, when it cannot be made or is another daemon's. */
  static async write(path: string): Promise<Pidfile> {
    const file = await open(path, O_RDWR + O_CREAT, 0o600).catch((error) => {
      throw refused(`Could not create '${path}'`, error)
    })
    try {
      lock(file)
      await file.truncate()
      await file.write(`${process.pid}\n`)
      return new Pidfile(path, file)
    } catch (error) {
      await file.close()
      throw error instanceof BlockError ? error : refused('Failed to write pid file', error)
    }
  }

  private constructor(path: string, file: FileHandle) {
    this.#path = path
    this.#file = file
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#path, { force: true })
    await this.#file.close()
  }
}

/** On the first byte, which QEMU locks with all others. */
function lock({ fd }: FileHandle): void {
  if (!sys().supported.locks) return
  // Of two that come at once, at least one sees the other's.
  const taken = sys().shareLock(fd, 0) && !sys().lockedElsewhere(fd, 0)
  if (!taken) throw refused('Cannot lock pid file', undefined, 'EAGAIN')
}

function refused(what: string, cause: unknown, errno = errnoOf(cause) ?? 'EIO'): BlockError {
  return new BlockError('IO', `cannot create PID file: ${what}: ${strerror(errno)}`, { cause })
}
