/**
 * What may differ between two storage daemons that say the same: the one list of it, for written
 * conversations and for random ones. `docs/daemon.md` tells users of it.
 */
import type { Message } from './qmp-talk.ts'

/** As JSON, whatever the order of members. */
export function inOneOrder(value: unknown): string {
  return JSON.stringify(value, (_, each) =>
    typeof each === 'object' && each !== null && !Array.isArray(each)
      ? Object.fromEntries(Object.entries(each).sort())
      : each,
  )
}

/** Commands whose lists have the order of a hash table in QEMU. */
const unordered = /^(qom-list.*|query-chardev.*)$/

export function inOrder({ execute }: Message, replies: readonly Message[]): unknown {
  if (execute === 'x-debug-query-block-graph') return replies.map(graphByName)
  if (!unordered.test(String(execute))) return replies
  return replies.map((reply) => {
    const { return: list } = reply
    return Array.isArray(list) ? { ...reply, return: sorted(list) } : reply
  })
}

/** Numbers in the description of a graph are given anew with each answer. */
function graphByName(reply: Message): unknown {
  const graph = reply.return as { nodes: Message[]; edges: Message[] } | undefined
  if (!graph) return reply
  const names = new Map(graph.nodes.map(({ id, type, name }) => [id, `${type} ${name}`]))
  const edges = graph.edges.map((edge) => ({
    ...edge,
    parent: names.get(edge.parent),
    child: names.get(edge.child),
  }))
  return { nodes: [...names.values()].sort(), edges: sorted(edges) }
}

export function sorted(list: readonly unknown[]): unknown[] {
  const text = (value: unknown) => JSON.stringify(Object.entries(value as object).sort())
  return list.toSorted((a, b) => (text(a) < text(b) ? -1 : 1))
}

/**
 * Replies without names that are chosen, without what is a matter of the moment, and without the
 * space that images take, which each allocates in its own way.
 */
export function normalised(replies: readonly Message[]): Message[] {
  const text = JSON.stringify(replies, (key, value) => {
    if (key === 'busy' || key === 'actual-size') return undefined
    return value?.format === 'file' ? { ...value, 'virtual-size': 'as it was allocated' } : value
  })
  return JSON.parse(
    text
      .replaceAll(/#block\d+/g, '#block')
      .replaceAll(/(?<=\/dev\/pts\/)\d+/g, 'N')
      .replaceAll(/(?<=127\.0\.0\.1:|0\.0\.0\.0:|:::1:|"port":")\d+/g, 'port'),
  )
}

/** QEMU pauses jobs visibly while it changes the graph. */
export function isDrain(event: Message): boolean {
  const { status } = event.data as Message
  return event.event === 'JOB_STATUS_CHANGE' && (status === 'paused' || status === 'running')
}

export function withoutTime({ event, data }: Message): Message {
  return { event, data: data as Message }
}
