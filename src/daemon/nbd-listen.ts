/** Where the NBD server of a daemon listens. */
import { errnoOf, invalid, unsupported } from '../errors.ts'
import { NbdServer, type NbdServerOptions } from '../export/nbd/server.ts'
import { bindError, portError } from './bind-error.ts'
import { type Inet, resolveInet, unixPath } from './chardev/socket-address.ts'
import type { SocketAddress } from './schema/socket-address.ts'

/** Whom the server serves: so many at a time, and only those with certificates. */
export type ServerLimits = Pick<NbdServerOptions, 'maxConnections' | 'tls' | 'authorise'>

/** Refuses, by name, what our server has no means for. */
export async function listenForNbd(
  address: SocketAddress,
  limits: ServerLimits,
): Promise<NbdServer> {
  switch (address.type) {
    case 'unix':
      return await listenOn({ path: unixPath(address) }, limits, address.path)
    case 'inet':
      return await listenOnPort(address, limits)
    case 'fd':
      if (!/^-?\d{1,9}$/.test(address.str)) {
        throw invalid(`Unable to parse FD number ${address.str}`)
      }
      if (address.str.startsWith('-')) {
        throw invalid(`File descriptor '${address.str}' is not a socket`)
      }
      return await listenOn({ fd: Number(address.str) }, limits, 'fd')
    case 'vsock':
      throw unsupported(`Parameter 'vsock': not supported for an NBD server`)
  }
}

async function listenOn(
  where: Pick<NbdServerOptions, 'path' | 'fd'>,
  limits: ServerLimits,
  name: string,
): Promise<NbdServer> {
  try {
    return await NbdServer.listen({ ...where, ...limits })
  } catch (error) {
    throw bindError(error, name)
  }
}

/** Tries one port after the other up to `to`. */
async function listenOnPort(address: Inet, limits: ServerLimits): Promise<NbdServer> {
  // Clients are probed whether that is asked for or not.
  const { host, port } = await resolveInet({ ...address, 'keep-alive': undefined }, '0.0.0.0')
  const last = Math.max(port, address.to ?? port)
  for (let attempt = port; ; attempt++) {
    try {
      return await NbdServer.listen({ host, port: attempt, ...limits })
    } catch (error) {
      if (errnoOf(error) !== 'EADDRINUSE' || attempt >= last) throw portError(error)
    }
  }
}
