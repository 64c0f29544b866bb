/** An ext4 file system of real files, made without being root: `mke2fs -d`. */
import { execFile } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { copyFile, mkdir, opendir, realpath, rm, stat } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

export interface FileSystem {
  readonly files: number
  /** Bytes of the files' content. */
  readonly bytes: number
}

/** Limits of what goes into a file system. */
export interface Amount {
  readonly files: number
  readonly bytes: number
}

/** Debian keeps these where an ordinary user's PATH does not lead. */
export function findTool(name: string): string {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']
  const found = folders.map((folder) => join(folder, name)).find(isExecutable)
  if (found) return found
  throw new Error(`${name} is missing; it is in Debian's package e2fsprogs`)
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/**
 * Makes a file system of `size` bytes in a new file, of copies of files from `sources`, in their
 * order, until the amount is reached. Copies are made in `staging`, which is removed.
 */
export async function makeFileSystem(
  image: string,
  size: number,
  sources: readonly string[],
  amount: Amount,
  staging: string,
  signal: AbortSignal,
): Promise<FileSystem> {
  try {
    const copied = await copyTrees(sources, staging, amount, signal)
    const options = ['-q', '-F', '-t', 'ext4', '-b', '4096', '-m', '0', '-L', 'varve-demo']
    await run(findTool('mke2fs'), [...options, '-d', staging, image, `${size / 1024}k`], { signal })
    return copied
  } finally {
    await rm(staging, { recursive: true, force: true })
  }
}

/** What e2fsck says; empty when the file system is clean. Nothing is repaired. */
export async function checkFileSystem(image: string, signal: AbortSignal): Promise<string> {
  try {
    await run(findTool('e2fsck'), ['-f', '-n', image], { signal })
    return ''
  } catch (error) {
    if (signal.aborted) throw error
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string }
    return `${stdout}${stderr}`.trim() || String(error)
  }
}

async function copyTrees(
  sources: readonly string[],
  target: string,
  amount: Amount,
  signal: AbortSignal,
): Promise<FileSystem> {
  const copied = { files: 0, bytes: 0 }
  await mkdir(target)
  for (const [index, source] of sources.entries()) {
    const root = await realpath(source).catch(() => undefined)
    if (root) await copyTree(root, join(target, String(index)), copied, amount, signal)
  }
  return copied
}

/** Regular files that may be read; a file that would be too much is left out. */
async function copyTree(
  source: string,
  target: string,
  copied: { files: number; bytes: number },
  amount: Amount,
  signal: AbortSignal,
): Promise<void> {
  const folder = await opendir(source).catch(() => undefined)
  if (!folder) return
  await mkdir(target, { recursive: true })
  for await (const entry of folder) {
    signal.throwIfAborted()
    if (enough(copied, amount)) return
    const [from, to] = [join(source, entry.name), join(target, entry.name)]
    if (entry.isDirectory()) {
      await copyTree(from, to, copied, amount, signal)
    } else if (entry.isFile()) {
      const { size } = await stat(from)
      if (copied.bytes + size > amount.bytes || !(await tryCopy(from, to))) continue
      copied.files++
      copied.bytes += size
    }
  }
}

/** Nearly full is full: not all of a large tree is looked through for a last small file. */
function enough(copied: FileSystem, amount: Amount): boolean {
  return copied.files >= amount.files || copied.bytes >= 0.98 * amount.bytes
}

async function tryCopy(from: string, to: string): Promise<boolean> {
  try {
    await copyFile(from, to, constants.COPYFILE_FICLONE)
    return true
  } catch {
    return false
  }
}
