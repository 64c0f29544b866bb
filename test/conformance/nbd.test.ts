/** Our client and our server, over a Unix socket, must be a disk like any other. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { neverAborted } from '../../src/block/layer.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { NbdLayer } from '../../src/protocol/nbd/layer.ts'
import { Link } from '../../src/protocol/nbd/link.ts'
import { type Subject, testLayer } from './layer.ts'

async function overNbd(size: number): Promise<Subject> {
  const directory = await mkdtemp(join(tmpdir(), 'varve-nbd-'))
  const path = join(directory, 'socket')
  const server = await NbdServer.listen({ path })
  const storage = new MemoryLayer({ size })
  server.addExport({ name: 'disk', layer: storage, writable: true })
  const connect = async () => {
    const options = {
      address: { type: 'unix', path },
      exportName: 'disk',
      contexts: ['base:allocation'],
      openTimeoutMs: 0,
      reconnectDelayMs: 0,
    } as const
    const link = await Link.open(options, neverAborted)
    return new NbdLayer(link, link.facts, 'nbd')
  }
  let layer = await connect()
  return {
    layer,
    async reopen() {
      await layer[Symbol.asyncDispose]()
      layer = await connect()
      return layer
    },
    async [Symbol.asyncDispose]() {
      await layer[Symbol.asyncDispose]()
      await server[Symbol.asyncDispose]()
      await rm(directory, { recursive: true, force: true })
    },
  }
}

testLayer('nbd over a Unix socket', overNbd)
