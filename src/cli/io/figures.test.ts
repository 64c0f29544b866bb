import { expect, test } from 'vitest'
import { amount, hexDump, report } from './figures.ts'

test.each([
  [0, '0 bytes'],
  [512, '512 bytes'],
  [1023, '1023 bytes'],
  [1025, '1.001 KiB'],
  [1536, '1.500 KiB'],
  [0x1d0000, '1.812 MiB'],
  [0x1d8000, '1.844 MiB'],
  [1048575, '1023.999 KiB'],
  [3 * 2 ** 30, '3 GiB'],
  [1.5 * 2 ** 60, '1.500 EiB'],
  [0.1208334, '0.120833 bytes'],
])('%d bytes are written as %s', (value, text) => {
  expect(amount(value)).toBe(text)
})

test('a request is reported for people and for programs', () => {
  const done = { verb: 'read', offset: 16, length: 4096, seconds: 2 } as const
  expect(report({ ...done, machine: false })).toBe(
    'read 4096/4096 bytes at offset 16\n4 KiB, 1 ops; 02.00 sec (2 KiB/sec and 0.5000 ops/sec)\n',
  )
  expect(report({ ...done, seconds: 3725.5, machine: true })).toBe(
    '4096,1,1:02:05.50,1.099,0.000\n',
  )
})

test('the last line of a dump is as short as its data', () => {
  const bytes = new Uint8Array(18).fill(0x41, 0, 3)
  expect([...hexDump(bytes, 16)]).toEqual([
    '00000010:  41 41 41 00 00 00 00 00 00 00 00 00 00 00 00 00  AAA.............\n',
    '00000020:  00 00  ..\n',
  ])
})
