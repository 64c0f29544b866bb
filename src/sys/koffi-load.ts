/** Loads koffi, and through it the functions of the C library that `koffi-sys.ts` calls. */
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'

type Koffi = typeof import('koffi')

/** Numbers, addresses, and memory whose address is passed. */
export type Argument = number | bigint | Uint8Array

export type Call = ((...args: Argument[]) => number) & {
  async(...args: unknown[]): void
}

export interface Libc {
  readonly lseek: Call
  readonly fallocate: Call
  readonly fcntl: Call
  /** The same function, for what takes a number. */
  readonly fcntlNumber: Call
  readonly ioctl: Call
  /** The same function, for what takes a number. */
  readonly ioctlNumber: Call
  /** Takes the command as its second argument, after the number of the system call. */
  readonly syscall: Call
  readonly poll: Call
  readonly eventfd: Call
  readonly socketpair: Call
  readonly mount: Call
  readonly umount2: Call
  /** Absent from musl before 1.2.5. */
  readonly preadv2?: Call
  readonly sync_file_range?: Call
  /** Of glibc. */
  readonly malloc_trim?: Call
  /** The errno of the last synchronous call. */
  errno(): number
  /** Address of the first byte. */
  address(bytes: ArrayBufferView): bigint
  /** Another function; throws where it is absent. */
  bind(name: string, result: string, types: string[]): Call
  /** The memory at an address. */
  view(address: bigint, length: number): ArrayBuffer
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
 * koffi's own entry takes 8 ms to find its binary, its package for this platform 3, the binary
 * alone 1. Should a later version name it otherwise, or lie elsewhere, the others are asked.
 */
function loadKoffi(): Koffi {
  const { arch } = process
  const require = createRequire(import.meta.filename)
  const ways = [
    () => require(`@koromix/koffi-linux-${arch}/linux_${arch}/koffi.node`),
    () => createRequire(require.resolve('koffi'))(`@koromix/koffi-linux-${arch}`),
  ]
  // Where there is musl, its package finds out which of its binaries Node can take.
  if (existsSync(`/lib/ld-musl-${muslNames[arch] ?? arch}.so.1`)) ways.shift()
  for (const way of ways) {
    try {
      return way() as Koffi
    } catch {}
  }
  return require('koffi') as Koffi
}

const muslNames: Readonly<Record<string, string>> = { x64: 'x86_64', arm64: 'aarch64' }

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
    ioctlNumber: libc.func('ioctl', 'int', ['int', 'ulong', 'ulong']) as Call,
    syscall: libc.func('syscall', 'long', ['long', 'int', 'int', 'void *', 'size_t']) as Call,
    socketpair: libc.func('socketpair', 'int', ['int', 'int', 'int', 'void *']) as Call,
    eventfd: libc.func('eventfd', 'int', ['uint', 'int']) as Call,
    mount: libc.func('mount', 'int', ['void *', 'void *', 'void *', 'ulong', 'void *']) as Call,
    umount2: libc.func('umount2', 'int', ['void *', 'int']) as Call,
    poll: libc.func('poll', 'int', ['void *', 'ulong', 'int']) as Call,
    preadv2: optional('preadv2', 'int64', ['int', 'uintptr_t', 'int', 'int64', 'int']),
    sync_file_range: optional('sync_file_range', 'int', ['int', 'int64', 'int64', 'uint']),
    malloc_trim: optional('malloc_trim', 'int', ['size_t']),
    errno: koffi.errno as () => number,
    address: koffi.address,
    bind: (name, result, types) => libc.func(name, result, types) as Call,
    view: koffi.view,
  }
}
