import { describe, expect, it } from 'vitest'
import { type LongOption, OptionParser } from './getopt.ts'

const long: LongOption[] = [
  { name: 'help', as: 'h' },
  { name: 'socket', argument: 'required', as: 'k' },
  { name: 'snapshot', as: 's' },
  { name: 'shared', argument: 'required', as: 'e' },
  { name: 'level', argument: 'optional' },
  { name: 'size' },
]

/** Each option as `name` or `name=argument`, then the other arguments. */
function parse(...words: string[]): { options: string[]; rest: readonly string[] } {
  const parser = new OptionParser(words, 'hk:se:v::', long)
  const options: string[] = []
  for (let option = parser.next(); option; option = parser.next()) {
    if (option.kind === 'error') options.push(`${option.message} [${parser.current}]`)
    else options.push(option.name + (option.argument === undefined ? '' : `=${option.argument}`))
  }
  return { options, rest: parser.rest }
}

describe('getopt', () => {
  it('splits bundles and takes attached and separate arguments', () => {
    expect(parse('-hsk', 'sock', '-kother', 'x')).toEqual({
      options: ['h', 's', 'k=sock', 'k=other'],
      rest: ['x'],
    })
  })

  it('takes an optional argument only when it is attached', () => {
    expect(parse('-v', '-v3', '--level', '--level=4', 'x')).toEqual({
      options: ['v', 'v=3', 'level', 'level=4'],
      rest: ['x'],
    })
  })

  it('finds options behind other arguments and keeps the order of those', () => {
    expect(parse('a', '-h', 'b', '--socket', 's', 'c', '-s', 'd')).toEqual({
      options: ['h', 'k=s', 's'],
      rest: ['a', 'b', 'c', 'd'],
    })
  })

  it('ends at a double dash, but not at a single one', () => {
    expect(parse('a', '-', '-h', '--', '-s', 'b')).toEqual({
      options: ['h'],
      rest: ['a', '-', '-s', 'b'],
    })
  })

  it('leaves options behind arguments alone under POSIXLY_CORRECT', () => {
    process.env.POSIXLY_CORRECT = '1'
    try {
      expect(parse('-h', 'a', '-s')).toEqual({ options: ['h'], rest: ['a', '-s'] })
    } finally {
      delete process.env.POSIXLY_CORRECT
    }
  })

  it('accepts names cut short, and an empty argument', () => {
    expect(parse('--so', 'a', '--sn', '--socket=')).toEqual({
      options: ['k=a', 's', 'k='],
      rest: [],
    })
  })

  it('says what is wrong in the words of getopt', () => {
    expect(parse('--foo=1', '-xh', '--s', '--snapshot=1', '-k').options).toEqual([
      "unrecognized option '--foo=1' [--foo=1]",
      "invalid option -- 'x' [--foo=1]",
      'h',
      "option '--s' is ambiguous; possibilities: '--socket' '--snapshot' '--shared' '--size' [--s]",
      "option '--snapshot' doesn't allow an argument [--snapshot=1]",
      "option requires an argument -- 'k' [-k]",
    ])
    expect(parse('--socket').options).toEqual(["option '--socket' requires an argument [--socket]"])
  })
})

it('without long options two dashes begin a bundle of short ones', () => {
  const parser = new OptionParser(['--quiet'], 'q')
  expect(parser.next()).toMatchObject({ kind: 'error', message: "invalid option -- '-'" })
})
