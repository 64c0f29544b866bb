/** A server on a Unix socket of its own, for one test. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExportOptions } from '../../src/export/nbd/export.ts'
import { NbdServer, type NbdServerOptions } from '../../src/export/nbd/server.ts'
import { WatchedLayer } from './nbd-layer.ts'

export interface ServerUnderTest extends AsyncDisposable {
  readonly path: string
  readonly server: NbdServer
  readonly layer: WatchedLayer
}

/** With one export, by default the unnamed one of 1 MiB. */
export async function startServer(
  {
    layer = new WatchedLayer(new Uint8Array(2 ** 20)),
    ...options
  }: Partial<Omit<ExportOptions, 'layer'>> & { layer?: WatchedLayer } = {},
  serverOptions: Partial<NbdServerOptions> = {},
): Promise<ServerUnderTest> {
  const directory = await mkdtemp(join(tmpdir(), 'varve-nbd-'))
  const path = join(directory, 'socket')
  const server = await NbdServer.listen({ path, ...serverOptions })
  server.addExport({ name: '', writable: true, ...options, layer })
  return {
    path,
    server,
    layer,
    async [Symbol.asyncDispose]() {
      layer.letGo()
      await server[Symbol.asyncDispose]()
      await rm(directory, { recursive: true, force: true })
    },
  }
}

/** Bytes that depend on `seed` alone, none of them zero. */
export function patterned(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length)
  let state = seed
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes[at] = (state >>> 24) | 1
  }
  return bytes
}
