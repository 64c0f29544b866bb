import { getSystemErrorName } from 'node:util'

/** The error of a failed system call, in the shape of Node's own. */
export function sysError(syscall: string, errno: number): NodeJS.ErrnoException {
  const code = getSystemErrorName(-errno)
  return Object.assign(new Error(`${code}: ${syscall}`), { code, syscall, errno: -errno })
}

export function notSupported(syscall: string): NodeJS.ErrnoException {
  const code = 'ENOTSUP'
  return Object.assign(new Error(`${code}: ${syscall}`), { code, syscall })
}
