import { connect, type Socket } from 'node:net'
import { systemError } from '../../errors.ts'
import { addressText, type NbdAddress } from './address.ts'
import { keepAliveMs } from './limits.ts'

/** A connected socket. Throws `IO` or `PERMISSION` when the server cannot be reached. */
export async function connectTo(address: NbdAddress, signal: AbortSignal): Promise<Socket> {
  signal.throwIfAborted()
  const socket = connect(address.type === 'unix' ? { path: address.path } : address)
  const stop = () => socket.destroy(signal.reason)
  signal.addEventListener('abort', stop, { once: true })
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    socket.setNoDelay(true)
    socket.setKeepAlive(true, keepAliveMs)
    return socket
  } catch (error) {
    if (signal.aborted) throw signal.reason
    throw systemError(error, `Failed to connect to '${addressText(address)}'`)
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
