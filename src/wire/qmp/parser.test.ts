import { describe, expect, it } from 'vitest'
import { Random, runSeed, seedNote } from '../../../test/support/random.ts'
import { maxNesting } from './limits.ts'
import { type JsonMessage, JsonStream, parseJson } from './parser.ts'
import { printJson } from './printer.ts'

function read(text: string | Uint8Array, stream = new JsonStream()): JsonMessage[] {
  return [...stream.push(typeof text === 'string' ? Buffer.from(text) : text)]
}

const errorsOf = (text: string | Uint8Array) =>
  read(text).map((message) => ('error' in message ? message.error : 'fine'))

const parsed = (text: string) => {
  const message = parseJson(text)
  if ('error' in message) throw new Error(message.error)
  return message.value
}

describe('a stream of JSON', () => {
  it('gives objects that stand back to back, one by one', () => {
    expect(read(`{"a":1}{"b":[2, {}]}\n\t [null,true,false]`)).toEqual([
      { value: { a: 1 } },
      { value: { b: [2, {}] } },
      { value: [null, true, false] },
    ])
  })

  it('takes strings in single quotes, and every escape', () => {
    expect(
      new Map(Object.entries(parsed(`{'a"b\\'': "\\u00e9\\ud83d\\ude00\\n\\/'"}`) as object)),
    ).toEqual(new Map([['a"b\'', `é😀\n/'`]]))
  })

  it('keeps integers of 64 bits, and makes larger ones floating', () => {
    expect(parsed('[18446744073709551615, -9223372036854775808, 18446744073709551616]')).toEqual([
      18446744073709551615n,
      -9223372036854775808n,
      2 ** 64,
    ])
  })

  it('holds members called __proto__ as members', () => {
    expect(Object.keys(parsed('{"__proto__": {"x": 1}}') as object)).toEqual(['__proto__'])
  })

  // What Debian's qemu-storage-daemon answered to the same bytes.
  it.each([
    ['garbage\n', ["invalid keyword 'garbage'"]],
    ['[1 2]', ['expected separator in list']],
    ['[,]', ['expecting value']],
    ['{]', ['expecting value']],
    ['{"a" 1}', ['missing : in object pair']],
    ['{"a":}', ['expecting value']],
    ['{1:2}', ['key is not a string in object']],
    ['{"a":1,}', ['expecting value']],
    ['{"a":1:2}', ['expected separator in dict']],
    ['{"a":1,"a":2}', ['duplicate key']],
    ['{"a":tr}', ["invalid keyword 'tr'"]],
    ['[1}', ['expected separator in list']],
    ['{"a":[}{"b":1}]}', ['expecting value', 'expecting value']],
    ['[[[{"a":1}]}', ['expected separator in list']],
    ['"\\q"', ['invalid escape sequence in string']],
    ['"\\ud800"', ['\\ud800 is not a valid Unicode character']],
    ['"\\ud83dx"', ['\\ud83d is not a valid Unicode character']],
    ['"a\\u12"', ['\\u12" is not a valid Unicode character']],
    ['"\\ufffe"', ['\\ufffe is not a valid Unicode character']],
    ['01 ', ["stray '01'"]],
    ['-a ', ["stray '-a'"]],
    ['1. ', ["stray '1. '"]],
    ['"a\u0001" foo bar', ["stray '\"a\u0001'"]],
    ['{"a": "x", "b": \\ }', ["stray '\\'", 'expecting value']],
    [']}', ['expecting value', 'expecting value']],
  ])('says what is wrong with %j', (text, errors) => {
    expect(errorsOf(text)).toEqual(errors.map((error) => `JSON parse error, ${error}`))
  })

  it('is brought back to a known state by a byte of 0xff', () => {
    const stream = new JsonStream()
    expect(read(Uint8Array.of(0x7b, 0x22, 0x61, 0xff), stream)).toEqual([
      { error: "JSON parse error, stray '\"a\ufffd'" },
    ])
    expect(read('{"b":1}', stream)).toEqual([{ value: { b: 1 } }])
  })

  it('refuses what is no UTF-8', () => {
    expect(errorsOf(Uint8Array.of(0x22, 0xc3, 0x28, 0x22))).toEqual([
      'JSON parse error, invalid UTF-8 sequence in string',
    ])
  })

  it('nests to the limit and not beyond it', () => {
    const deep = '['.repeat(maxNesting) + ']'.repeat(maxNesting)
    expect(errorsOf(deep)).toEqual(['fine'])
    expect(errorsOf(`[${deep}`)[0]).toBe('JSON nesting depth limit exceeded')
  })

  it('reads the same however it is cut', () => {
    const random = new Random(runSeed)
    const text = Buffer.from(
      `{"execute":"a","arguments":{"x":[1,-2.5e3,"é😀\\u00e9"],'y':null}} garbage 01 {]["b",true]\n`,
    )
    const whole = read(text)
    for (let round = 0; round < 200; round++) {
      const stream = new JsonStream()
      const messages: JsonMessage[] = []
      for (let at = 0; at < text.length; ) {
        const length = 1 + random.below(5)
        messages.push(...read(text.subarray(at, at + length), stream))
        at += length
      }
      expect(messages, seedNote).toEqual(whole)
    }
  })
})

describe('printed JSON', () => {
  it('is ASCII in the layout of QEMU', () => {
    expect(printJson({ a: [1, 'é\u007f', {}], b: undefined, c: 2n ** 64n - 1n })).toBe(
      '{"a": [1, "\\u00E9\\u007F", {}], "c": 18446744073709551615}',
    )
  })

  it('is indented by four when pretty', () => {
    expect(printJson({ a: [1], b: [], c: {} }, true)).toBe(
      '{\n    "a": [\n        1\n    ],\n    "b": [\n    ],\n    "c": {\n    }\n}',
    )
  })
})
