/** qcow2 images in memory, for tests. */
import { ClusterLayer } from '../../src/block/cluster-layer.ts'
import { type BlockLayer, neverAborted } from '../../src/block/layer.ts'
import { Qcow2Bitmaps } from '../../src/format/qcow2/bitmaps.ts'
import { creator } from '../../src/format/qcow2/create.ts'
import { hasDataFile } from '../../src/format/qcow2/data-file.ts'
import { openEncryption } from '../../src/format/qcow2/encryption/encryption.ts'
import { imageFacts } from '../../src/format/qcow2/facts.ts'
import { Qcow2Image } from '../../src/format/qcow2/image.ts'
import { Qcow2Map } from '../../src/format/qcow2/map.ts'
import { guardTemplates } from '../../src/format/qcow2/metadata-guard.ts'
import type { ImageSettings } from '../../src/format/qcow2/settings.ts'
import { internalSnapshots } from '../../src/format/qcow2/snapshots.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { openContext } from './context.ts'

export const testSettings: ImageSettings = {
  name: 'disk0',
  readOnly: false,
  cacheCleanSeconds: 0,
  guarded: guardTemplates.cached,
  discards: new Set(['request', 'snapshot', 'other']),
}

/** The one secret, `s`, that encrypted images are made and opened with. */
export const testSecrets = async () => Buffer.from('open sesame')

/** A new image in `file`, made with options as `qemu-img create -o` takes them. */
export async function newImage(
  options: Readonly<Record<string, unknown>>,
  file: BlockLayer = new MemoryLayer({ size: 0 }),
  dataFile?: BlockLayer,
): Promise<BlockLayer> {
  const named = dataFile ? { ...options, data_file: 'data' } : options
  await creator.create(creator.parse(named), {
    file,
    dataFile,
    signal: neverAborted,
    secrets: testSecrets,
  })
  return file
}

export interface OpenTestImage {
  readonly image: Qcow2Image
  readonly layer: ClusterLayer
}

export async function openImage(
  file: BlockLayer,
  settings: Partial<ImageSettings> = {},
  backing?: BlockLayer,
  dataFile?: BlockLayer,
): Promise<OpenTestImage> {
  const image = await Qcow2Image.open(file, { ...testSettings, ...settings }, async (header) =>
    hasDataFile(header) ? (dataFile ?? new MemoryLayer({ size: 0 })) : undefined,
  )
  await openEncryption(image, { keySecret: 's' }, { ...openContext(), secrets: testSecrets })
  return { image, layer: new ClusterLayer(await mapOf(image), backing) }
}

async function mapOf(image: Qcow2Image): Promise<Qcow2Map> {
  const bitmaps = await Qcow2Bitmaps.open(image)
  const facts = imageFacts(image, bitmaps)
  return new Qcow2Map(image, { image: facts, snapshots: internalSnapshots(image), bitmaps })
}
