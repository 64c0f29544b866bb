import { MemoryLayer } from '../../src/protocol/memory.ts'
import { newImage, openImage } from '../support/qcow2.ts'
import { Random } from '../support/random.ts'
import { testLayer } from './layer.ts'

const variants: readonly Readonly<Record<string, unknown>>[] = [
  {},
  { compat: '0.10' },
  { cluster_size: 512, refcount_bits: 1 },
  { cluster_size: 512, refcount_bits: 64 },
  { cluster_size: 4096, compression_type: 'zstd', refcount_bits: 8 },
  { cluster_size: '2M', lazy_refcounts: true },
  { preallocation: 'metadata' },
  { extended_l2: 'on', cluster_size: 16384 },
  { extended_l2: 'on', cluster_size: '2M', refcount_bits: 1 },
  { extended_l2: 'on', cluster_size: 65536, preallocation: 'metadata' },
  { 'encrypt.format': 'luks', 'encrypt.iter-time': 1, 'encrypt.key-secret': 's' },
  {
    'encrypt.format': 'luks',
    'encrypt.iter-time': 1,
    'encrypt.key-secret': 's',
    cluster_size: 32768,
    extended_l2: 'on',
    preallocation: 'metadata',
  },
  { encryption: 'on', 'encrypt.key-secret': 's', cluster_size: 512 },
]

/** Every cluster size, with every width of refcounts in turn, in both geometries. */
const allSizes = Array.from({ length: 13 }, (_, index) => ({
  cluster_size: 2 ** (9 + index),
  refcount_bits: 2 ** (index % 7),
})).flatMap((options) =>
  options.cluster_size < 16384 ? [options] : [options, { ...options, extended_l2: 'on' }],
)

const long = process.env.VARVE_LONG !== undefined

for (const options of long ? [...variants, ...allSizes] : variants) {
  testLayer(`qcow2 ${JSON.stringify(options)}`, async (size) => {
    const file = await newImage({ ...options, size })
    let { layer } = await openImage(file)
    return {
      layer,
      async reopen() {
        await layer[Symbol.asyncDispose]()
        layer = (await openImage(file)).layer
        return layer
      },
      [Symbol.asyncDispose]: () => layer[Symbol.asyncDispose](),
    }
  })
}

const dataFiles: readonly Readonly<Record<string, unknown>>[] = [
  { cluster_size: 4096 },
  { cluster_size: 16384, extended_l2: 'on' },
  { cluster_size: 4096, data_file_raw: 'on' },
  { cluster_size: 65536, extended_l2: 'on', data_file_raw: 'on' },
]

for (const options of dataFiles) {
  testLayer(`qcow2 ${JSON.stringify(options)} with a data file`, async (size) => {
    const data = new MemoryLayer({ size: 0 })
    const file = await newImage({ ...options, size }, undefined, data)
    let { layer } = await openImage(file, {}, undefined, data)
    return {
      layer,
      async reopen() {
        await layer[Symbol.asyncDispose]()
        layer = (await openImage(file, {}, undefined, data)).layer
        return layer
      },
      [Symbol.asyncDispose]: () => layer[Symbol.asyncDispose](),
    }
  })
}

testLayer('qcow2 with caches of two tables', async (size) => {
  const file = await newImage({ size, cluster_size: 512 })
  return (await openImage(file, { l2CacheBytes: 1024, refcountCacheBytes: 2048 })).layer
})

const overlays: readonly Readonly<Record<string, unknown>>[] = [
  { cluster_size: 4096 },
  { cluster_size: 32768, extended_l2: 'on' },
  { cluster_size: 65536, extended_l2: 'on', preallocation: 'metadata' },
]

for (const options of overlays) {
  testLayer(`qcow2 ${JSON.stringify(options)} over a backing file`, async (size) => {
    const content = new Random().bytes(size - 3072)
    const file = await newImage({ ...options, size, backing_file: 'base' })
    const { layer } = await openImage(file, {}, MemoryLayer.of(content))
    return { layer, content, [Symbol.asyncDispose]: () => layer[Symbol.asyncDispose]() }
  })
}
