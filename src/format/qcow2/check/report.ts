/** What a check has found so far. */
import type { CheckResult } from '../../../block/layer.ts'

/** Lines kept; an image can be made to have more faults than memory has room for. */
export const maxMessages = 100_000

export class Report {
  corruptions = 0
  leaks = 0
  checkErrors = 0
  corruptionsFixed = 0
  leaksFixed = 0
  allocatedClusters = 0
  fragmentedClusters = 0
  compressedClusters = 0
  readonly messages: string[] = []
  #suppressed = 0

  say(message: string): void {
    if (this.messages.length < maxMessages) this.messages.push(message)
    else this.#suppressed++
  }

  /** A fault that contradicts the format; `ERROR` or, where it is mended, `Repairing`. */
  corruption(text: string, fixed = false): void {
    const what = fixed ? 'Repairing' : 'ERROR'
    this.say(text.startsWith(':') ? what + text : `${what} ${text}`)
    if (fixed) this.corruptionsFixed++
    else this.corruptions++
  }

  result(imageEndOffset: number, totalClusters: number): CheckResult {
    const messages =
      this.#suppressed === 0
        ? this.messages
        : [...this.messages, `${this.#suppressed} further messages are left out`]
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
