/** Telnet, as far as QEMU speaks it: it says what it does, and skips what the other end says. */
import type { Duplex } from 'node:stream'
import { LayeredStream } from './layered-stream.ts'

/** RFC 854 */
const IAC = 0xff
const WILL = 0xfb
const DO = 0xfd
const SB = 0xfa
const SE = 0xf0
/** Interpret as command: end of record; RFC 885. */
const EOR = 0xef

/** Options, by the numbers that IANA keeps. */
const binary = 0
const echo = 1
const suppressGoAhead = 3
const terminalType = 24
const endOfRecord = 25

const greetings = {
  telnet: [
    ...[IAC, WILL, echo, IAC, WILL, suppressGoAhead],
    ...[IAC, WILL, binary, IAC, DO, binary],
  ],
  tn3270: [
    ...[IAC, DO, endOfRecord, IAC, WILL, endOfRecord, IAC, DO, binary, IAC, WILL, binary],
    ...[IAC, DO, terminalType, IAC, SB, terminalType, 1, IAC, SE],
  ],
} as const

/** IAC, SB, and what may be the end. */
const longestMet = 5

export type TelnetKind = keyof typeof greetings

/** What is written passes as it is, for it is text. */
export function overTelnet(client: Duplex, kind: TelnetKind): Duplex {
  client.write(Uint8Array.from(greetings[kind]))
  const filter = new CommandFilter()
  return new LayeredStream(client, { incoming: (bytes) => filter.pass(bytes) })
}

/** Commands may be cut anywhere between two pieces of data. */
export class CommandFilter {
  /** Bytes of the command under way that were met, the first being IAC. */
  #met: number[] = []

  pass(bytes: Uint8Array): Uint8Array {
    const text: number[] = []
    for (const byte of bytes) {
      if (this.#met.length === 0) {
        if (byte === IAC) this.#met = [byte]
        else text.push(byte)
        continue
      }
      this.#met.push(byte)
      // What an option is told may be of any length; only how it ends matters.
      if (this.#met.length > longestMet) this.#met.splice(2, 1)
      if (this.#met.length === 2 && byte === IAC) text.push(byte)
      if (this.#isComplete()) this.#met = []
    }
    return Uint8Array.from(text)
  }

  /** Two bytes, or three with an option; what an option is told lasts to its end. */
  #isComplete(): boolean {
    const [, command] = this.#met
    if (command === SB) return this.#met.length > 3 && this.#endsWith(IAC, SE)
    const hasOption = command >= WILL && command < IAC
    return this.#met.length === (hasOption ? 3 : 2) || command === EOR
  }

  #endsWith(...tail: readonly number[]): boolean {
    return tail.every((byte, index) => this.#met.at(index - tail.length) === byte)
  }
}
