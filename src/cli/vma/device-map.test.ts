import { Readable } from 'node:stream'
import { describe, expect, test } from 'vitest'
import { parseLine, readDeviceMap } from './device-map.ts'

const plain = { direct: false, noFlush: false, writethrough: false }

describe('a line', () => {
  test.each([
    ['0:drive-scsi0=/dev/vg/disk', { writeZeroes: false, path: '/dev/vg/disk', cache: plain }],
    ['1:drive-scsi0=/a:b=c', { writeZeroes: true, path: '/a:b=c' }],
    ['format=qcow2:1:drive-scsi0=x.qcow2', { format: 'qcow2', path: 'x.qcow2' }],
    [
      'format=raw:throttling.bps=1048576:throttling.group=g:cache=none:0:drive-scsi0=x',
      {
        format: 'raw',
        throttle: { bytesPerSecond: 1_048_576, group: 'g' },
        cache: { ...plain, direct: true },
      },
    ],
    ['throttling.bps=5:cache=unsafe:1:drive-scsi0=x', { throttle: { bytesPerSecond: 5 } }],
  ])('%s', (line, expected) => {
    expect(parseLine(line)).toMatchObject({ device: 'drive-scsi0', ...expected })
  })

  test('that skips a device is its name', () => {
    expect(parseLine('skip=drive-scsi1')).toBe('drive-scsi1')
  })

  test.each([
    'skip=',
    'drive=x',
    '2:drive=x',
    '1:drive',
    '1:=x',
    'cache=none:drive=x',
    'cache=maybe:1:drive=x',
    'throttling.bps=fast:1:drive=x',
    'throttling.bps=0:1:drive=x',
    'throttling.group=g:1:drive=x',
    'format=raw:format=raw:1:drive=x',
  ])('%s is refused', (line) => {
    expect(() => parseLine(line)).toThrow(`device map: '${line}'`)
  })
})

describe('a map', () => {
  const read = (...chunks: string[]) =>
    readDeviceMap(Readable.from(chunks.map((c) => Buffer.from(c))))

  test.each([
    ['the end', ['0:a=x\nskip=b']],
    ['done', ['0:a=x\nskip=b\ndone\nnonsense\n']],
    ['an empty line', ['0:a=x\nskip=b\n\nnonsense']],
    ['lines that come in pieces', ['0:', 'a=x', '\nsk', 'ip=b\ndo', 'ne\n']],
  ])('ends with %s', async (_, chunks) => {
    const { mapped, skipped } = await read(...chunks)
    expect([...mapped.keys()]).toEqual(['a'])
    expect([...skipped]).toEqual(['b'])
  })

  test('names each device once', async () => {
    await expect(read('0:a=x\nskip=a\n')).rejects.toThrow("'a' is mapped twice")
  })

  test('has an end', async () => {
    await expect(read('x'.repeat(2 ** 21 + 1))).rejects.toThrow('too long')
  })
})
