import { expect, test } from 'vitest'
import { newImage, openImage } from '../../../../test/support/qcow2.ts'
import { plainIo, plainWriteIo } from '../../../block/layer.ts'
import { MemoryLayer } from '../../../protocol/memory.ts'

/** Where `newImage` puts the extension: behind the fields of the header. */
const extensionAt = 112

async function newBytes(): Promise<Uint8Array> {
  const options = {
    size: 65536,
    'encrypt.format': 'luks',
    'encrypt.key-secret': 's',
    'encrypt.iter-time': 1,
    'encrypt.cipher-alg': 'aes-128',
  }
  const file = await newImage(options)
  const bytes = new Uint8Array(file.size)
  await file.read(0, bytes, plainIo)
  return bytes
}

const sound = await newBytes()
const u32 = (value: number) => [
  value >>> 24,
  (value >>> 16) & 255,
  (value >>> 8) & 255,
  value & 255,
]
const u64 = (value: bigint) => [...u32(Number(value >> 32n)), ...u32(Number(value & 0xffffffffn))]

test.each<[string, number, number[], string]>([
  ['no encryption', 32, u32(0), 'CRYPTO header extension only expected with LUKS encryption'],
  ['the older AES', 32, u32(1), 'CRYPTO header extension only expected with LUKS encryption'],
  ['an unknown method', 32, u32(3), 'Unsupported encryption method 3'],
  ['no place', extensionAt, u32(0x01010101), 'Missing CRYPTO header for crypt method 2'],
  [
    'a place of another size',
    extensionAt + 4,
    u32(8),
    'CRYPTO header extension size 8, but expected size 16',
  ],
  [
    'a place within a cluster',
    extensionAt + 8,
    u64(0x40200n),
    "Encryption header offset '262656' is not a multiple of cluster size '65536'",
  ],
  ['a place behind the end', extensionAt + 8, u64(0x40000000n), 'Volume is not in LUKS format'],
  ['a place beyond 2^53', extensionAt + 8, u64(1n << 63n), 'beyond 2^53'],
  ['no length', extensionAt + 16, u64(0n), 'Request for data outside of extension header'],
  [
    'a length without key material',
    extensionAt + 16,
    u64(600n),
    'Request for data outside of extension header',
  ],
])('an image that claims %s is refused', async (_, at, bytes, message) => {
  const broken = sound.slice()
  broken.set(bytes, at)
  await expect(openImage(MemoryLayer.of(broken))).rejects.toThrow(message)
})

test('check finds a key header that reaches beyond the file', async () => {
  const broken = sound.slice()
  broken.set(u64(1n << 40n), extensionAt + 16)
  const { image, layer } = await openImage(MemoryLayer.of(broken), { readOnly: true })
  const { corruptions, messages } = await image.check('none')
  expect(corruptions).toBeGreaterThan(0)
  expect(messages.join('\n')).toContain('exceeding the end of the file')
  await layer[Symbol.asyncDispose]()
})

test('an enciphered cluster is in the file, and nothing of what it says', async () => {
  const file = MemoryLayer.of(sound.slice())
  const { layer } = await openImage(file)
  const text = Buffer.alloc(65536, 'attack at dawn. ')
  await layer.write(0, text, plainWriteIo)
  expect(await layer.extentAt(0, 65536, plainIo)).toEqual({
    offset: 0,
    length: 65536,
    kind: 'encoded',
  })
  await layer[Symbol.asyncDispose]()
  const stored = Buffer.alloc(file.size)
  await file.read(0, stored, plainIo)
  expect(stored.includes('attack')).toBe(false)
  expect(stored.includes('open sesame')).toBe(false)
})
