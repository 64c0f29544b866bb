/** An archive that a daemon writes and this process passes on: a FIFO in a private folder. */
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { promisify } from 'node:util'
import { openReadable } from '../../archive/vma/io/open-source.ts'
import { systemError } from '../../errors.ts'
import { print } from '../vma/support.ts'

export class PipedArchive implements AsyncDisposable {
  /** What the daemon is told to write. */
  readonly path: string
  readonly #folder: string
  readonly #input: Readable

  private constructor(folder: string, path: string, input: Readable) {
    this.#folder = folder
    this.path = path
    this.#input = input
    // `copyTo` reports it; before and after, it is of no interest.
    input.on('error', () => {})
  }

  static async create(): Promise<PipedArchive> {
    // Readable by the user alone.
    const folder = await mkdtemp(join(tmpdir(), 'varve-backup-')).catch((error) => {
      throw systemError(error, `Could not make a temporary folder in '${tmpdir()}'`)
    })
    const path = join(folder, 'archive.vma')
    try {
      await promisify(execFile)('mkfifo', ['-m', '600', path])
      return new PipedArchive(folder, path, await openReadable(path))
    } catch (error) {
      await rm(folder, { recursive: true, force: true })
      throw systemError(error, `Could not make the pipe '${path}'`, { path })
    }
  }

  /** Passes everything on; resolves to the number of bytes when the daemon has closed its end. */
  async copyTo(output: Writable): Promise<number> {
    let bytes = 0
    for await (const chunk of this.#input as AsyncIterable<Buffer>) {
      await print(output, chunk)
      bytes += chunk.length
    }
    return bytes
  }

  /** Whoever writes gets an error from now on. */
  close(): void {
    this.#input.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close()
    await rm(this.#folder, { recursive: true, force: true })
  }
}
