/** File systems and devices for tests, where this machine lets us make them. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs'

/** Something that has to be taken down, or the reason why it could not be put up. */
export type Setup =
  | { readonly path: string; readonly refused?: undefined; down(): void }
  | { readonly path?: undefined; readonly refused: string; down(): void }

function attempt(up: () => { path: string; down(): void }): Setup {
  try {
    return up()
  } catch (error) {
    const refused = error instanceof Error ? error.message.split('\n')[0] : String(error)
    return { refused, down: () => {} }
  }
}

function quietly(command: string, ...args: string[]): string {
  return execFileSync(command, args, { stdio: ['ignore', 'pipe', 'ignore'], encoding: 'utf8' })
}

/** A file system in memory that is full after `size` bytes, mounted at `path`. */
export function mountTmpfs(path: string, size: number): Setup {
  return attempt(() => {
    mkdirSync(path)
    quietly('mount', '-t', 'tmpfs', '-o', `size=${size}`, 'varve-test', path)
    return { path, down: () => quietly('umount', path) }
  })
}

/** A block device of `size` bytes over the file `backing`. */
export function loopDevice(backing: string, size: number, sectorSize = 512): Setup {
  return attempt(() => {
    writeFileSync(backing, '')
    truncateSync(backing, size)
    const args = ['--find', '--show', '--sector-size', `${sectorSize}`, backing]
    const device = quietly('losetup', ...args).trim()
    return { path: device, down: () => quietly('losetup', '--detach', device) }
  })
}
