/**
 * The files that a restore makes in one folder. They have temporary names until everything has
 * been written, checked and flushed; then all of them get their final names, or none does.
 */
import { constants, mkdir, open, rmdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { giveName, refuseExisting, temporaryNameFor } from '../../archive/vma/io/new-name.ts'
import { BlockError, errnoOf, systemError } from '../../errors.ts'

export interface NewFile {
  /** Its final name. */
  readonly path: string
  /** Its name for now; nothing is there yet. */
  readonly temporary: string
}

export class NewFiles implements AsyncDisposable {
  readonly folder: string
  /** Folders made for this, outermost first. */
  readonly #made: readonly string[]
  readonly #files: NewFile[] = []
  #published = false

  private constructor(folder: string, made: readonly string[]) {
    this.folder = folder
    this.#made = made
  }

  /** `folders`: each is made when it is missing; the files go into the last. */
  static async open(folders: readonly string[]): Promise<NewFiles> {
    const made: string[] = []
    try {
      for (const folder of folders) if (await makeFolder(folder)) made.push(folder)
    } catch (error) {
      await removeFolders(made)
      throw error
    }
    return new NewFiles(folders.at(-1)!, made)
  }

  /** Refuses a name that exists or that was asked for already. */
  async add(name: string): Promise<NewFile> {
    const path = join(this.folder, name)
    if (this.#files.some((file) => file.path === path)) {
      throw new BlockError('UNSUPPORTED', `two files of the archive would be called '${path}'`, {
        path,
      })
    }
    await refuseExisting(path)
    const file = { path, temporary: temporaryNameFor(path) }
    this.#files.push(file)
    return file
  }

  /** The files are complete: puts them on stable storage and gives them their names. */
  async publish(): Promise<void> {
    for (const { temporary } of this.#files) await syncFile(temporary)
    const named: string[] = []
    try {
      for (const { path, temporary } of this.#files) {
        await giveName(temporary, path)
        named.push(path)
      }
    } catch (error) {
      for (const path of named) await unlink(path)
      throw systemError(error, `Could not complete the files in '${this.folder}'`)
    }
    this.#published = true
  }

  /** What was not published disappears, folders included. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#published) return
    for (const { temporary } of this.#files.splice(0)) await unlink(temporary).catch(() => {})
    await removeFolders(this.#made)
  }
}

/** False when it exists. */
async function makeFolder(path: string): Promise<boolean> {
  try {
    await mkdir(path)
    return true
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return false
    throw systemError(error, `Could not create the folder '${path}'`, { path })
  }
}

async function removeFolders(folders: readonly string[]): Promise<void> {
  for (const folder of folders.toReversed()) await rmdir(folder).catch(() => {})
}

async function syncFile(path: string): Promise<void> {
  try {
    const file = await open(path, constants.O_RDONLY)
    await file.datasync().finally(() => file.close())
  } catch (error) {
    throw systemError(error, `Could not flush '${path}'`, { path })
  }
}
