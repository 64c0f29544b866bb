import { join } from 'node:path'
import { expect, test } from 'vitest'
import { scratchFolder } from '../test/support/folder.ts'
import { createImage } from './create-image.ts'
import { openDisk } from './disk.ts'
import { drivers } from './drivers.ts'
import { Graph } from './graph/graph.ts'

const folder = scratchFolder('disk')
const password = Buffer.from('open sesame')

test.each([
  ['luks', 'key-secret', {}],
  ['qcow2', 'encrypt.key-secret', { 'encrypt.format': 'luks' }],
])('an encrypted %s image opens with its secret, and with no other', async (format, name, more) => {
  const filename = join(folder, format)
  await using graph = new Graph({ drivers, secrets: async () => password })
  const iterTime = name.replace('key-secret', 'iter-time')
  const options = { ...more, [name]: 's', [iterTime]: 1, size: 1024 * 1024 }
  await createImage(graph, { filename, format, options })
  {
    await using disk = await openDisk(filename, {
      options: { [name]: 's' },
      secrets: { s: password },
    })
    await disk.write(5000, Buffer.from('hidden'))
  }
  const secrets = async () => password
  await using disk = await openDisk(filename, { readOnly: true, options: { [name]: 's' }, secrets })
  const found = Buffer.alloc(6)
  await disk.read(5000, found)
  expect(found.toString()).toBe('hidden')

  const wrong = { readOnly: true, options: { [name]: 's' }, secrets: { s: Buffer.from('no') } }
  await expect(openDisk(filename, wrong)).rejects.toMatchObject({ code: 'PERMISSION' })
  await expect(openDisk(filename, { ...wrong, secrets: {} })).rejects.toThrow(
    "No secret with id 's'",
  )
  await expect(openDisk(filename, { readOnly: true })).rejects.toThrow(
    `Parameter '${name}' is required for cipher`,
  )
})

test('what a program without types passes is refused with a code, never thrown at once', async () => {
  const filename = join(folder, 'nonsense')
  await using graph = new Graph({ drivers })
  await createImage(graph, { filename, format: 'qcow2', options: { size: 1024 * 1024 } })
  await using disk = await openDisk(filename)
  const wrong = { code: 'INVALID_ARGUMENT' }
  for (const bytes of ['text', 512, new Uint16Array(4), new ArrayBuffer(4), undefined] as never[]) {
    await expect(disk.read(0, bytes)).rejects.toMatchObject(wrong)
    await expect(disk.write(0, bytes)).rejects.toMatchObject(wrong)
  }
  await expect(disk.truncate(-1)).rejects.toMatchObject(wrong)
  await expect(disk.truncate(2 ** 60)).rejects.toThrow('at most, which are 8 PiB')
  await expect(disk.extents({ offset: -1 }).next()).rejects.toMatchObject(wrong)
  await expect(disk.extents({ offset: 2 ** 21 }).next()).rejects.toMatchObject(wrong)
  const beyond = disk.extents({ offset: 0, length: 2 ** 21 })
  await expect(beyond.next()).rejects.toMatchObject({ code: 'OUT_OF_RANGE' })
  const signal = AbortSignal.abort(new Error('enough'))
  await expect(disk.read(0, Buffer.alloc(512), { signal })).rejects.toThrow('enough')
})

test('a disk that is open for reading is not made larger', async () => {
  const filename = join(folder, 'read-only')
  await using graph = new Graph({ drivers })
  await createImage(graph, { filename, format: 'qcow2', options: { size: 1024 * 1024 } })
  await using disk = await openDisk(filename, { readOnly: true })
  await expect(disk.truncate(2 ** 21)).rejects.toMatchObject({ code: 'READ_ONLY' })
})
