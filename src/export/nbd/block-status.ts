/** NBD_CMD_BLOCK_STATUS: a chunk of descriptors for each context that the client selected. */
import type { Completion } from '../../block/layer.ts'
import {
  NBD_CMD_FLAG_REQ_ONE,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
} from '../../wire/nbd/constants.ts'
import { chunkHeaderSize, encodeChunkHeader, type NbdRequest } from '../../wire/nbd/transmission.ts'
import type { CommandContext, SelectedContext } from './command.ts'
import type { StatusRun } from './contexts.ts'
import { maxStatusExtents, maxStatusLookups } from './limits.ts'

/** Sends its reply itself, unless it fails. All contexts are asked before the first is sent. */
export async function blockStatus(context: CommandContext, request: NbdRequest): Promise<void> {
  const runs: StatusRun[][] = []
  for (const selected of context.contexts) runs.push(await runsOf(context, selected, request))
  for (const [index, { id }] of context.contexts.entries()) {
    const last = index === context.contexts.length - 1
    sendRuns(context, request, last ? NBD_REPLY_FLAG_DONE : 0, id, runs[index])
  }
}

/** Neighbouring runs of the same status are one; so is the first, however many lie behind it. */
async function runsOf(
  { io }: CommandContext,
  { context }: SelectedContext,
  request: NbdRequest,
): Promise<StatusRun[]> {
  const { offset, length } = request
  const limit = (request.flags & NBD_CMD_FLAG_REQ_ONE) === 0 ? maxStatusExtents : 1
  const runs: { length: number; flags: number }[] = []
  let at = 0
  for (let lookups = 0; at < length && lookups < maxStatusLookups; lookups++) {
    const answer = context.statusAt(offset + at, length - at, io.read)
    const run = answer instanceof Promise ? await answer : answer
    const last = runs.at(-1)
    if (last?.flags === run.flags) last.length += run.length
    else if (runs.length === limit) break
    else runs.push({ ...run })
    at += run.length
  }
  return runs
}

function sendRuns(
  { queue }: CommandContext,
  request: NbdRequest,
  flags: number,
  id: number,
  runs: readonly StatusRun[],
): Completion {
  const payload = 4 + 8 * runs.length
  const reply = queue.reserve(chunkHeaderSize + payload)
  const { slab, start } = reply
  const { view } = slab
  encodeChunkHeader(view, start, request, flags, NBD_REPLY_TYPE_BLOCK_STATUS, payload)
  let at = start + chunkHeaderSize
  view.setUint32(at, id)
  at += 4
  for (const run of runs) {
    view.setUint32(at, run.length)
    view.setUint32(at + 4, run.flags)
    at += 8
  }
  queue.send(reply, reply.length)
}
