/** Names inside an archive become file names when it is extracted: what they may look like. */
import { BlockError } from '../../errors.ts'

/** Bytes of UTF-8; leaves room for the `tmp-disk-` and `.raw` of an extracted file. */
const maxNameBytes = 240

/** The base name under which a configuration file is stored. Throws when there is none. */
export function configNameOf(path: string): string {
  const name = path.slice(path.lastIndexOf('/') + 1)
  if (!isFileName(name)) {
    throw new BlockError(
      'INVALID_ARGUMENT',
      `'${printable(path)}' cannot name a configuration file`,
    )
  }
  return name
}

export function checkDeviceName(name: string): void {
  if (!isFileName(name)) {
    throw new BlockError(
      'INVALID_ARGUMENT',
      `'${printable(name)}' cannot name a device of an archive`,
    )
  }
}

function hasControls(name: string): boolean {
  return printable(name) !== name
}

/** The name as messages and lists show it: control characters, which forge lines, as `\x0a`. */
export function printable(name: string): string {
  return name.replaceAll(/\p{Cc}/gu, (control) => {
    return `\\x${control.charCodeAt(0).toString(16).padStart(2, '0')}`
  })
}

/** Whether a name from an archive can be used as a file name inside a directory. */
export function isFileName(name: string): boolean {
  return (
    name !== '' &&
    name !== '.' &&
    name !== '..' &&
    !name.includes('/') &&
    !hasControls(name) &&
    Buffer.byteLength(name) <= maxNameBytes
  )
}
