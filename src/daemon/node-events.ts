/** Events of nodes in one daemon's graph that come over diagnostics channels. */
import type { Channel } from 'node:diagnostics_channel'
import { badChildChannel, quorumFailureChannel } from '../filter/quorum.ts'
import type { Graph } from '../graph/graph.ts'
import { thresholdChannel } from '../graph/node.ts'

type Data = Readonly<Record<string, unknown>>
type Emit = (event: string, data: Data) => void

interface QuorumNews {
  readonly node: string
  readonly offset: number
  readonly length: number
}

interface BadChild extends QuorumNews {
  readonly child: string
  readonly type: 'read' | 'write' | 'flush'
  readonly error?: string
}

interface ThresholdNews {
  readonly node: string
  readonly exceeded: number
  readonly threshold: number
}

const sectorSize = 512

/** Returns what ends the reporting. */
export function reportNodes(graph: Graph, emit: Emit): () => void {
  const bad = new PacedEvents(emit, 'QUORUM_REPORT_BAD', (data) => String(data['node-name']))
  const failures = new PacedEvents(emit, 'QUORUM_FAILURE', () => '')
  const ends = [
    () => bad.end(),
    () => failures.end(),
    listen<ThresholdNews>(graph, thresholdChannel, ({ node, exceeded, threshold }) =>
      emit('BLOCK_WRITE_THRESHOLD', {
        'node-name': node,
        'amount-exceeded': exceeded,
        'write-threshold': threshold,
      }),
    ),
    listen<QuorumNews>(graph, quorumFailureChannel, (news) =>
      failures.emit({ reference: news.node, ...sectorsOf(news) }),
    ),
    listen<BadChild>(graph, badChildChannel, ({ child, type, error, ...news }) => {
      const name = graph.nodes.get(news.node)?.children.get(child)?.node.name ?? child
      bad.emit({ type, error, 'node-name': name, ...sectorsOf(news) })
    }),
  ]
  return () => {
    for (const end of ends) end()
  }
}

/** Of events that may come in floods: one a second for each key, and the last of them for certain. */
class PacedEvents {
  readonly #emit: Emit
  readonly #event: string
  readonly #keyOf: (data: Data) => string
  /** The last one that had to wait, by key, while the second is not over. */
  readonly #waiting = new Map<string, { last: Data | undefined; timer: NodeJS.Timeout }>()

  constructor(emit: Emit, event: string, keyOf: (data: Data) => string) {
    this.#emit = emit
    this.#event = event
    this.#keyOf = keyOf
  }

  emit(data: Data): void {
    const key = this.#keyOf(data)
    const waiting = this.#waiting.get(key)
    if (waiting) waiting.last = data
    else this.#send(key, data)
  }

  end(): void {
    for (const { timer } of this.#waiting.values()) clearTimeout(timer)
  }

  #send(key: string, data: Data): void {
    this.#emit(this.#event, data)
    const timer = setTimeout(() => {
      const { last } = this.#waiting.get(key) ?? {}
      this.#waiting.delete(key)
      if (last) this.#send(key, last)
    }, 1000)
    timer.unref()
    this.#waiting.set(key, { last: undefined, timer })
  }
}

function listen<T extends { readonly node: string }>(
  graph: Graph,
  channel: Channel,
  report: (news: T) => void,
): () => void {
  const heard = (message: unknown) => {
    const news = message as T
    if (graph.nodes.has(news.node)) report(news)
  }
  channel.subscribe(heard)
  return () => channel.unsubscribe(heard)
}

function sectorsOf({ offset, length }: QuorumNews) {
  const first = Math.floor(offset / sectorSize)
  const end = Math.ceil((offset + length) / sectorSize)
  return { 'sector-num': first, 'sectors-count': end - first }
}
