import { describe, expect, it } from 'vitest'
import { escapeCommas, parseKeyval, parseOptionString } from './keyval.ts'

describe('keyval, as --blockdev takes it', () => {
  it('makes objects of dots and lists of numbers', () => {
    expect(
      parseKeyval('qcow2,file.driver=file,file.filename=a,,b=c,x.0=p,x.1.y=q', 'driver'),
    ).toEqual({
      driver: 'qcow2',
      file: { driver: 'file', filename: 'a,b=c' },
      x: ['p', { y: 'q' }],
    })
  })

  it('lets the last value of a key count and ignores a comma at the end', () => {
    expect(parseKeyval('a=1,a=2,b=,')).toEqual({ a: '2', b: '' })
    expect(parseKeyval('')).toEqual({})
  })

  it.each([
    ['null-co,b', "Expected '=' after parameter 'b'"],
    ['null-co,=3', "Invalid parameter ''"],
    [',node-name=x', "Invalid parameter ''"],
    ['null-co,a..b=3', "Invalid parameter 'a..b'"],
    ['null-co,a.b=1,a=2', "Parameters 'a.*' used inconsistently"],
    ['null-co,a=2,a.b=1', "Parameters 'a.*' used inconsistently"],
    ['null-co,a.0=1,a.1=2,a.3=5', "Parameter 'a.2' missing"],
    ['null-co,a.0=1,a.b=2', "Parameters 'a.*' used inconsistently"],
  ])('refuses %s', (text, message) => {
    expect(() => parseKeyval(text, 'driver')).toThrow(message)
  })

  it('does not touch the prototype of its result', () => {
    expect(() => parseKeyval('__proto__.x=1')).toThrow("Invalid parameter '__proto__.x'")
  })
})

describe('option strings, as -o and --image-opts take them', () => {
  it('stay flat', () => {
    expect(parseOptionString('file.filename=a,,b,size=1k').options).toEqual({
      'file.filename': 'a,b',
      size: '1k',
    })
  })

  it('take a name alone as on, or off, and report it', () => {
    const { options, shortForms } = parseOptionString('read-only,nolazy')
    expect(options).toEqual({ 'read-only': 'on', lazy: 'off' })
    expect(shortForms).toEqual([
      { written: 'read-only', meaning: 'read-only=on' },
      { written: 'nolazy', meaning: 'lazy=off' },
    ])
  })

  it('take the first word as the value of the implied name', () => {
    expect(parseOptionString('disk0,read-only=on', 'file').options).toEqual({
      file: 'disk0',
      'read-only': 'on',
    })
  })

  it('give back what was escaped', () => {
    expect(parseOptionString(`a=${escapeCommas('x,,y,')}`).options).toEqual({ a: 'x,,y,' })
  })
})
