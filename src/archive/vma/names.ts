/** Names inside an archive become file names when it is extracted: what they may look like. */
import { BlockError } from '../../errors.ts'

/** Bytes of UTF-8; leaves room for the `tmp-disk-` and `.raw` of an extracted file. */
const maxNameBytes = 240

/** The base name under which a configuration file is stored. Throws when there is none. */
export function configNameOf(path: string): string {
  const name = path.slice(path.lastIndexOf('/') + 1)
  if (!isFileName(name)) {
    throw new BlockError('INVALID_ARGUMENT', `'${path}' cannot name a configuration file`)
  }
  return name
}

export function checkDeviceName(name: string): void {
  if (!isFileName(name)) {
    throw new BlockError('INVALID_ARGUMENT', `'${name}' cannot name a device of an archive`)
  }
}

/** Whether a name from an archive can be used as a file name inside a directory. */
export function isFileName(name: string): boolean {
  return (
    name !== '' &&
    name !== '.' &&
    name !== '..' &&
    !name.includes('/') &&
    !name.includes('\0') &&
    Buffer.byteLength(name) <= maxNameBytes
  )
}
