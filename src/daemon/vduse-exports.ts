/**
 * Disks as devices of this machine, by VDUSE. There are none: an export is refused as QEMU's daemon refuses it
 * on a machine whose kernel lacks `/dev/vduse`, after its options have been checked.
 */
import { isPowerOfTwo } from '../bytes/range.ts'
import { invalid } from '../errors.ts'
import type { ExportKind } from './exports.ts'
import { checkBlockSize, checkQueues } from './vhost-user-exports.ts'

export interface VduseExportOptions {
  readonly id: string
  readonly queues?: number
  readonly queueSize?: number
  readonly logicalBlockSize?: number
}

const maxQueueSize = 1024

export function vduseExport(options: VduseExportOptions): ExportKind {
  const { id, queues = 1, queueSize = 256, logicalBlockSize = 512 } = options
  return {
    type: 'vduse-blk',
    async start() {
      checkQueues(queues)
      if (queueSize <= 2 || queueSize > maxQueueSize || !isPowerOfTwo(queueSize)) {
        throw invalid('queue-size is invalid')
      }
      checkBlockSize(id, logicalBlockSize)
      throw invalid('failed to create vduse device')
    },
  }
}
