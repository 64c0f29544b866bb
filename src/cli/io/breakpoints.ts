/**
 * Breakpoints stop a request at an event inside a blkdebug node, which is looked for below the
 * image. `wait_break` without one, for which qemu-io would wait for ever, is refused.
 */
import type { Breakpoints } from '../../block/debug.ts'
import { BlockError } from '../../errors.ts'
import { breakpointChannel } from '../../filter/blkdebug/blkdebug.ts'
import type { BlockNode } from '../../graph/node.ts'
import { CommandError } from './outcome.ts'
import type { IoCommand, Session } from './session.ts'

const unsupported = 'Operation not supported'
const notFound = 'No such file or directory'

export const breakpoint: IoCommand = {
  name: 'break',
  arguments: 'event tag',
  summary: 'sets a breakpoint on event and tags the stopped request as tag',
  least: 2,
  most: 2,
  run([, event, tag], session) {
    const what = 'Could not set breakpoint'
    try {
      breakpointsOf(session, what).set(event, tag)
    } catch (error) {
      throw error instanceof BlockError ? new CommandError(`${what}: ${notFound}`) : error
    }
  },
}

export const removeBreakpoint: IoCommand = {
  name: 'remove_break',
  arguments: 'tag',
  summary: 'remove a breakpoint by tag',
  least: 1,
  most: 1,
  run([, tag], session) {
    const what = `Could not remove breakpoint ${tag}`
    if (!breakpointsOf(session, what).remove(tag)) throw new CommandError(`${what}: ${notFound}`)
  },
}

export const resume: IoCommand = {
  name: 'resume',
  arguments: 'tag',
  summary: 'resumes the request tagged as tag',
  least: 1,
  most: 1,
  run([, tag], session) {
    const what = 'Could not resume request'
    if (!breakpointsOf(session, what).resume(tag)) throw new CommandError(`${what}: ${notFound}`)
  },
}

export const waitForBreakpoint: IoCommand = {
  name: 'wait_break',
  arguments: 'tag',
  summary: 'waits for the suspension of a request',
  least: 1,
  most: 1,
  run([, tag], session) {
    return breakpointsOf(session, `Could not wait for breakpoint ${tag}`).suspended(tag)
  },
}

/** Those of the first blkdebug below the image, through `file` children. */
function breakpointsOf(session: Session, what: string): Breakpoints {
  let node: BlockNode | undefined = session.image.node
  while (node) {
    if (node.layer.breakpoints) return node.layer.breakpoints
    node = primaryChild(node)
  }
  throw new CommandError(`${what}: ${unsupported}`)
}

function primaryChild(node: BlockNode): BlockNode | undefined {
  const edges = [...node.children.values()]
  return edges.find(({ role }) => role === 'filtered' || role === 'file')?.node
}

/** Prints what happens at breakpoints, as qemu-io does, until it is called again. */
export function showBreakpoints(print: (line: string) => void): () => void {
  const show = (message: unknown) => {
    const { kind, tag } = message as { kind: 'suspended' | 'resumed'; tag: string }
    const verb = kind === 'suspended' ? 'Suspended' : 'Resuming'
    print(`blkdebug: ${verb} request '${tag}'\n`)
  }
  breakpointChannel.subscribe(show)
  return () => breakpointChannel.unsubscribe(show)
}
