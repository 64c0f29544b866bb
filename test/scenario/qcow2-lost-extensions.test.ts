/**
 * Header extensions that cannot be followed any more: a repair ends them there and loses nothing of the
 * disk; or it changes nothing at all, where something is lost that cannot be done without.
 */
import { expect, it } from 'vitest'
import { type BlockLayer, plainIo, plainWriteIo } from '../../src/block/layer.ts'
import { extensionType } from '../../src/format/qcow2/extensions.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { newImage, openImage } from '../support/qcow2.ts'

const diskSize = 512 * 1024
const data = new Uint8Array(diskSize / 2).fill(0x5a)

async function sample(options: Readonly<Record<string, unknown>>): Promise<Buffer> {
  const file = await newImage({ size: diskSize, ...options })
  const { layer } = await openImage(file)
  await layer.write(4096, data, plainWriteIo)
  await layer[Symbol.asyncDispose]()
  return await bytesOf(file)
}

async function bytesOf(file: BlockLayer): Promise<Buffer> {
  const bytes = Buffer.alloc(file.size)
  await file.read(0, bytes, plainIo)
  return bytes
}

/** Where the extension of a type begins. */
function placeOf(bytes: Buffer, type: number): number {
  for (let at = bytes.readUInt32BE(100); ; ) {
    if (bytes.readUInt32BE(at) === type) return at
    at += 8 + Math.ceil(bytes.readUInt32BE(at + 4) / 8) * 8
  }
}

const damages: Readonly<Record<string, (bytes: Buffer, at: number) => void>> = {
  'is too long': (bytes, at) => bytes.writeUInt32BE(0xfffffff0, at + 4),
  'ends behind the cluster': (bytes, at) => bytes.writeUInt32BE(65_536, at + 4),
}

it.each(Object.keys(damages))('are repaired where the names of features %s', async (title) => {
  for (const options of [{}, { backing_file: 'b', backing_fmt: 'raw' }]) {
    const bytes = await sample(options)
    damages[title](bytes, placeOf(bytes, extensionType.featureNames))
    await expect(openImage(MemoryLayer.of(bytes.slice()))).rejects.toThrow('Header extension')
    const file = MemoryLayer.of(bytes)
    const check = await openImage(file, { check: true })
    const { corruptions, corruptionsFixed, messages } = await check.image.check('all')
    expect({ corruptions, corruptionsFixed }, messages.join()).toEqual({
      corruptions: 0,
      corruptionsFixed: 1,
    })
    expect(messages.join()).toContain('what lies behind it is given up')
    await check.layer[Symbol.asyncDispose]()
    const { layer, image } = await openImage(file)
    const found = new Uint8Array(data.length)
    await layer.read(4096, found, plainIo)
    expect(found).toEqual(data)
    expect(image.header.current.backingFile).toBe(options.backing_file)
    expect((await image.check('none')).messages).toEqual([])
    await layer[Symbol.asyncDispose]()
  }
})

it('are left as they are where the format of a backing file is lost', async () => {
  const bytes = await sample({ backing_file: 'b', backing_fmt: 'raw' })
  bytes.writeUInt32BE(20, placeOf(bytes, extensionType.backingFormat) + 4)
  const file = MemoryLayer.of(bytes.slice())
  const { image } = await openImage(file, { check: true })
  await expect(image.check('all')).rejects.toThrow('which is not guessed')
  await expect(image.check('leaks')).rejects.toThrow("The backing format's name is 20 bytes long")
  expect((await bytesOf(file)).equals(bytes)).toBe(true)
})

it('are left as they are where the place of the key material is lost', async () => {
  const bytes = await sample({
    'encrypt.format': 'luks',
    'encrypt.key-secret': 's',
    'encrypt.iter-time': 1,
  })
  bytes.writeUInt32BE(0xfffffff0, placeOf(bytes, extensionType.encryption) + 4)
  const file = MemoryLayer.of(bytes.slice())
  await expect(openImage(file, { check: true })).rejects.toThrow('Missing CRYPTO header')
  expect((await bytesOf(file)).equals(bytes)).toBe(true)
})
