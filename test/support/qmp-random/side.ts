/** One side of a random conversation: says a command and waits until nothing moves any more. */
import { setTimeout as sleep } from 'node:timers/promises'
import { inOneOrder, inOrder, normalised } from '../qmp-normal.ts'
import { command, type Message, type QmpTalk } from '../qmp-talk.ts'
import { asGuest, isGuestStep } from './guest.ts'
import type { View } from './world.ts'

/** A job that has not moved for so long waits for its speed, or for guests. */
const stillMs = 80
const patienceMs = 8_000

export interface Heard {
  readonly answer: string
  readonly events: Message[]
}

export class Side {
  readonly talk: QmpTalk
  /** The answer to the last thing that was said. */
  last = ''
  readonly #folder: string
  #lastEvents: Message[] = []

  constructor(talk: QmpTalk, folder: string) {
    this.talk = talk
    this.#folder = folder
  }

  async say(step: Message): Promise<string> {
    if (isGuestStep(step)) return await asGuest(this.#folder, step)
    const { replies, events } = await this.talk.say(step)
    this.#lastEvents.push(...events)
    this.last = inOneOrder(inOrder(step, withoutTimes(normalised(replies))))
    return this.last
  }

  /** What came since it was last asked for. */
  takeEvents(): Message[] {
    return this.#lastEvents.splice(0)
  }

  async #list(execute: string, args?: Message): Promise<Message[]> {
    const { replies, events } = await this.talk.say(command(execute, args))
    this.#lastEvents.push(...events)
    return (replies[0]?.return ?? []) as Message[]
  }

  /** Waits until every job is where it stays. */
  async quiet(): Promise<void> {
    const deadline = performance.now() + patienceMs
    let last = ''
    let since = 0
    while (performance.now() < deadline) {
      const jobs = await this.#list('query-jobs')
      const moving = jobs.filter(({ status }) => !resting.has(String(status)))
      if (moving.length === 0) return
      const now = JSON.stringify(jobs)
      if (now !== last) {
        last = now
        since = performance.now()
      } else if (performance.now() - since > stillMs) return
      await sleep(4)
    }
  }

  /** Everything there is, as it is compared. */
  async state(): Promise<{ view: View; compared: Readonly<Record<string, string>> }> {
    const nodes = await this.#list('query-named-block-nodes', { flat: true })
    const jobs = await this.#list('query-jobs')
    const blockJobs = await this.#list('query-block-jobs')
    const exports = await this.#list('query-block-exports')
    const objects = await this.#list('qom-list', { path: '/objects' })
    const chardevs = await this.#list('query-chardev')
    // Jobs have other nodes and edges of their own.
    const graph = jobs.length === 0 ? await this.#list('x-debug-query-block-graph') : []
    const all = {
      edges: [edgesOfNodes(graph as unknown as DebugGraph)],
      order: [nodes.map((node) => node['node-name'])] as unknown as Message[],
      nodes: [byName(nodes.map(comparable))],
      jobs: jobs.map(atRest),
      blockJobs: blockJobs.map(atRest),
      exports,
    }
    const lists = {
      objects: sortedNames(objects, 'name'),
      chardevs: sortedNames(chardevs, 'label'),
    }
    const view: View = {
      nodes,
      jobs,
      exports: exports.map(({ id }) => String(id)),
      objects: lists.objects.filter((name) => name !== 'type'),
      chardevs: lists.chardevs.filter((name) => name !== 'talk'),
    }
    const compared = Object.entries({ ...all, ...lists }).map(([name, list]) => [
      name,
      inOneOrder(normalised(list as unknown as Message[])),
    ])
    return { view, compared: Object.fromEntries(compared) }
  }
}

interface DebugGraph {
  readonly nodes?: readonly Message[]
  readonly edges?: readonly Message[]
}

/** What each node needs of its children, and shares. */
function edgesOfNodes({ nodes = [], edges = [] }: DebugGraph): Message {
  const drivers = nodes.filter(({ type }) => type === 'block-driver')
  const names = new Map(drivers.map(({ id, name }) => [id, name]))
  const found = edges
    .filter(({ parent }) => names.has(parent))
    .map((edge) => [
      `${names.get(edge.parent)}.${edge.name} to ${names.get(edge.child)}`,
      `${edge.perm} / ${edge['shared-perm']}`,
    ])
  return Object.fromEntries(found.sort())
}

/** Those without a name of their own are told apart by their place. */
function byName(nodes: readonly Message[]): Message {
  return Object.fromEntries(
    nodes.map((node, index) => {
      const name = String(node['node-name'])
      return [name.startsWith('#') ? `#${index}` : name, node]
    }),
  )
}

const resting = new Set(['ready', 'standby', 'pending', 'concluded', 'paused', 'waiting'])

function sortedNames(list: readonly Message[], key: string): string[] {
  return list.map((each) => String(each[key])).sort()
}

/** How far a job has come is a matter of the moment, until it rests. */
function atRest(job: Message): Message {
  const { 'current-progress': _c, 'total-progress': _t, offset: _o, len: _l, ...rest } = job
  return rest
}

const times = new Set(['date-sec', 'date-nsec', 'vm-clock-sec', 'vm-clock-nsec'])

/** Without bitmaps of jobs, times, and lengths of what holds an image's clusters. */
function comparable(node: Message): Message {
  const named = ((node['dirty-bitmaps'] ?? []) as Message[]).filter(({ name }) => name)
  const image = node.image as Message
  const isLength = node.drv !== 'qcow2' && /qcow2|img/.test(String(image.filename))
  return withoutTimes({
    ...node,
    'dirty-bitmaps': named.length > 0 ? named : undefined,
    image: isLength ? { ...image, 'virtual-size': 'as it was allocated' } : image,
  })
}

/** Snapshots are taken when they are taken. */
function withoutTimes<T>(value: T): T {
  return JSON.parse(JSON.stringify(value, (key, each) => (times.has(key) ? undefined : each)))
}
