/**
 * JSON values from a stream: objects back to back, pretty-printed or not, cut anywhere. A message
 * ends where its brackets balance, or where one closes that was not open; an error in it is kept
 * until then, so that what follows is read from a sane place. Memory is bounded by `limits.ts`.
 *
 * Nothing is recursive: values are put together on a stack of our own as tokens arrive.
 */
import { decodeString } from './json-string.ts'
import { JsonLexer, type TokenSink } from './lexer.ts'
import { maxMessageBytes, maxNesting, maxTokens } from './limits.ts'

/** Integers beyond 2^53 are bigints. */
export type Json =
  | null
  | boolean
  | number
  | bigint
  | string
  | readonly Json[]
  | { readonly [key: string]: Json }

export type JsonMessage = { readonly value: Json } | { readonly error: string }

type Frame =
  | { readonly kind: 'list'; readonly values: Json[]; expects: 'first' | 'value' | 'separator' }
  | {
      readonly kind: 'dict'
      readonly entries: Map<string, Json>
      key: string
      expects: 'first' | 'key' | 'colon' | 'value' | 'separator'
    }

const openBrace = 0x7b
const closeBrace = 0x7d
const openBracket = 0x5b
const closeBracket = 0x5d
const colon = 0x3a
const comma = 0x2c

export class JsonStream implements TokenSink {
  readonly #lexer = new JsonLexer(this)
  #stack: Frame[] = []
  #braces = 0
  #brackets = 0
  #tokens = 0
  #bytes = 0
  #error: string | undefined
  #value: Json | undefined
  #ready: JsonMessage | undefined;

  /** The messages that end in this chunk. Each is produced when asked for, not before. */
  *push(chunk: Uint8Array): Generator<JsonMessage> {
    for (let at = 0; at < chunk.length; ) {
      at = this.#lexer.next(chunk, at)
      if (this.#lexer.pending > maxMessageBytes) {
        this.#lexer.reset()
        this.#giveUp('JSON token size limit exceeded')
      }
      if (this.#ready) {
        const message = this.#ready
        this.#ready = undefined
        yield message
      }
    }
  }

  /** What is wrong with the message that has begun and not ended, were this the end. */
  get unfinished(): string | undefined {
    if (this.#tokens === 0 && this.#lexer.pending === 0) return undefined
    return `JSON parse error, ${this.#error ?? 'premature EOI'}`
  }

  structural(code: number): void {
    if (code === openBrace) this.#braces++
    else if (code === closeBrace) this.#braces--
    else if (code === openBracket) this.#brackets++
    else if (code === closeBracket) this.#brackets--
    if (this.#braces + this.#brackets > maxNesting) {
      this.#giveUp('JSON nesting depth limit exceeded')
      return
    }
    if (this.#error === undefined) this.#place(code)
    this.#counted(1)
  }

  string(raw: Uint8Array): void {
    const frame = this.#stack.at(-1)
    if (this.#error === undefined) {
      const decoded = decodeString(raw)
      if ('error' in decoded) this.#error = decoded.error
      else if (frame?.kind === 'dict' && this.#mayBeKey()) {
        frame.key = decoded.text
        frame.expects = 'colon'
      } else this.#scalar(decoded.text)
    }
    this.#counted(raw.length)
  }

  number(text: string): void {
    const value = toNumber(text)
    if (this.#error === undefined) {
      if (value === undefined) this.#error = `number ${text.slice(0, 40)} is out of range`
      else this.#scalar(value)
    }
    this.#counted(text.length)
  }

  keyword(text: string): void {
    if (this.#error === undefined) {
      if (Object.hasOwn(keywords, text)) this.#scalar(keywords[text])
      else if (this.#mayBeKey() || this.#mayBeValue()) {
        this.#error = `invalid keyword '${text.slice(0, 1024)}'`
      }
    }
    this.#counted(text.length)
  }

  stray(raw: Uint8Array): void {
    const text = Buffer.from(raw.subarray(0, 1024)).toString('utf8')
    this.#giveUp(`JSON parse error, stray '${text.split('\0', 1)[0]}'`)
  }

  /** Puts `{ } [ ] , :` where it belongs. */
  #place(code: number): void {
    const frame = this.#stack.at(-1)
    if (code === openBrace || code === openBracket) {
      this.#open(code)
      return
    }
    if (!frame) {
      this.#fail('expecting value')
      return
    }
    const closes = frame.kind === 'list' ? closeBracket : closeBrace
    if (code === closes && (frame.expects === 'first' || frame.expects === 'separator')) {
      this.#stack.pop()
      this.#add(frame.kind === 'list' ? frame.values : Object.fromEntries(frame.entries))
    } else if (code === comma && frame.expects === 'separator') {
      frame.expects = frame.kind === 'list' ? 'value' : 'key'
    } else if (code === colon && frame.expects === 'colon') {
      frame.expects = 'value'
    } else {
      this.#fail(expectation(frame, false))
    }
  }

  #open(code: number): void {
    if (!this.#mayBeValue()) return
    this.#stack.push(
      code === openBrace
        ? { kind: 'dict', entries: new Map(), key: '', expects: 'first' }
        : { kind: 'list', values: [], expects: 'first' },
    )
  }

