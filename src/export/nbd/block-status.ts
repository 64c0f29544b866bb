/** NBD_CMD_BLOCK_STATUS: a chunk of descriptors for each context that the client selected. */
import type { Completion } from '../../block/layer.ts'
import { viewOf } from '../../bytes/view.ts'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_REPLY_FLAG_DONE,
} from '../../wire/nbd/constants.ts'
import { decodeU64, type NbdRequest } from '../../wire/nbd/transmission.ts'
import type { CommandContext, SelectedContext } from './command.ts'
import type { StatusRun } from './contexts.ts'
import { maxStatusExtents, maxStatusLookups } from './limits.ts'

/** Whether a payload says what part of the export, and which contexts, the request is about. */
export function wantsFewerContexts({ type, flags }: NbdRequest): boolean {
  return type === NBD_CMD_BLOCK_STATUS && (flags & NBD_CMD_FLAG_PAYLOAD_LEN) !== 0
}

/** What such a request asks; undefined when its payload makes no sense. */
export function narrowed(
  context: CommandContext,
  request: NbdRequest,
  payload: Uint8Array | undefined,
): { readonly context: CommandContext; readonly request: NbdRequest } | undefined {
  if (!payload || payload.length < 8 || payload.length % 4 !== 0) return undefined
  const view = viewOf(payload)
  const contexts = new Set<SelectedContext>()
  for (let at = 8; at < payload.length; at += 4) {
    const found = context.contexts.find(({ id }) => id === view.getUint32(at))
    // "duplicate or unknown metacontext ids": NBD_EINVAL.
    if (!found || contexts.has(found)) return undefined
    contexts.add(found)
  }
  const flags = request.flags - NBD_CMD_FLAG_PAYLOAD_LEN
  return {
    context: { ...context, contexts: [...contexts] },
    request: { ...request, flags, length: decodeU64(view, 0) },
  }
}

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
  { queue, layout }: CommandContext,
  request: NbdRequest,
  flags: number,
  id: number,
  runs: readonly StatusRun[],
): Completion {
  const { status } = layout
  const payload = status.headSize + status.size * runs.length
  const reply = queue.reserve(layout.chunkHeaderSize + payload)
  const { slab, start } = reply
  const { view } = slab
  layout.encodeChunkHeader(view, start, request, flags, status.type, payload)
  let at = start + layout.chunkHeaderSize
  status.encodeHead(view, at, id, runs.length)
  at += status.headSize
  for (const run of runs) {
    status.encode(view, at, run.length, run.flags)
    at += status.size
  }
  queue.send(reply, reply.length)
}
