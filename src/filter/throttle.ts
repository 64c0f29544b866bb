/** Holds requests to the limits of a throttle group, which several nodes may share. */

import type { CompressedWriter } from '../block/abilities.ts'
import type { BlockDriver, NodeReference } from '../block/driver.ts'
import { Filter } from '../block/filter.ts'
import type { BlockLayer, Completion, Io, WriteIo, ZeroIo } from '../block/layer.ts'
import { OptionReader, takeFile } from '../block/options.ts'
import type { Direction, ThrottleGroup, ThrottleMember } from '../block/throttle-group.ts'
import { invalid } from '../errors.ts'

interface ThrottleOptions {
  readonly file: NodeReference
  /** Id of the `throttle-group` object. */
  readonly group: string
}

class Throttle extends Filter {
  readonly #find: (id: string) => ThrottleGroup
  #group: ThrottleGroup
  #member: ThrottleMember
  /** Drains that have begun and not ended. */
  #drains = 0

  constructor(next: BlockLayer, id: string, find: (id: string) => ThrottleGroup) {
    super(next)
    this.#find = find
    this.#group = find(id)
    this.#member = this.#group.join()
  }

  /** Changes to another group. */
  reopen({ group: id }: ThrottleOptions): void {
    const group = this.#find(id)
    this.#group.leave(this.#member)
    this.#group = group
    this.#member = group.join()
    for (let drain = 0; drain < this.#drains; drain++) group.exempt(this.#member)
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
    this.#drains++
    this.#group.exempt(this.#member)
  }

  drainEnds(): void {
    this.#drains--
    this.#group.limit(this.#member)
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    this.#group.leave(this.#member)
  }

  #inTurn(direction: Direction, length: number, io: Io, work: () => Completion): Completion {
    const turn = this.#group.take(this.#member, direction, length, io)
    return turn ? turn.then(work) : work()
  }
}

export const throttle: BlockDriver<ThrottleOptions> = {
  name: 'throttle',
  kind: 'filter',
  naming: { strong: ['throttle-group'], plain: 'none' },
  changeable: ['throttle-group'],
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
    return new Throttle(next, id, (wanted) => {
      const group = context.throttleGroup?.(wanted)
      if (group) return group
      throw invalid(`Throttle group '${wanted}' does not exist`)
    })
  },
}