  #scalar(value: Json): void {
    if (this.#mayBeValue()) this.#add(value)
  }

  #mayBeKey(): boolean {
    const frame = this.#stack.at(-1)
    return frame?.kind === 'dict' && (frame.expects === 'first' || frame.expects === 'key')
  }

  /** Whether a value may stand here; otherwise the error is noted. */
  #mayBeValue(): boolean {
    const frame = this.#stack.at(-1)
    if (!frame || frame.expects === 'value') return true
    if (frame.kind === 'list' && frame.expects === 'first') return true
    this.#fail(expectation(frame, true))
    return false
  }

  #add(value: Json): void {
    const frame = this.#stack.at(-1)
    if (!frame) {
      this.#value = value
      return
    }
    frame.expects = 'separator'
    if (frame.kind === 'list') frame.values.push(value)
    else if (frame.entries.has(frame.key)) this.#fail('duplicate key')
    else frame.entries.set(frame.key, value)
  }

  #fail(error: string): void {
    this.#error = error
    this.#stack = []
  }

  /** Counts a token, and ends the message when its brackets are closed. */
  #counted(bytes: number): void {
    this.#bytes += bytes
    if (++this.#tokens > maxTokens) {
      this.#giveUp('JSON token count limit exceeded')
      return
    }
    if (this.#bytes > maxMessageBytes) {
      this.#giveUp('JSON token size limit exceeded')
      return
    }
    const open = this.#braces > 0 || this.#brackets > 0
    if (open && this.#braces >= 0 && this.#brackets >= 0) return
    const error = this.#error ?? (this.#value === undefined ? 'expecting value' : undefined)
    this.#finish(
      error === undefined
        ? { value: this.#value as Json }
        : { error: `JSON parse error, ${error}` },
    )
  }

  /** Drops the message; what follows is read as the next one. */
  #giveUp(error: string): void {
    this.#finish({ error })
  }

  #finish(message: JsonMessage): void {
    this.#ready = message
    this.#stack = []
    this.#braces = this.#brackets = this.#tokens = this.#bytes = 0
    this.#error = this.#value = undefined
  }
}

/** Reads the one value of a text; the error's text is QEMU's. */
export function parseJson(text: string): JsonMessage {
  const stream = new JsonStream()
  // White space ends a number or keyword.
  const [first, second] = stream.push(Buffer.from(`${text}\n`))
  if (first && 'error' in first) return { error: first.error.replace(/\n'$/, "'") }
  if (stream.unfinished) return { error: stream.unfinished }
  if (!first) return { error: 'Expecting a JSON value' }
  return second ? { error: 'Expecting at most one JSON value' } : first
}

const keywords: Readonly<Record<string, Json>> = { true: true, false: false, null: null }

function expectation(frame: Frame, value: boolean): string {
  if (frame.kind === 'list') {
    return frame.expects === 'separator' ? 'expected separator in list' : 'expecting value'
  }
  switch (frame.expects) {
    case 'separator':
      return 'expected separator in dict'
    case 'colon':
      return 'missing : in object pair'
    case 'first':
    case 'key':
      return value ? 'key is not a string in object' : 'expecting value'
    default:
      return 'expecting value'
  }
}

function toNumber(text: string): number | bigint | undefined {
  const value = Number(text)
  if (Number.isSafeInteger(value)) return Object.is(value, -0) ? 0 : value
  if (!/[.eE]/.test(text)) {
    const exact = text.length > 20 ? undefined : BigInt(text)
    if (exact !== undefined && exact >= -(2n ** 63n) && exact < 2n ** 64n) return exact
  }
  return Number.isFinite(value) ? value : undefined
}
