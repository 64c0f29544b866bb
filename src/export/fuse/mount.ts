/**
 * Mounting the file system that `/dev/fuse` stands for over a regular file. Root calls mount(2); others have
 * `fusermount3` do it, which is allowed to, and sends the descriptor back.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, openSync } from 'node:fs'
import { BlockError, errnoOf, strerror } from '../../errors.ts'
import type { Sys } from '../../sys/sys.ts'
import { maxTransfer } from './limits.ts'

export interface Mount {
  /** Of `/dev/fuse`, non-blocking; whoever closes it ends the file system. */
  readonly fd: number
  /** Whether users other than ours may use the file. */
  readonly allowOther: boolean
  /** Takes it from its place; who has it open keeps it. */
  unmount(): Promise<void>
}

/** `auto`: others may use it if the system permits that. */
export type OthersMay = 'on' | 'off' | 'auto'

const helper = 'fusermount3'
/** Where the helper finds its end of the socket. */
const helperSocket = 3

/** Covers `target`, an absolute path. */
export async function mountFuse(sys: Sys, target: string, others: OthersMay): Promise<Mount> {
  if (!sys.supported.fuse) {
    throw new BlockError('UNSUPPORTED', 'FUSE exports need the C library: install koffi', {
      errno: 'ENOTSUP',
    })
  }
  const attempt = process.getuid?.() === 0 ? mountAsRoot : mountWithHelper
  if (others !== 'auto') return await attempt(sys, target, others === 'on')
  return await attempt(sys, target, true).catch(() => attempt(sys, target, false))
}

function optionsOf(allowOther: boolean): string[] {
  const others = allowOther ? ['allow_other'] : []
  return ['default_permissions', ...others, `max_read=${maxTransfer}`]
}

async function mountAsRoot(sys: Sys, target: string, allowOther: boolean): Promise<Mount> {
  let fd: number | undefined
  try {
    fd = openSync('/dev/fuse', constants.O_RDWR | constants.O_NONBLOCK)
    const own = [`fd=${fd}`, `rootmode=${constants.S_IFREG.toString(8)}`, 'user_id=0', 'group_id=0']
    sys.mountFuse(target, [...own, ...optionsOf(allowOther)].join(','))
  } catch (error) {
    if (fd !== undefined) closeSync(fd)
    throw notMounted(target, strerror(errnoOf(error) ?? 'EIO'), error)
  }
  return { fd, allowOther, unmount: () => sys.unmount(target) }
}

async function mountWithHelper(sys: Sys, target: string, allowOther: boolean): Promise<Mount> {
  const [ours, theirs] = sys.socketPair()
  try {
    const ending = runHelper(['-o', optionsOf(allowOther).join(','), '--', target], theirs)
    closeSync(theirs)
    // Its end closes the socket, so this ends as well.
    const [fd, complaint] = await Promise.all([sys.receiveDescriptor(ours), ending])
    if (fd === undefined) throw notMounted(target, complaint || `${helper} has failed`)
    const unmount = async () => {
      await runHelper(['-u', '-q', '-z', '--', target])
    }
    return { fd, allowOther, unmount }
  } finally {
    closeSync(ours)
  }
}

/** Resolves to what it has to say. */
async function runHelper(args: readonly string[], socket?: number): Promise<string> {
  const env = { ...process.env, _FUSE_COMMFD: String(helperSocket) }
  const stdio = ['ignore', 'ignore', 'pipe', socket ?? 'ignore'] as const
  const child = spawn(helper, args, { env, stdio: [...stdio] })
  let said = ''
  child.stderr?.on('data', (text) => {
    said += text
  })
  try {
    await once(child, 'close')
  } catch (error) {
    return errnoOf(error) === 'ENOENT' ? `it takes root, or ${helper}` : String(error)
  }
  return said.trim()
}

function notMounted(target: string, reason: string, cause?: unknown): BlockError {
  const message = `Failed to mount FUSE session to export: ${reason}`
  return new BlockError('IO', message, { path: target, cause })
}
