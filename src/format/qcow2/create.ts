/**
 * Making a new image. The tables are written first and the header last, so that what a failure
 * leaves behind is not taken for an image.
 */
import type { CreateContext, ImageCreator, SecretSource } from '../../block/driver.ts'
import { type BlockLayer, plainIo, plainWriteIo, plainZeroIo } from '../../block/layer.ts'
import type { ByteRange } from '../../bytes/range.ts'
import { viewOf } from '../../bytes/view.ts'
import { zeroes } from '../../bytes/zero.ts'
import { BlockError } from '../../errors.ts'
import { createOptionInfo, parseCreateOptions, type Qcow2CreateOptions } from './create-options.ts'
import { prepareEncryption } from './encryption/create.ts'
import { openEncryption } from './encryption/encryption.ts'
import { headerStorage, placeExtension } from './encryption/place.ts'
import {
  dataFileExtension,
  extensionType,
  featureNamesIn,
  type HeaderExtension,
} from './extensions.ts'
import { Faults } from './faults.ts'
import {
  autoclear,
  compatible,
  compressionTypes,
  encodeHead,
  type Header,
  incompatible,
  l1SizeFor,
  setBackingFormat,
} from './header.ts'
import { Qcow2Image } from './image.ts'
import { ImageFile } from './image-file.ts'
import { entrySize, setShared } from './l2-table.ts'
import { Qcow2Map } from './map.ts'
import { measureImage } from './measure.ts'
import { hostOffset } from './offsets.ts'
import { takeSpace } from './preallocation.ts'
import { RefcountLayout } from './refcount.ts'

export const creator: ImageCreator<Qcow2CreateOptions> = {
  options: createOptionInfo,
  parse: parseCreateOptions,
  measure: measureImage,
  async create(options, context) {
    const { file } = context
    if (!file) throw new TypeError('a qcow2 image is created in a file')
    if (options.dataFile) await prepareDataFile(options, context)
    await createImage(file, options, context.secrets)
    // The entries of a raw data file are there from the beginning.
    const placed = options.preallocation !== 'off' || options.dataFile?.raw === true
    if (placed) await preallocate(file, options, context)
  },
}

/** As long as the disk. What it holds shows only if it is raw. */
async function prepareDataFile(
  { size }: Qcow2CreateOptions,
  { dataFile }: CreateContext,
): Promise<void> {
  if (!dataFile) throw new TypeError('the data file of the new image is not there')
  if (dataFile.capabilities.resize) await dataFile.truncate(size, plainIo)
}

/** Where the parts of a new image lie, in clusters. */
interface Plan {
  readonly refcountTable: number
  readonly refcountBlocks: number
  readonly l1: number
  readonly keys: number
  readonly end: number
}

/** Writes an empty image over whatever `file` has. */
export async function createImage(
  file: BlockLayer,
  options: Qcow2CreateOptions,
  secrets?: SecretSource,
): Promise<void> {
  const { clusterSize } = options
  const faults = new Faults('the new image', file.image?.filename)
  const encryption = await prepareEncryption(options.encryption, secrets)
  const header = newHeader(options)
  const keyLength = encryption?.length ?? 0
  const plan = planImage(header, Math.ceil(keyLength / clusterSize))
  const keys = { offset: plan.keys * clusterSize, length: keyLength }
  if (encryption) header.cryptMethod = encryption.method
  if (keyLength > 0) insertPlace(header, placeExtension(keys))
  header.refcountTableOffset = plan.refcountTable * clusterSize
  header.refcountTableClusters = plan.refcountBlocks - plan.refcountTable
  header.l1TableOffset = plan.l1 * clusterSize
  const head = headOf(header, options, faults)

  const l1Length = header.l1Size * entrySize
  // Where the L1 table is the last, the file ends with it, as QEMU has it.
  const cut = keyLength > 0 ? plan.end * clusterSize : header.l1TableOffset + l1Length
  await prepareFile(file, cut, plan.end * clusterSize, faults)
  await clear(file, 0, plan.end * clusterSize)
  if (file.capabilities.resize) {
    await takeSpaceOf(file, { offset: 0, length: clusterSize })
    await takeSpaceOf(file, { offset: header.l1TableOffset, length: l1Length })
    await takeSpaceOf(file, keys)
  }
  await writeRefcounts(file, header, plan)
  await encryption?.write(headerStorage(new ImageFile(file, clusterSize, faults), keys, faults))
  await file.flush(plainIo)
  await file.write(0, Buffer.concat([head], Math.max(head.length, 512)), plainWriteIo)
  await file.flush(plainIo)
}

function headOf(header: Header, { backing }: Qcow2CreateOptions, faults: Faults): Uint8Array {
  try {
    return encodeHead(header, faults)
  } catch (error) {
    if (!backing || !(error instanceof BlockError) || error.code !== 'NO_SPACE') throw error
    const format = backing.format === undefined ? '' : ` with format '${backing.format}'`
    const message = `Could not assign backing file '${backing.filename}'${format}: No space left on device`
    throw new BlockError('NO_SPACE', message, { errno: 'ENOSPC', cause: error })
  }
}

