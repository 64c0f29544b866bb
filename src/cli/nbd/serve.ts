/** `varve nbd FILE`: serves an image until its last client has left, or for good with `-t`. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { writeFileSync } from 'node:fs'
import { systemError } from '../../errors.ts'
import { extentsThroughChain } from '../../export/chain-extents.ts'
import { ShownBitmaps } from '../../export/nbd/bitmaps.ts'
import { allocationDepthContext } from '../../export/nbd/chain.ts'
import type { ExportOptions } from '../../export/nbd/export.ts'
import { NbdServer, type NbdServerOptions } from '../../export/nbd/server.ts'
import { inWholeSectors } from '../../export/nbd/whole-sectors.ts'
import { Writethrough } from '../../export/nbd/writethrough.ts'
import type { Edge } from '../../graph/edge.ts'
import type { NamedIo } from '../command.ts'
import { compileLater } from '../compile-later.ts'
import { reportRefusedClients } from '../refused-clients.ts'
import type { NbdArguments } from './arguments.ts'
import { NbdFailure } from './failure.ts'
import { openServedImage } from './image.ts'
import { authorisationOf, credentialsOf } from './tls-objects.ts'

/** `ready` is called once, when clients can connect. */
export async function serve(
  settings: NbdArguments,
  io: NamedIo,
  ready: () => void,
): Promise<number> {
  compileLater()
  const tls = credentialsOf(settings, io, 'server')
  const authorise = authorisationOf(settings, io)
  await using image = await openServedImage(settings, io)
  const stopTalking = settings.verbose ? talk(io) : reportRefusedClients(io)
  try {
    const end = new Ending(settings.persistent, io.signal)
    await using server = await NbdServer.listen({
      ...addressOf(settings, io),
      tls,
      authorise,
      maxConnections: settings.shared,
      onClientGone: (left, negotiated) => end.clientGone(left, negotiated),
    })
    server.addExport(exportOf(settings, image.edge))
    writePidFile(settings)
    ready()
    await end.reached
  } finally {
    stopTalking()
  }
  return 0
}

/** When serving is over: the last client has left, or somebody has sent a signal. */
class Ending {
  readonly reached: Promise<void>
  readonly #persistent: boolean
  #reach: () => void = () => {}

  constructor(persistent: boolean, signal: AbortSignal | undefined) {
    this.#persistent = persistent
    this.reached = new Promise((resolve) => {
      this.#reach = resolve
    })
    if (signal?.aborted) this.#reach()
    signal?.addEventListener('abort', this.#reach, { once: true })
  }

  /** A client that only looked at the list of exports was no client. */
  clientGone(left: number, negotiated: boolean): void {
    if (left === 0 && negotiated && !this.#persistent) this.#reach()
  }
}

function exportOf(settings: NbdArguments, edge: Edge): ExportOptions {
  const { exportName, description, readOnly, shared, cache, allocationDepth, bitmaps } = settings
  // The last one comes first, as qemu-nbd has it.
  const shown = new ShownBitmaps(edge.node, bitmaps.toReversed(), !readOnly)
  return {
    name: exportName,
    description,
    layer: cache?.writethrough ? new Writethrough(inWholeSectors(edge)) : inWholeSectors(edge),
    writable: !readOnly,
    announcedAlignment: isGuessedRaw(settings, edge) ? guessedRawAlignment : undefined,
    // With room for one client alone nobody has a use for several connections.
    multiConn: shared !== 1,
    chainExtentAt: extentsThroughChain(edge),
    contexts: [...(allocationDepth ? [allocationDepthContext(edge)] : []), ...shown.contexts],
  }
}

/** As QEMU, whose checks of what is written to such a disk work on sectors. */
const guessedRawAlignment = 512

function isGuessedRaw(
  { filename, format, imageOpts, snapshot, offset }: NbdArguments,
  { node }: Edge,
): boolean {
  const named = imageOpts ? /(^|,)driver=/.test(filename) : filename.startsWith('json:')
  return node.driver === 'raw' && format === undefined && !named && !snapshot && offset === 0
}

/** File descriptor of the first socket that systemd hands over; see sd_listen_fds(3). */
const firstListenFd = 3

function addressOf(
  { socket, host, port }: NbdArguments,
  { env }: NamedIo,
): Pick<NbdServerOptions, 'path' | 'host' | 'port' | 'fd'> {
  if (env.LISTEN_PID === String(process.pid)) {
    if (env.LISTEN_FDS !== '1') {
      throw new NbdFailure('socket activation with more than one socket is not supported')
    }
    return { fd: firstListenFd }
  }
  return socket === undefined ? { host, port } : { path: socket }
}

function writePidFile({ pidFile }: NbdArguments): void {
  if (pidFile === undefined) return
  try {
    writeFileSync(pidFile, `${process.pid}\n`, { mode: 0o600 })
  } catch (error) {
    throw systemError(error, `Could not create '${pidFile}'`)
  }
}

/** `-v`: clients and failed requests, a line each. Returns how to stop it. */
function talk(io: NamedIo): () => void {
  const say = (text: string) => void io.stderr.write(`${io.program}: ${text}\n`)
  const onClient = (message: unknown) => {
    const { export: name, violation, error } = message as Record<string, string | Error | undefined>
    if (error) say(`accepting a client failed: ${error}`)
    else if (violation) say(`a client was sent away: ${violation}`)
    else say(name === undefined ? 'a client left in the handshake' : `a client of '${name}' left`)
  }
  const onFailure = (message: unknown) => {
    const { command, error } = message as { command: string; error: unknown }
    say(`${command} failed: ${error instanceof Error ? error.message : error}`)
  }
  subscribe('nbd:client', onClient)
  subscribe('nbd:request-failed', onFailure)
  return () => {
    unsubscribe('nbd:client', onClient)
    unsubscribe('nbd:request-failed', onFailure)
  }
}
