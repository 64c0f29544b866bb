/** The kinds of character devices that there are: one line each. */
import { invalid } from '../../errors.ts'
import type {
  Chardev,
  ChardevBackend,
  ChardevContext,
  ChardevKind,
  OpenChardev,
} from './chardev.ts'
import { openFile, openPipe } from './file.ts'
import { openParallel, openSerial } from './host-device.ts'
import { logged } from './log.ts'
import { openMux } from './mux.ts'
import { openNull } from './null.ts'
import { openPty } from './pty.ts'
import { openRingBuffer } from './ring-buffer.ts'
import { SingleStream } from './single-stream.ts'
import { openClient } from './socket-client.ts'
import { openServer } from './socket-server.ts'
import { socketSettings } from './socket-settings.ts'
import { openUdp } from './udp.ts'

const backends: { readonly [K in ChardevKind]?: OpenChardev<K> } = {
  file: openFile,
  memory: (data) => openRingBuffer('memory', data),
  mux: openMux,
  null: openNull,
  parallel: openParallel,
  pipe: openPipe,
  pty: openPty,
  ringbuf: (data) => openRingBuffer('ringbuf', data),
  serial: openSerial,
  socket: (data, context) => {
    const settings = socketSettings(data, context)
    return settings.server ? openServer(settings) : openClient(settings)
  },
  stdio: (_, context) => new SingleStream('stdio', context.takeStdio()),
  udp: openUdp,
}

export const backendNames: readonly string[] = Object.keys(backends)

/** Throws, as QEMU would, what is wrong with the options. */
export async function openChardev(
  { type, data }: ChardevBackend,
  context: ChardevContext,
): Promise<Chardev> {
  const open = backends[type] as OpenChardev<ChardevKind> | undefined
  if (!open) throw invalid(`'${type}' is not a valid char driver name`)
  return await logged(data, () => open(data as never, context))
}
