/** New images in storage that nobody makes here: a device, an export of an NBD server. */
import type { CreateOptionInfo, ImageCreator, NodeOptions } from './block/driver.ts'
import { plainZeroIo } from './block/layer.ts'
import { OptionReader } from './block/options.ts'
import { inContext, unsupported } from './errors.ts'
import type { Graph } from './graph/graph.ts'
import type { BlockNode } from './graph/node.ts'

interface PlaceOptions {
  readonly size: number
  /** What opens the storage. */
  readonly storage: NodeOptions
}

/** What `-o` knows of such storage. */
export const placeOptions: readonly CreateOptionInfo[] = [
  {
    name: 'preallocation',
    type: 'str',
    description: 'Preallocation mode (allowed values: off)',
  },
  { name: 'size', type: 'size', description: 'Virtual disk size' },
]

/** As QEMU does it: what is there has to be large enough, and does not look like an image any more. */
export function placeMaker(graph: Graph, driver: string): ImageCreator<unknown> {
  return {
    options: placeOptions,
    parse: parsePlaceOptions,
    create: async (options) => await makeRoom(graph, driver, options as PlaceOptions),
  }
}

function parsePlaceOptions(options: Readonly<Record<string, unknown>>): PlaceOptions {
  const { size, preallocation, ...storage } = options
  const mode = new OptionReader({ preallocation }).string('preallocation') ?? 'off'
  if (mode !== 'off') {
    throw unsupported(`Unsupported preallocation mode '${mode}'`)
  }
  return { size: Number(size), storage }
}

async function makeRoom(graph: Graph, driver: string, { size, storage }: PlaceOptions) {
  const node = await openPlace(graph, driver, storage)
  try {
    await using place = graph.attach(node, {
      description: 'image creation',
      uses: ['write', 'resize'],
      shares: ['consistentRead'],
    })
    await place.truncate(size)
    await place.writeZeroes(0, Math.min(firstSector, place.size), plainZeroIo)
    await place.flush()
  } finally {
    await graph.remove(node.name)
  }
}

/** Formats are recognised by it. */
const firstSector = 512

async function openPlace(graph: Graph, driver: string, storage: NodeOptions): Promise<BlockNode> {
  try {
    return await graph.open(storage, { readOnly: false })
  } catch (error) {
    const words = `Protocol driver '${driver}' does not support image creation, and opening the image failed`
    throw inContext(words, error)
  }
}
