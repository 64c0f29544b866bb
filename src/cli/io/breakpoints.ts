/**
 * Breakpoints stop a request at an event inside a blkdebug node. Varve has none, so these commands
 * answer as qemu-io does for an image without one. Only `wait_break` differs: where qemu-io would
 * wait for ever, it is refused.
 */
import { CommandError } from './outcome.ts'
import type { IoCommand } from './session.ts'

const unsupported = 'Operation not supported'

export const breakpoint: IoCommand = {
  name: 'break',
  arguments: 'event tag',
  summary: 'sets a breakpoint on event and tags the stopped request as tag',
  least: 2,
  most: 2,
  run() {
    throw new CommandError(`Could not set breakpoint: ${unsupported}`)
  },
}

export const removeBreakpoint: IoCommand = {
  name: 'remove_break',
  arguments: 'tag',
  summary: 'remove a breakpoint by tag',
  least: 1,
  most: 1,
  run(words) {
    throw new CommandError(`Could not remove breakpoint ${words[1]}: ${unsupported}`)
  },
}

export const resume: IoCommand = {
  name: 'resume',
  arguments: 'tag',
  summary: 'resumes the request tagged as tag',
  least: 1,
  most: 1,
  run() {
    throw new CommandError(`Could not resume request: ${unsupported}`)
  },
}

export const waitForBreakpoint: IoCommand = {
  name: 'wait_break',
  arguments: 'tag',
  summary: 'waits for the suspension of a request',
  least: 1,
  most: 1,
  run(words) {
    throw new CommandError(`Could not wait for breakpoint ${words[1]}: ${unsupported}`)
  },
}
