/** Every command of qemu-io, in the order in which `help` lists them. */
import { aioFlush, aioRead, aioWrite } from './aio.ts'
import { breakpoint, removeBreakpoint, resume, waitForBreakpoint } from './breakpoints.ts'
import { abort, close, help, open, quit, reopen, sigraise, sleep } from './control.ts'
import { alloc, flush, info, length, map } from './inspect.ts'
import { read, readv } from './read.ts'
import type { IoCommand } from './session.ts'
import { discard, truncate, write, writev } from './write.ts'

export const commands: readonly IoCommand[] = [
  abort,
  aioFlush,
  aioRead,
  aioWrite,
  alloc,
  breakpoint,
  close,
  discard,
  flush,
  help,
  info,
  length,
  map,
  open,
  quit,
  read,
  readv,
  removeBreakpoint,
  reopen,
  resume,
  sigraise,
  sleep,
  truncate,
  waitForBreakpoint,
  write,
  writev,
]
