/**
 * Cuts a stream of bytes into the tokens of JSON as QEMU reads it: strings also in single quotes,
 * control characters not allowed inside them, and after a byte that fits nowhere a recovery that
 * skips to the next bracket, comma, colon or control character. (0xFF is such a byte: sending it
 * brings any QMP server back to a known state.)
 *
 * Tokens are checked for their shape only; strings are decoded and keywords judged by the parser.
 */

/** What the lexer found; one call for each token, in order. */
export interface TokenSink {
  /** One of `{}[],:`, as its character code. */
  structural(code: number): void
  /** A string with its quotes and escapes. The bytes may be kept. */
  string(raw: Uint8Array): void
  number(text: string): void
  keyword(text: string): void
  /** Bytes that begin no token, up to and with the one that did not fit. */
  stray(raw: Uint8Array): void
}

type State =
  | 'start'
  | 'string'
  | 'escape'
  | 'minus'
  | 'zero'
  | 'integer'
  | 'point'
  | 'fraction'
  | 'exponent'
  | 'exponentSign'
  | 'exponentDigits'
  | 'keyword'
  | 'recovery'

const tab = 0x09
const newline = 0x0a
const carriageReturn = 0x0d
const space = 0x20
const doubleQuote = 0x22
const singleQuote = 0x27
const plus = 0x2b
const minus = 0x2d
const point = 0x2e
const zero = 0x30
const nine = 0x39
const backslash = 0x5c
/** Bytes from here on are in no UTF-8 text. */
const neverText = 0xfe

const structural = new Set([...'{}[],:'].map((character) => character.charCodeAt(0)))

export class JsonLexer {
  readonly #sink: TokenSink
  #state: State = 'start'
  #quote = 0
  /** Earlier chunks of a token that reaches over their end. */
  #parts: Uint8Array[] = []
  #partsLength = 0

  constructor(sink: TokenSink) {
    this.#sink = sink
  }

  /** Bytes of the unfinished token. */
  get pending(): number {
    return this.#partsLength
  }

  /** Forgets the unfinished token. */
  reset(): void {
    this.#state = 'start'
    this.#drop()
  }

  /**
   * Reads `chunk` from `start` until the first token is complete, and returns the position behind
   * what it has used up; the chunk's length when it needs more. Tokens come one a call, so that
   * the caller can act upon one before the next.
   */
  next(chunk: Uint8Array, start: number): number {
    let begin = start
    for (let at = start; at < chunk.length; at++) {
      const byte = chunk[at]
      switch (this.#state) {
        case 'start': {
          if (byte === space || byte === newline || byte === carriageReturn || byte === tab) {
            continue
          }
          begin = at
          if (structural.has(byte)) {
            this.#sink.structural(byte)
            return at + 1
          }
          const state = firstState(byte)
          if (state === undefined) return this.#fail(chunk, begin, at)
          if (state === 'string') this.#quote = byte
          this.#state = state
          continue
        }
        case 'string':
          if (byte === this.#quote) {
            this.#state = 'start'
            this.#sink.string(this.#take(chunk, begin, at + 1))
            return at + 1
          }
          if (byte === backslash) this.#state = 'escape'
          else if (byte < space || byte >= neverText) return this.#fail(chunk, begin, at)
          continue
        case 'escape':
          if (byte < space || byte >= neverText) return this.#fail(chunk, begin, at)
          this.#state = 'string'
          continue
        case 'keyword':
          if (isLetter(byte)) continue
          this.#state = 'start'
          this.#sink.keyword(ascii(this.#take(chunk, begin, at)))
          return at
        case 'recovery':
          if (structural.has(byte) || byte < space || byte >= neverText) {
            this.#state = 'start'
            if (!structural.has(byte)) continue
            this.#sink.structural(byte)
            return at + 1
          }
          continue
        default: {
          const state = afterNumber(this.#state, byte)
          if (state === 'wrong') return this.#fail(chunk, begin, at)
          if (state !== 'end') {
            this.#state = state
            continue
          }
          this.#state = 'start'
          this.#sink.number(ascii(this.#take(chunk, begin, at)))
          return at
        }
      }
    }
    if (this.#state !== 'start' && this.#state !== 'recovery') this.#keep(chunk.subarray(begin))
    return chunk.length
  }

  #fail(chunk: Uint8Array, begin: number, at: number): number {
    this.#state = 'recovery'
    this.#sink.stray(this.#take(chunk, begin, at + 1))
    return at + 1
  }

  #keep(part: Uint8Array): void {
    this.#parts.push(Uint8Array.from(part))
    this.#partsLength += part.length
  }

  #take(chunk: Uint8Array, begin: number, end: number): Uint8Array {
    const last = chunk.subarray(begin, end)
    if (this.#parts.length === 0) return last
    const whole = Buffer.concat([...this.#parts, last])
    this.#drop()
    return whole
  }

  #drop(): void {
    this.#parts = []
    this.#partsLength = 0
  }
}

function firstState(byte: number): State | undefined {
  if (byte === doubleQuote || byte === singleQuote) return 'string'
  if (byte === minus) return 'minus'
  if (byte === zero) return 'zero'
  if (isDigit(byte)) return 'integer'
  return isLetter(byte) ? 'keyword' : undefined
}

/** The next state of a number, `end` where the byte is no longer part of it. */
function afterNumber(state: State, byte: number): State | 'end' | 'wrong' {
  const digit = isDigit(byte)
  const exponent = byte === 0x65 || byte === 0x45
  switch (state) {
    case 'minus':
      return digit ? (byte === zero ? 'zero' : 'integer') : 'wrong'
    case 'zero':
      if (digit) return 'wrong'
      return byte === point ? 'point' : exponent ? 'exponent' : 'end'
    case 'integer':
      if (digit) return 'integer'
      return byte === point ? 'point' : exponent ? 'exponent' : 'end'
    case 'point':
      return digit ? 'fraction' : 'wrong'
    case 'fraction':
      return digit ? 'fraction' : exponent ? 'exponent' : 'end'
    case 'exponent':
      if (byte === plus || byte === minus) return 'exponentSign'
      return digit ? 'exponentDigits' : 'wrong'
    case 'exponentSign':
      return digit ? 'exponentDigits' : 'wrong'
    default:
      return digit ? 'exponentDigits' : 'end'
  }
}

function isDigit(byte: number): boolean {
  return byte >= zero && byte <= nine
}

/** Keywords are of small letters only. */
function isLetter(byte: number): boolean {
  return byte >= 0x61 && byte <= 0x7a
}

function ascii(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')
}
