/** Holds requests to the limits of a throttle group, which several nodes may share. */
import type { BlockDriver, NodeReference } from '../block/driver.ts'
import { Filter } from '../block/filter.ts'
import type {
  BlockLayer,
  Completion,
  CompressedWriter,
  Io,
  WriteIo,
  ZeroIo,
} from '../block/layer.ts'
import { OptionReader, takeFile } from '../block/options.ts'
import type { Direction, ThrottleGroup, ThrottleMember } from '../block/throttle-group.ts'
import { BlockError } from '../errors.ts'

interface ThrottleOptions {
  readonly file: NodeReference
  /** Id of the `throttle-group` object. */
  readonly group: string
}

class Throttle extends Filter {
  readonly #group: ThrottleGroup
  readonly #member: ThrottleMember

  constructor(next: BlockLayer, group: ThrottleGroup) {
    super(next)
    this.#group = group
    this.#member = group.join()
  }

  get compressed(): CompressedWriter | undefined {
    const below = this.next.compressed
    if (!below) return undefined
    return {
      unit: below.unit,
      write: (offset, source, io) =>
        this.#inTurn('write', source.length, io, () => below.write(offset, source, io)),
    }
  }

  override read(offset: number, target: Uint8Array, io: Io): Completion {
    return this.#inTurn('read', target.length, io, () => this.next.read(offset, target, io))
  }

  override write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    return this.#inTurn('write', source.length, io, () => this.next.write(offset, source, io))
  }

  override writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    return this.#inTurn('write', length, io, () => this.next.writeZeroes(offset, length, io))
  }

  override discard(offset: number, length: number, io: Io): Completion {
    return this.#inTurn('write', length, io, () => this.next.discard(offset, length, io))
  }

  /** Whoever drains the node does not wait for the limits. */
  drainBegins(): void {
    this.#group.exempt(this.#member)
  }

  drainEnds(): void {
    this.#group.limit(this.#member)
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    this.#group.leave(this.#member)
  }

  #inTurn(direction: Direction, length: number, io: Io, work: () => Completion): Completion {
    const turn = this.#group.take(this.#member, direction, length, io.signal)
    return turn ? turn.then(work) : work()
  }
}

export const throttle: BlockDriver<ThrottleOptions> = {
  name: 'throttle',
  kind: 'filter',
  parse(options) {
    const reader = new OptionReader(options)
    const file = takeFile(reader)
    const group = reader.string('throttle-group')
    reader.finish()
    if (group === undefined) throw invalid('Please specify a throttle group')
    return { file, group }
  },
  async open({ file, group: id }, context) {
    const next = await context.child('filtered', file)
    const group = context.throttleGroup?.(id)
    if (group) return new Throttle(next, group)
    throw invalid(`Throttle group '${id}' does not exist`)
  },
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
