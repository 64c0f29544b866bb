/** Images that commands make themselves: overlays, and targets of jobs. */
import type { NodeOptions } from '../block/driver.ts'
import { alignUp } from '../bytes/range.ts'
import { createImage } from '../create-image.ts'
import { invalid } from '../errors.ts'
import { optionsOfFilename } from '../graph/filename.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import { probeFormat } from '../graph/probe.ts'
import { shownFilename } from '../graph/shown-filename.ts'

const sectorSize = 512

export interface WantedImage {
  readonly filename: string
  readonly format: string
  readonly size: number
  /** What it is to record as its backing file. */
  readonly base?: BlockNode
}

export async function makeImage(
  graph: Graph,
  { filename, format, size, base }: WantedImage,
): Promise<void> {
  const creator = graph.drivers.find(({ name }) => name === format)?.creator
  if (base && creator && !creator.options.some(({ name }) => name === 'backing_file')) {
    throw invalid(`Backing file not supported for file format '${format}'`)
  }
  const record = base && { backing_file: shownFilename(base), backing_fmt: base.driver }
  await createImage(graph, {
    filename,
    format,
    options: { size: alignUp(size, sectorSize), ...record },
  })
}

/** By the name of its format, or of the storage that it is without one; what it looks like unless given. */
export async function openImage(
  graph: Graph,
  filename: string,
  format: string | undefined,
  options: NodeOptions,
): Promise<BlockNode> {
  if (format === undefined) return await graph.openFile(filename, options)
  const driver = graph.drivers.find(({ name }) => name === format)
  const given = { driver: format, ...options }
  return driver?.kind === 'protocol'
    ? await graph.open({ ...given, filename })
    : await graph.openFile(filename, given)
}

/** The format that an existing image is of; undefined where it looks like none, which opening it guards. */
export async function formatOfExisting(
  graph: Graph,
  filename: string,
): Promise<string | undefined> {
  if (filename.startsWith('json:')) return undefined
  const options = optionsOfFilename(filename, graph.drivers)
  const storage = await graph.open({ ...options, 'read-only': true })
  try {
    const uses = ['consistentRead'] as const
    await using edge = graph.attach(storage, { description: 'a look at its format', uses })
    const format = await probeFormat(graph.drivers, edge)
    return format === 'raw' ? undefined : format
  } finally {
    await graph.remove(storage.name)
  }
}
