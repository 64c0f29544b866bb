/** Exports of the guest's disk that come and go in a random walk, and a client that reads by them. */
import { drivers } from '../../../src/drivers.ts'
import type { Edge } from '../../../src/graph/edge.ts'
import { Graph } from '../../../src/graph/graph.ts'
import type { WalkGround } from './ground.ts'
import type { WalkGuest } from './guest.ts'

interface Client {
  readonly id: string
  readonly graph: Graph
  readonly edge: Edge
}

export class WalkExports {
  readonly #ground: WalkGround
  readonly #guest: WalkGuest
  readonly #path: string
  #client: Client | undefined

  constructor(ground: WalkGround, guest: WalkGuest) {
    this.#ground = ground
    this.#guest = guest
    this.#path = `${ground.folder}/${ground.name}.sock`
  }

  async begin(): Promise<void> {
    const addr = { type: 'unix', data: { path: this.#path } }
    await this.#ground.daemon.execute('nbd-server-start', { addr })
  }

  /** Begins to export what the guest stands on, reads by it, or ends it. */
  async next(): Promise<void> {
    const client = this.#client
    if (!client) return await this.#connect()
    // Where faults are about, the connection is not told which.
    const check = (error: unknown) => {
      if (!this.#ground.faults) throw error
    }
    if (this.#ground.random.chance(0.8)) return await this.#guest.read(client.edge, check)
    await this.end()
  }

  /** The client is cut off, or leaves first. */
  async end(): Promise<void> {
    const client = this.#client
    if (!client) return
    const { random } = this.#ground
    this.#client = undefined
    const isFirst = random.chance(0.5)
    if (isFirst) await client.graph[Symbol.asyncDispose]().catch(() => {})
    await this.#ground.daemon.execute('block-export-del', { id: client.id, mode: 'hard' })
    if (!isFirst) await client.graph[Symbol.asyncDispose]().catch(() => {})
  }

  async #connect(): Promise<void> {
    const id = this.#ground.newName('export')
    const node = this.#guest.edge.node.name
    const added = { type: 'nbd', id, name: id, 'node-name': node }
    if (!(await this.#ground.attempt('block-export-add', added))) return
    const graph = new Graph({ drivers })
    const opened = await graph.open({
      driver: 'nbd',
      server: { type: 'unix', path: this.#path },
      export: id,
      'read-only': true,
    })
    const edge = graph.attach(opened, { description: 'a client', uses: ['consistentRead'] })
    this.#client = { id, graph, edge }
  }
}