function newHeader(options: Qcow2CreateOptions): Header {
  const clusterBits = Math.log2(options.clusterSize)
  const compressionType = compressionTypes.indexOf(options.compression)
  const incompatibleFeatures =
    (compressionType === 0 ? 0n : incompatible.compressionType) |
    (options.extendedL2 ? incompatible.extendedL2 : 0n) |
    (options.dataFile ? incompatible.externalDataFile : 0n)
  const header: Header = {
    version: options.version,
    backingFileOffset: 0,
    backingFileSize: 0,
    clusterBits,
    size: options.size,
    cryptMethod: 0,
    l1Size: l1SizeFor(options.size, { clusterBits, incompatibleFeatures }),
    l1TableOffset: 0,
    refcountTableOffset: 0,
    refcountTableClusters: 0,
    nbSnapshots: 0,
    snapshotsOffset: 0,
    incompatibleFeatures,
    compatibleFeatures: options.lazyRefcounts ? compatible.lazyRefcounts : 0n,
    autoclearFeatures: options.dataFile?.raw ? autoclear.rawExternalData : 0n,
    refcountOrder: Math.log2(options.refcountBits),
    headerLength: 0,
    compressionType,
    unknownFields: new Uint8Array(0),
    extensions: options.version === 3 ? [...featureNamesIn(clusterBits)] : [],
    backingFile: options.backing?.filename,
  }
  if (options.dataFile) header.extensions.unshift(dataFileExtension(options.dataFile.filename))
  if (options.backing) setBackingFormat(header, options.backing.format)
  return header
}

/** In front of the names of features, where QEMU has it. */
function insertPlace({ extensions }: Header, place: HeaderExtension): void {
  const names = extensions.findIndex(({ type }) => type === extensionType.featureNames)
  extensions.splice(names < 0 ? extensions.length : names, 0, place)
}

/**
 * Header, refcount table, its blocks, L1 table, and the key material of encryption, in this order;
 * the blocks count all of them.
 */
function planImage(header: Header, keyClusters: number): Plan {
  const clusterSize = 2 ** header.clusterBits
  const { entries } = new RefcountLayout(header.refcountOrder, clusterSize)
  const l1Clusters = Math.ceil((header.l1Size * entrySize) / clusterSize)
  let blocks = 1
  for (;;) {
    const tableClusters = Math.ceil((blocks * entrySize) / clusterSize)
    const keys = 1 + tableClusters + blocks + l1Clusters
    const end = keys + keyClusters
    if (blocks * entries >= end) {
      const refcountBlocks = 1 + tableClusters
      return { refcountTable: 1, refcountBlocks, l1: refcountBlocks + blocks, keys, end }
    }
    blocks = Math.ceil(end / entries)
  }
}

/** Empties the file where that is possible, and makes it `length` long; otherwise it needs `room`. */
async function prepareFile(
  file: BlockLayer,
  length: number,
  room: number,
  faults: Faults,
): Promise<void> {
  if (file.capabilities.resize) {
    await file.truncate(0, plainIo)
    await file.truncate(length, plainIo)
  } else if (file.size < room) {
    throw faults.noSpace(`${room} bytes do not fit into a storage of ${file.size}`)
  }
}

/**
 * Zeroes where there are zeroes already, for the space: so a new image has the disk size that QEMU's have.
 * Not by `writeZeroes`, after which file systems keep an extent of its own for them.
 */
async function takeSpaceOf(file: BlockLayer, { offset, length }: ByteRange): Promise<void> {
  for (let at = 0; at < length; at += zeroes.length) {
    const part = zeroes.subarray(0, Math.min(zeroes.length, length - at))
    await file.write(offset + at, part, plainWriteIo)
  }
}

async function clear(file: BlockLayer, offset: number, length: number): Promise<void> {
  if (file.capabilities.resize && file.capabilities.zeroInit) return
  await file.writeZeroes(offset, length, plainZeroIo)
}

async function writeRefcounts(file: BlockLayer, header: Header, plan: Plan): Promise<void> {
  const clusterSize = 2 ** header.clusterBits
  const layout = new RefcountLayout(header.refcountOrder, clusterSize)
  const blocks = plan.l1 - plan.refcountBlocks
  const table = new Uint8Array(header.refcountTableClusters * clusterSize)
  for (let index = 0; index < blocks; index++) {
    const offset = hostOffset((plan.refcountBlocks + index) * clusterSize)
    setShared(viewOf(table), index, offset)
    const used = Math.min(layout.entries, plan.end - index * layout.entries)
    await file.write(offset, layout.blockOf(clusterSize, 0, used), plainWriteIo)
  }
  await file.write(header.refcountTableOffset, table, plainWriteIo)
}

/** Gives every cluster of the disk its place in the file, and that place its space. */
async function preallocate(
  file: BlockLayer,
  options: Qcow2CreateOptions,
  context: CreateContext,
): Promise<void> {
  const settings = {
    name: 'the new image',
    readOnly: false,
    lazyRefcounts: false,
    cacheCleanSeconds: 0,
    guarded: [],
    discards: new Set<never>(),
  }
  const image = await Qcow2Image.open(file, settings, async () => context.dataFile)
  try {
    const { preallocation, dataFile, encryption, version } = options
    // Version 2 has no mark for zeroes: they are enciphered, and stored.
    const stored = encryption !== undefined && version < 3
    if (stored) await openEncryption(image, encryption, { secrets: context.secrets, flags: {} })
    const map = new Qcow2Map(image, {})
    await map.place(0, context, takeSpace(preallocation, dataFile !== undefined))
    // What is in those clusters deciphers to anything but zeroes. Where there is a backing file they
    // consist of subclusters that wait for being written, and show it.
    if (encryption && !stored && !options.backing) await map.zero(0, options.size, plainZeroIo)
  } finally {
    await image.close()
  }
}
