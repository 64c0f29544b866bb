/** Zeroes that a guest writes as data, and discards: what an image has of them afterwards, as with qemu-io. */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { scratchFolder } from '../support/folder.ts'
import { qemuIo, realIo, varveIo } from '../support/io-tools.ts'

const folder = scratchFolder('detect-zeroes')
let count = 0

/** A disk of 4 MiB full of data, the same for both. */
function make(format: string): string {
  const name = join(folder, `${count++}.${format}`)
  execFileSync('qemu-img', ['create', '-q', '-f', format, name, '4M'])
  execFileSync('qemu-io', ['-f', format, '-c', 'write -q -P 1 0 4M', name])
  return name
}

function mapOf(format: string, name: string): unknown {
  const map = execFileSync('qemu-img', ['map', '-f', format, '--output=json', name])
  return JSON.parse(map.toString()).map(
    ({ start, length, zero, data }: Record<string, unknown>) => ({
      start,
      length,
      zero,
      data,
    }),
  )
}

const nodes = [
  'discard=ignore',
  'discard=unmap',
  'discard=ignore,detect-zeroes=on',
  'discard=unmap,detect-zeroes=on',
  'discard=unmap,detect-zeroes=unmap',
  'discard=ignore,detect-zeroes=unmap',
]
const lines = ['write -P 0 64k 1M', 'write -P 0 2M 1k', 'discard 3M 512k', 'write -z 1536k 64k']
const commands = [...lines, 'write -z -u 1792k 64k', 'flush'].flatMap((line) => ['-c', line])
const cases = ['raw', 'qcow2'].flatMap((format) => nodes.map((options) => [format, options]))

qemuIo.describe('zeroes and discards', () => {
  it.each(cases)('%s,%s', async (format, options) => {
    const [theirs, ours] = [make(format), make(format)]
    const file = (name: string) => `driver=${format},${options},file.filename=${name}`
    const expected = await realIo([...commands, '--image-opts', file(theirs)])
    expect(await varveIo([...commands, '--image-opts', file(ours)])).toEqual(expected)
    expect(mapOf(format, ours)).toEqual(mapOf(format, theirs))
  })
})
