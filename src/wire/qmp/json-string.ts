/** Decodes the inside of JSON strings. */

/** A string, or why it is none. */
export type DecodedString = { readonly text: string } | { readonly error: string }

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

const escapes: Readonly<Record<string, string>> = {
  '"': '"',
  "'": "'",
  '\\': '\\',
  '/': '/',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
}

/** `raw` has its quotes still on. The texts of errors are QEMU's. */
export function decodeString(raw: Uint8Array): DecodedString {
  let text: string
  try {
    text = decoder.decode(raw)
  } catch {
    return { error: 'invalid UTF-8 sequence in string' }
  }
  if (hasNonCharacter(text)) return { error: 'invalid UTF-8 sequence in string' }
  return text.includes('\\') ? withoutEscapes(text) : { text: text.slice(1, -1) }
}

/** `text` has its quotes still on. */
function withoutEscapes(text: string): DecodedString {
  let result = ''
  for (let at = 1; at < text.length - 1; ) {
    const next = text.indexOf('\\', at)
    if (next < 0) return { text: result + text.slice(at, -1) }
    result += text.slice(at, next)
    const kind = text[next + 1]
    if (kind === 'u') {
      const character = unicodeEscape(text, next)
      if (character === undefined) {
        return { error: `${text.slice(next, next + 6)} is not a valid Unicode character` }
      }
      result += character
      at = next + 6 * character.length
    } else if (Object.hasOwn(escapes, kind)) {
      result += escapes[kind]
      at = next + 2
    } else {
      return { error: 'invalid escape sequence in string' }
    }
  }
  return { text: result }
}

/** The character of `\uXXXX` at `at`, or of the two that make a surrogate pair. */
function unicodeEscape(text: string, at: number): string | undefined {
  const first = codeUnit(text, at)
  if (first === undefined) return undefined
  const isHigh = first >= 0xd800 && first < 0xdc00
  const second = isHigh ? codeUnit(text, at + 6) : undefined
  const units = second === undefined ? [first] : [first, second]
  const character = String.fromCharCode(...units)
  const paired = !/[\ud800-\udfff]/u.test(character)
  return paired && !hasNonCharacter(character) ? character : undefined
}

function codeUnit(text: string, at: number): number | undefined {
  const match = /^\\u([0-9A-Fa-f]{4})$/.exec(text.slice(at, at + 6))
  return match ? Number.parseInt(match[1], 16) : undefined
}

/** Code points that Unicode reserves for never being characters. */
function hasNonCharacter(text: string): boolean {
  return /\p{Noncharacter_Code_Point}/u.test(text)
}
