/**
 * New files that appear whole or not at all: they grow under a temporary name next to the final
 * one and receive it when they are complete. Nothing that exists is ever replaced.
 */
import { randomBytes } from 'node:crypto'
import { constants, link, lstat, open, rename, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { BlockError, errnoOf, systemError } from '../../../errors.ts'

/** Throws `EEXIST` when something of that name exists, be it a dangling link. */
export async function refuseExisting(path: string): Promise<void> {
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

/** A name in the same folder that nobody else uses. */
export function temporaryNameFor(path: string): string {
  const unique = randomBytes(6).toString('hex')
  return join(dirname(path), `.${basename(path).slice(0, 200)}.${unique}.partial`)
}

/**
 * Gives a complete file its final name, durably; throws when the name was taken meanwhile. A hard
 * link never replaces anything; file systems without them get a rename.
 */
export async function giveName(temporary: string, path: string): Promise<void> {
  try {
    await link(temporary, path)
    await unlink(temporary)
  } catch (error) {
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'].includes(errnoOf(error) ?? '')) {
      throw error
    }
    await refuseExisting(path)
    await rename(temporary, path)
  }
  await syncDirectory(dirname(path))
}

/** Makes the new name durable. Some file systems cannot; then it is as durable as they make it. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, constants.O_RDONLY).catch(() => undefined)
  await directory?.sync().catch(() => {})
  await directory?.close()
}
