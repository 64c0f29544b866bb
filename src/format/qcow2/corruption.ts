/**
 * What happens when an image turns out to be corrupt while it is in use: its header is marked, so
 * that nobody opens it for writing before a repair, and until it is closed nothing of it is read or
 * changed any more: QEMU takes the medium away, too. What was changed before is still written when
 * it is closed.
 */
import diagnostics from 'node:diagnostics_channel'
import { BlockError } from '../../errors.ts'
import type { Faults } from './faults.ts'
import { incompatible } from './header.ts'
import type { HeaderState } from './header-state.ts'
import type { ImageFile } from './image-file.ts'

/** One message for an image that was found corrupt. */
export interface CorruptImage {
  /** Name of its node. */
  readonly node: string
  readonly message: string
  /** Byte of the file. */
  readonly offset: number
  /** The image is marked, and takes no more changes; otherwise it is read-only. */
  readonly fatal: boolean
}

/** Name of the channel on which they are published. */
export const corruptImages = 'image:corrupt'

const channel = diagnostics.channel(corruptImages)

export class Corruption {
  readonly #header: HeaderState
  readonly #file: ImageFile
  readonly #faults: Faults
  readonly #node: string
  #refusal: BlockError | undefined
  /** The writing of the mark. Never rejects: an image that cannot be marked is refused all the same. */
  #marking: Promise<void> | undefined
  /** Runs work while nobody else writes the header. Set once, by whoever knows how to. */
  alone: (work: () => Promise<void>) => Promise<void> = (work) => work()

  /** Whether an image that is read-only has been told of. */
  #told = false
  /**
   * What becomes of an image in which something is found: it is marked, or only told of because it
   * is read-only, or left to a check. Set once, by whoever opens it.
   */
  reaction: () => 'mark' | 'tell' | 'nothing' = () => 'mark'

  constructor(header: HeaderState, file: ImageFile, faults: Faults, node: string) {
    this.#header = header
    this.#file = file
    this.#faults = faults
    this.#node = node
  }

  get found(): boolean {
    return this.#refusal !== undefined
  }

  /** Throws if something was found before: nothing may be changed. */
  refuse(): void {
    if (this.#refusal) throw this.#refusal
  }

  /**
   * Runs what changes the image, unless that has been found corrupt. If it is found so now, the image
   * is marked before the caller hears of it.
   */
  async during<T>(work: () => Promise<T>): Promise<T> {
    this.refuse()
    try {
      return await work()
    } catch (error) {
      return await this.rethrow(error)
    }
  }

  /** Throws `error` when the image is marked, if that is what it is about. */
  async rethrow(error: unknown): Promise<never> {
    await this.settled()
    throw error
  }

  /** Throws if the image was marked: what it would show is not to be believed. */
  refuseAll(): void {
    if (this.#marking) throw this.#refusal
  }

  /** Returns the error for whoever found it. */
  signal(message: string, offset: number): BlockError {
    if (this.reaction() !== 'mark') return this.#tell(message, offset)
    const first = !this.#refusal
    this.giveUp(message)
    if (first) {
      this.#publish(message, offset, true)
      this.#marking = this.#mark().catch(() => {})
    }
    return this.#faults.corrupt(`${message}; the image is marked as corrupt, repair it`, offset)
  }

  /** Refuses changes from now on; the image is not marked. */
  giveUp(reason: string): void {
    const { message } = this.#faults.corrupt(`no more changes are made: ${reason}`)
    this.#refusal ??= new BlockError('CORRUPT_IMAGE', message, {
      node: this.#node,
      errno: 'ENOMEDIUM',
    })
  }

  /** Settles when the mark is on stable storage. */
  async settled(): Promise<void> {
    await this.#marking
  }

  #tell(message: string, offset: number): BlockError {
    if (this.reaction() === 'tell' && !this.#told) {
      this.#told = true
      this.#publish(message, offset, false)
    }
    return this.#faults.corrupt(message, offset)
  }

  #publish(message: string, offset: number, fatal: boolean): void {
    const found: CorruptImage = { node: this.#node, message, offset, fatal }
    channel.publish(found)
  }

  async #mark(): Promise<void> {
    // Version 2 has no room for a mark.
    if (this.#header.current.version < 3) return
    this.#header.current.incompatibleFeatures |= incompatible.corrupt
    await this.alone(async () => {
      const marked = { ...this.#header.stored }
      marked.incompatibleFeatures |= incompatible.corrupt
      await this.#header.write(marked, this.#file)
      await this.#file.flush()
    })
  }
}
