import { getSystemErrorName } from 'node:util'

/** Those of Linux that Node has no names for. */
const keyErrors: Readonly<Record<number, string>> = {
  126: 'ENOKEY',
  127: 'EKEYEXPIRED',
  128: 'EKEYREVOKED',
  129: 'EKEYREJECTED',
}

/** The error of a failed system call, in the shape of Node's own. */
export function sysError(syscall: string, errno: number): NodeJS.ErrnoException {
  const code = keyErrors[errno] ?? getSystemErrorName(-errno)
  return Object.assign(new Error(`${code}: ${syscall}`), { code, syscall, errno: -errno })
}

export function notSupported(syscall: string): NodeJS.ErrnoException {
  const code = 'ENOTSUP'
  return Object.assign(new Error(`${code}: ${syscall}`), { code, syscall })
}
