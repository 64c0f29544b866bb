/** Loads koffi, and through it the functions of the C library that `koffi-sys.ts` calls. */
import { createRequire } from 'node:module'

type Koffi = typeof import('koffi')

/** Numbers, addresses, and memory whose address is passed. */
export type Argument = number | bigint | Uint8Array

type Call = ((...args: Argument[]) => number) & {
  async(...args: unknown[]): void
}

export interface Libc {
  readonly lseek: Call
  readonly fallocate: Call
  readonly fcntl: Call
  /** The same function, for what takes a number. */
  readonly fcntlNumber: Call
  readonly ioctl: Call
  /** Takes the command as its second argument, after the number of the system call. */
  readonly syscall: Call
  /** Absent from musl before 1.2.5. */
  readonly preadv2?: Call
  /** The errno of the last synchronous call. */
  errno(): number
  /** Address of the first byte. */
  address(bytes: ArrayBufferView): bigint
}

/** Undefined where koffi or a function is absent: other systems, 32-bit machines, no prebuilt. */
export function loadLibc(): Libc | undefined {
  if (process.platform !== 'linux' || !has64Bits()) return undefined
  try {
    return bind(loadKoffi())
  } catch {
    return undefined
  }
}

/** The layouts of structures in `koffi-sys.ts` are those of 64-bit Linux. */
function has64Bits(): boolean {
  return ['x64', 'arm64', 'riscv64', 'loong64', 'ppc64', 's390x'].includes(process.arch)
}

/**
 * koffi's own entry takes 8 ms to find its binary; its package for this platform takes 3. Should
 * a later version name it otherwise, the entry is asked after all.
 */
function loadKoffi(): Koffi {
  const require = createRequire(import.meta.url)
  try {
    const direct = createRequire(require.resolve('koffi'))
    return direct(`@koromix/koffi-linux-${process.arch}`) as Koffi
  } catch {
    return require('koffi') as Koffi
  }
}

function bind(koffi: Koffi): Libc {
  // The process itself: whichever C library Node runs on, glibc or musl.
  const libc = koffi.load(null)
  const optional = (name: string, result: string, types: string[]): Call | undefined => {
    try {
      return libc.func(name, result, types) as Call
    } catch {
      return undefined
    }
  }
  return {
    lseek: libc.func('lseek', 'int64', ['int', 'int64', 'int']) as Call,
    fallocate: libc.func('fallocate', 'int', ['int', 'int', 'int64', 'int64']) as Call,
    fcntl: libc.func('fcntl', 'int', ['int', 'int', 'void *']) as Call,
    fcntlNumber: libc.func('fcntl', 'int', ['int', 'int', 'int']) as Call,
    ioctl: libc.func('ioctl', 'int', ['int', 'ulong', 'void *']) as Call,
    syscall: libc.func('syscall', 'long', ['long', 'int', 'int', 'void *', 'size_t']) as Call,
    preadv2: optional('preadv2', 'int64', ['int', 'uintptr_t', 'int', 'int64', 'int']),
    errno: koffi.errno as () => number,
    address: koffi.address,
  }
}
