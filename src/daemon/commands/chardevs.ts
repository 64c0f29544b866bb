/** Character devices: `chardev-add` and its kind, and ring buffers. */
import { inContext, invalid } from '../../errors.ts'
import { backendNames } from '../chardev/backends.ts'
import { decodeBase64, decodeText, encodeText } from '../chardev/ring-text.ts'
import { command } from '../command.ts'
import { type ChardevBackend, chardevBackend } from '../schema/chardev-backend.ts'
import {
  bool,
  empty,
  enumeration,
  int,
  list,
  object,
  optional,
  required,
  str,
} from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'

const id = required(str, 'The device.')
const backend = required(chardevBackend, 'What it is to be.')
const returned = object('ChardevReturn', { pty: optional(str, 'Path of the terminal of a `pty`.') })
const device = required(str, 'A device of type `ringbuf` or `memory`.')
const format = optional(
  enumeration('DataFormat', ['utf8', 'base64']),
  'How the data are written: as they are, unless given.',
)

/** Descriptors are inherited, and known to whoever wrote the command line only. */
async function addByMonitor(daemon: StorageDaemon, id: string, backend: ChardevBackend) {
  if (backend.type === 'socket' && backend.data.addr.type === 'fd') {
    throw invalid('only QEMU supports file descriptor passing')
  }
  return await daemon.chardevs.add(id, backend)
}

/** An error of a device that could not be made, as QEMU words it. */
async function making<T>(id: string, work: Promise<T>): Promise<T> {
  return await work.catch((error) => {
    throw inContext(`Failed to add chardev '${id}'`, error)
  })
}

export const chardevCommands = [
  command({
    name: 'chardev-add',
    topic: 'Character devices',
    doc: 'Makes a character device. `--monitor` of the command line has monitors on them.',
    args: object('ChardevAddArg', { id: required(str, 'Its name.'), backend }),
    returns: returned,
    async run({ id, backend }, { daemon }) {
      if (daemon.chardevs.has(id)) throw invalid(`Chardev with id '${id}' already exists`)
      const { pty } = await making(id, addByMonitor(daemon, id, backend))
      return { pty }
    },
  }),
  command({
    name: 'chardev-change',
    topic: 'Character devices',
    doc:
      'Makes another device of that name. Refused while a monitor uses it; when the new one ' +
      'cannot be made, the old one is gone all the same.',
    args: object('ChardevChangeArg', { id, backend }),
    returns: returned,
    async run({ id, backend }, { daemon }) {
      daemon.chardevs.checkChange(id)
      const { pty } = await making(id, daemon.chardevs.change(id, backend))
      return { pty }
    },
  }),
  command({
    name: 'chardev-remove',
    topic: 'Character devices',
    doc: 'Removes a device that no monitor uses.',
    args: object('ChardevRemoveArg', { id }),
    run: ({ id }, { daemon }) => daemon.chardevs.remove(id),
  }),
  command({
    name: 'chardev-send-break',
    topic: 'Character devices',
    doc: 'Tells the user of a device of a break, which monitors do not mind.',
    args: object('ChardevSendBreakArg', { id }),
    run: ({ id }, { daemon }) => daemon.chardevs.checkThere(id),
  }),
  command({
    name: 'query-chardev',
    topic: 'Character devices',
    doc: 'Lists the character devices.',
    args: empty,
    returns: list(
      object('ChardevInfo', {
        label: required(str, 'Its id.'),
        filename: required(str, 'Where it leads.'),
        'frontend-open': required(bool, 'Whether a monitor uses it.'),
      }),
    ),
    concurrent: true,
    run: (_, { daemon }) => daemon.chardevs.list(),
  }),
  command({
    name: 'query-chardev-backends',
    topic: 'Character devices',
    doc: 'Lists the kinds of character devices that can be made.',
    args: empty,
    returns: list(object('ChardevBackendInfo', { name: required(str, 'The kind.') })),
    concurrent: true,
    run: () => backendNames.map((name) => ({ name })),
  }),
  command({
    name: 'ringbuf-read',
    topic: 'Character devices',
    doc: 'Takes the oldest bytes out of a ring buffer.',
    args: object('RingbufReadArg', { device, size: required(int, 'Bytes, at most.'), format }),
    returns: str,
    run({ device, size, format }, { daemon }) {
      const ring = daemon.chardevs.ring(device)
      if (size <= 0) throw invalid('size must be greater than zero')
      const bytes = ring.read(size)
      return format === 'base64' ? Buffer.from(bytes).toString('base64') : decodeText(bytes)
    },
  }),
  command({
    name: 'ringbuf-write',
    topic: 'Character devices',
    doc: 'Writes to a ring buffer; what does not fit drives out what is oldest.',
    args: object('RingbufWriteArg', { device, data: required(str, 'What is written.'), format }),
    run({ device, data, format }, { daemon }) {
      const ring = daemon.chardevs.ring(device)
      ring.write(format === 'base64' ? decodeBase64(data) : encodeText(data))
    },
  }),
]
