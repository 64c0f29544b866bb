/** What a check has found so far. */
import type { CheckResult } from '../../../block/abilities.ts'

/** Lines kept; an image can be made to have more faults than memory has room for. */
export const maxMessages = 100_000

/** How many more lines may be kept, by all findings together. */
export interface Room {
  left: number
}

/**
 * What is wrong with a part of the image, kept until it is told: a table that several others lead to
 * is looked at once, and what is wrong with it told as often as it is met.
 */
export class Findings {
  corruptions = 0
  corruptionsFixed = 0
  readonly messages: string[] = []
  protected suppressed = 0
  readonly #room: Room

  constructor(room: Room) {
    this.#room = room
  }

  get nothing(): boolean {
    return this.messages.length === 0 && this.corruptions === 0 && this.corruptionsFixed === 0
  }

  say(message: string): void {
    if (this.#room.left > 0) {
      this.#room.left--
      this.messages.push(message)
    } else {
      this.suppressed++
    }
  }

  /** A fault that contradicts the format; `ERROR` or, where it is mended, `Repairing`. */
  corruption(text: string, fixed = false): void {
    const what = fixed ? 'Repairing' : 'ERROR'
    this.say(text.startsWith(':') ? what + text : `${what} ${text}`)
    if (fixed) this.corruptionsFixed++
    else this.corruptions++
  }

  /** Says all that another has found. */
  tell(other: Findings): void {
    for (const message of other.messages) this.say(message)
    this.suppressed += other.suppressed
    this.corruptions += other.corruptions
    this.corruptionsFixed += other.corruptionsFixed
  }
}

export class Report extends Findings {
  leaks = 0
  checkErrors = 0
  leaksFixed = 0
  allocatedClusters = 0
  fragmentedClusters = 0
  compressedClusters = 0

  constructor() {
    super({ left: maxMessages })
  }

  result(imageEndOffset: number, totalClusters: number): CheckResult {
    const messages =
      this.suppressed === 0
        ? this.messages
        : [...this.messages, `${this.suppressed} further messages are left out`]
    return {
      corruptions: this.corruptions,
      leaks: this.leaks,
      checkErrors: this.checkErrors,
      corruptionsFixed: this.corruptionsFixed,
      leaksFixed: this.leaksFixed,
      imageEndOffset,
      totalClusters,
      allocatedClusters: this.allocatedClusters,
      fragmentedClusters: this.fragmentedClusters,
      compressedClusters: this.compressedClusters,
      messages,
    }
  }
}
