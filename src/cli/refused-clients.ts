/** Clients that were turned away in the handshake: a line each, as QEMU's servers say it. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { NamedIo } from './command.ts'

/** Returns how to stop it. */
export function reportRefusedClients(io: NamedIo): () => void {
  const onClient = (message: unknown) => {
    const { export: name, violation } = message as Record<string, string | undefined>
    if (violation === undefined || name !== undefined) return
    io.stderr.write(`${io.program}: option negotiation failed: ${violation}\n`)
  }
  subscribe('nbd:client', onClient)
  return () => unsubscribe('nbd:client', onClient)
}
