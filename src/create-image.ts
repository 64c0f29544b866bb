/** Makes new images: the storage first, by its protocol, then the format into it. */
import { rm } from 'node:fs/promises'
import type { BlockDriver, ImageCreator, NodeOptions } from './block/driver.ts'
import { type BlockLayer, neverAborted } from './block/layer.ts'
import { alignUp, maxDiskSize } from './bytes/range.ts'
import { placeMaker } from './create-in-place.ts'
import { drivers } from './drivers.ts'
import { BlockError, errnoOf, invalid } from './errors.ts'
import { optionsOfFilename } from './graph/filename.ts'
import type { Graph } from './graph/graph.ts'

/** QEMU counts disks in sectors: a new raw image is rounded up to whole ones. */
const sectorSize = 512

export interface NewImage {
  readonly filename: string
  readonly format: string
  /** As `-o` has them, `size` included; values may be typed or text. */
  readonly options: Readonly<Record<string, unknown>>
}

/** A driver that can make images, as `creators` found it. */
export interface Creating {
  readonly name: string
  readonly creator: ImageCreator<unknown>
}

/** The driver of a format that can make images; throws with QEMU's text when there is none. */
export function formatCreator(format: string): Creating {
  const driver = drivers.find(({ name }) => name === format)
  if (!driver) throw invalid(`Unknown file format '${format}'`)
  return creating(driver, `Format driver '${format}'`)
}

/** The protocol behind a file name that an image can be made under, and its options. */
export function protocolOf(filename: string): { driver: BlockDriver; options: NodeOptions } {
  if (filename.startsWith('json:')) throw invalid("Unknown protocol 'json'")
  const options = optionsOfFilename(filename, drivers)
  const driver = drivers.find(({ name }) => name === options.driver)
  if (!driver) throw invalid(`Unknown protocol '${options.driver}'`)
  if (!driver.createsInPlace) creating(driver, `Protocol driver '${driver.name}'`)
  return { driver, options }
}

/** Makes storage of a protocol, or room for an image in what is there. */
function storageCreator(graph: Graph, driver: BlockDriver): Creating {
  const { name, createsInPlace } = driver
  if (createsInPlace) return { name, creator: placeMaker(graph, name) }
  return creating(driver, `Protocol driver '${name}'`)
}

function creating({ name, creator }: BlockDriver, described: string): Creating {
  if (creator) return { name, creator }
  throw new BlockError('UNSUPPORTED', `${described} does not support image creation`, {
    errno: 'ENOTSUP',
  })
}

/**
 * Makes an image; one that exists under that name is replaced. Options are checked before anything
 * is touched. When writing the format fails, the file is removed.
 */
export async function createImage(graph: Graph, image: NewImage): Promise<void> {
  const format = formatCreator(image.format)
  const protocol = protocolOf(image.filename)
  const storage = storageCreator(graph, protocol.driver)
  checkSize(image)
  const { options, takesOver = [] } = format.creator
  const known = new Set([...options.map(({ name }) => name), ...takesOver])
  if (image.format === 'raw' || image.format === storage.name) {
    // A raw image is nothing but its storage.
    const size = alignUp(Number(image.options.size), sectorSize)
    const whole = { ...protocol.options, ...image.options, size }
    return await makeStorage(storage, whole).catch((error) => {
      throw errnoOf(error) === 'EFBIG' ? tooLarge(image.format, error) : error
    })
  }
  const [own, below] = partition(image.options, (name) => known.has(name))
  const parsed = format.creator.parse(own)
  await makeStorage(storage, { ...protocol.options, ...below, size: 0 })
  let data: NodeOptions | undefined
  try {
    if (typeof own.data_file === 'string') data = await makeDataFile(graph, own.data_file)
    await writeFormat(graph, format.creator, parsed, protocol.options, data)
  } catch (error) {
    await removeStorage(protocol.options)
    if (data) await removeStorage(data)
    // What the file system cannot hold, beside what the format cannot.
    throw errnoOf(error) === 'EFBIG' ? tooLarge(image.format, error) : error
  }
}

function checkSize({ format, options }: NewImage): void {
  if (typeof options.size !== 'number' || options.size <= maxDiskSize) return
  throw tooLarge(format)
}

function tooLarge(format: string, cause?: unknown): BlockError {
  const remedy = format === 'qcow2' ? ' (try using a larger cluster size)' : ''
  const message =
    format === 'luks'
      ? 'The requested file size is too large'
      : `The image size is too large for file format '${format}'${remedy}`
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EFBIG', cause })
}

async function removeStorage({ driver, filename }: NodeOptions): Promise<void> {
  if (driver === 'file') await rm(String(filename), { force: true })
}

async function makeStorage({ creator }: Creating, options: NodeOptions): Promise<void> {
  await creator.create(creator.parse(options), { signal: neverAborted })
}

async function writeFormat(
  graph: Graph,
  creator: ImageCreator<unknown>,
  parsed: unknown,
  storage: NodeOptions,
  data: NodeOptions | undefined,
): Promise<void> {
  await withStorage(graph, storage, async (file) => {
    const create = (dataFile?: BlockLayer) =>
      creator.create(parsed, { file, dataFile, signal: neverAborted, secrets: graph.secrets })
    await (data ? withStorage(graph, data, create) : create())
  })
}

/** Makes the file that the image's data goes to, relative to the current folder as in QEMU. */
async function makeDataFile(graph: Graph, filename: string): Promise<NodeOptions> {
  const { driver, options } = protocolOf(filename)
  await makeStorage(storageCreator(graph, driver), { ...options, size: 0 })
  return options
}

/** Has `work` write to some storage, and flushes it. */
async function withStorage(
  graph: Graph,
  storage: NodeOptions,
  work: (file: BlockLayer) => Promise<void>,
): Promise<void> {
  const node = await graph.open(storage, { readOnly: false, discard: 'unmap' })
  try {
    await using file = graph.attach(node, {
      description: 'image creation',
      uses: ['consistentRead', 'write', 'resize'],
      shares: ['consistentRead'],
    })
    await work(file)
    await file.flush()
  } finally {
    await graph.remove(node.name)
  }
}

function partition(
  options: Readonly<Record<string, unknown>>,
  test: (name: string) => boolean,
): [Record<string, unknown>, Record<string, unknown>] {
  const entries = Object.entries(options)
  return [
    Object.fromEntries(entries.filter(([name]) => test(name))),
    Object.fromEntries(entries.filter(([name]) => !test(name))),
  ]
}
