/** Disks for virtual machine monitors: vhost-user-blk. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { lstatSync, unlinkSync } from 'node:fs'
import { isPowerOfTwo, MiB } from '../bytes/range.ts'
import { BlockError, invalid, strerror } from '../errors.ts'
import { DescriptorWatch } from '../export/descriptor-watch.ts'
import { BlockDevice } from '../export/vhost-user/block-device.ts'
import { VhostUserServer } from '../export/vhost-user/server.ts'
import { resizedChannel } from '../graph/node.ts'
import { sys } from '../sys/current.ts'
import { bindError } from './bind-error.ts'
import { socketDescriptor, unixPath } from './chardev/socket-address.ts'
import { listen } from './chardev/socket-server.ts'
import type { ExportKind, ExportUse } from './exports.ts'
import type { SocketAddress } from './schema/socket-address.ts'

export interface VhostUserExportOptions {
  readonly id: string
  readonly address: SocketAddress
  readonly queues?: number
  readonly logicalBlockSize?: number
  /** Descriptors are those that the process was started with; a monitor's client has none to give. */
  readonly inherited: boolean
}

const sectorSize = 512
const largestBlock = 2 * MiB

export class VhostUserExports {
  #watch: DescriptorWatch | undefined

  export(options: VhostUserExportOptions): ExportKind {
    return {
      type: 'vhost-user-blk',
      start: (use) => this.#start(use, options),
    }
  }

  async #start(use: ExportUse, options: VhostUserExportOptions) {
    const { queues = 1, logicalBlockSize = sectorSize, id } = options
    checkBlockSize(id, logicalBlockSize)
    checkQueues(queues)
    if (!sys().sharedMemory) {
      throw new BlockError('UNSUPPORTED', 'vhost-user exports need the C library: install koffi', {
        errno: 'ENOTSUP',
      })
    }
    const { edge, writable, writethrough } = use
    const blockSize = logicalBlockSize || sectorSize
    const device = new BlockDevice({
      ...{ edge, writable, writethrough, queues },
      logicalBlockSize: blockSize,
    })
    this.#watch ??= new DescriptorWatch(sys())
    const server = new VhostUserServer(sys(), this.#watch, device)
    await bind(server, options)
    const onResize = () => server.checkSize()
    subscribe(resizedChannel.name, onResize)
    return {
      end: async () => {
        unsubscribe(resizedChannel.name, onResize)
        await server[Symbol.asyncDispose]()
      },
    }
  }
}

export function checkBlockSize(id: string, size: number): void {
  const property = `Property ${id}.logical-block-size doesn't take value`
  if (size !== 0 && (size < sectorSize || size > largestBlock)) {
    throw invalid(`${property} ${size} (minimum: ${sectorSize}, maximum: ${largestBlock})`)
  }
  if (size !== 0 && !isPowerOfTwo(size)) {
    throw invalid(`${property} '${size}', it's not a power of 2`)
  }
}

export function checkQueues(queues: number): void {
  if (queues === 0) throw invalid('num-queues must be greater than 0')
}

async function bind(
  { server }: VhostUserServer,
  { address, inherited }: VhostUserExportOptions,
): Promise<void> {
  if (address.type === 'fd') {
    if (!inherited) throw invalid('only QEMU supports file descriptor passing')
    const fd = socketDescriptor(address.str)
    await listen(server, { fd }).catch((error) => {
      const message = `Failed to listen on fd socket: ${strerror('EINVAL')}`
      throw new BlockError('IO', message, { cause: error })
    })
    return
  }
  if (address.type !== 'unix') {
    throw invalid("Only socket address types 'unix' and 'fd' are supported")
  }
  const path = unixPath(address)
  try {
    if (!address.abstract) removeSocket(path)
    await listen(server, { path })
  } catch (error) {
    throw bindError(error, address.path)
  }
}

/** As QEMU does, whoever listens there; what is no socket stays. */
function removeSocket(path: string): void {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket()) unlinkSync(path)
}
