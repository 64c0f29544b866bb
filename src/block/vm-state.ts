/**
 * The state of a virtual machine as bytes from 0 on, kept behind the end of a disk by the engine's
 * own reads and writes there. What does not fit the alignment is read, changed and written back;
 * who writes state does so alone, so nobody comes in between.
 */
import { alignDown, alignUp } from '../bytes/range.ts'
import { BlockError } from '../errors.ts'
import type { VmState } from './abilities.ts'
import type { StateArea } from './cluster-map.ts'
import type { BlockLayer, Completion, Io, WriteIo } from './layer.ts'

/** `alone` runs work while no request is under way. */
export function vmStateIn(
  area: StateArea,
  layer: BlockLayer,
  writable: () => boolean,
  alone: (work: () => Promise<void>, io: Io) => Promise<void>,
): VmState {
  const read = (offset: number, target: Uint8Array, io: Io): Completion => {
    checkRange(offset, target.length)
    const at = area.offset + offset
    return fits(layer, offset, target.length) ? layer.read(at, target, io) : bounced(at, target, io)
  }
  const bounced = async (at: number, target: Uint8Array, io: Io): Promise<void> => {
    const { whole, inside } = around(layer, at, target.length)
    await inPieces(layer, whole, (from, part) => layer.read(from + at - inside, part, io))
    target.set(whole.subarray(inside, inside + target.length))
  }
  const merged = async (at: number, source: Uint8Array, io: WriteIo): Promise<void> => {
    const { whole, inside } = around(layer, at, source.length)
    await inPieces(layer, whole, (from, part) => layer.read(from + at - inside, part, io))
    whole.set(source, inside)
    await inPieces(layer, whole, (from, part) => layer.write(from + at - inside, part, io))
  }
  const write = (offset: number, source: Uint8Array, io: WriteIo): Completion => {
    if (!writable()) {
      const message = 'the image is read-only: no state of a machine can be written to it'
      throw new BlockError('READ_ONLY', message, { errno: 'EPERM' })
    }
    checkRange(offset, source.length)
    const at = area.offset + offset
    const end = alignUp(at + source.length, layer.limits.alignment)
    if (!area.reaches(end)) {
      return alone(() => area.extend(end, io), io).then(() => write(offset, source, io))
    }
    return fits(layer, offset, source.length) ? layer.write(at, source, io) : merged(at, source, io)
  }
  return { read, write }
}

function fits({ limits }: BlockLayer, offset: number, length: number): boolean {
  const { alignment, maxTransfer } = limits
  return length <= maxTransfer && offset % alignment === 0 && length % alignment === 0
}

/** Memory for the aligned surroundings of a range, and where in it the range begins. */
function around({ limits }: BlockLayer, at: number, length: number) {
  const start = alignDown(at, limits.alignment)
  const whole = new Uint8Array(alignUp(at + length, limits.alignment) - start)
  return { whole, inside: at - start }
}

async function inPieces(
  { limits }: BlockLayer,
  bytes: Uint8Array,
  work: (from: number, part: Uint8Array) => Completion,
): Promise<void> {
  for (let from = 0; from < bytes.length; from += limits.maxTransfer) {
    await work(from, bytes.subarray(from, from + limits.maxTransfer))
  }
}

function checkRange(offset: number, length: number): void {
  if (Number.isSafeInteger(offset + length) && offset >= 0) return
  const message = `${offset}+${length} is not a range of a machine's state`
  throw new BlockError('INVALID_ARGUMENT', message, { offset, errno: 'EINVAL' })
}
