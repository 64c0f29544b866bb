/** `-l` of `varve nbd`: a name, an id, or `snapshot.…=…`, with qemu-nbd's words for what is neither. */
import type { NamedIo } from '../command.ts'
import { CommandFailure } from '../img/failure.ts'
import { parseSnapshotParam, type SnapshotParam } from '../img/snapshot-param.ts'
import { NbdFailure } from './failure.ts'

export function parseSnapshotOption(text: string, io: NamedIo): SnapshotParam {
  try {
    return parseSnapshotParam(text, io)
  } catch (error) {
    if (!(error instanceof CommandFailure)) throw error
    throw new NbdFailure(error.message.replace(/^(Failed in parsing .*) '/, '$1 `'))
  }
}
