/**
 * A file without a name for data that need not outlive the process: it is unlinked as soon as it
 * is open, so that nothing is left of it however the process ends. Nobody else can read it.
 */
import { randomUUID } from 'node:crypto'
import fs from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { Io, WriteIo } from '../../block/layer.ts'
import type { SpillStorage } from '../../block/spill-area.ts'
import { systemError } from '../../errors.ts'
import { sys } from '../../sys/current.ts'
import { OpenFile } from './open-file.ts'
import { readInPool, writeInPool } from './pool-io.ts'
import { Zeroing } from './zeroing.ts'

export class SpillFile implements SpillStorage {
  readonly #file: OpenFile
  readonly #zeroing: Zeroing

  private constructor(file: OpenFile) {
    this.#file = file
    this.#zeroing = new Zeroing(file)
  }

  static async create(folder: string = spillFolder()): Promise<SpillFile> {
    const name = path.join(folder, `varve-spill-${randomUUID()}`)
    try {
      await fs.promises.writeFile(name, '', { flag: 'wx', mode: 0o600 })
      try {
        const names = { path: name, node: '' }
        return new SpillFile(await OpenFile.open(names, fs.constants.O_RDWR, sys()))
      } finally {
        await fs.promises.unlink(name)
      }
    } catch (error) {
      throw systemError(error, `Could not make a spill file in '${folder}'`, { path: folder })
    }
  }

  read(offset: number, target: Uint8Array, _io: Io): Promise<void> {
    return readInPool(this.#file, target, 0, offset)
  }

  write(offset: number, source: Uint8Array, _io: WriteIo): Promise<void> {
    return writeInPool(this.#file, source, 0, offset)
  }

  async discard(offset: number, length: number, _io: Io): Promise<void> {
    await this.#zeroing.punch(offset, length)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close()
  }
}

/** As QEMU chooses for its temporary files: they may be large, and `/tmp` may be memory. */
export function spillFolder(): string {
  if (process.env.TMPDIR) return process.env.TMPDIR
  return fs.existsSync('/var/tmp') ? '/var/tmp' : tmpdir()
}
