/** Images that commands make themselves: overlays, and targets of jobs. */
import type { NodeOptions } from '../block/driver.ts'
import { alignUp } from '../bytes/range.ts'
import { createImage } from '../create-image.ts'
import { BlockError } from '../errors.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
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
    throw new BlockError(
      'INVALID_ARGUMENT',
      `Backing file not supported for file format '${format}'`,
      { errno: 'EINVAL' },
    )
  }
  const record = base && { backing_file: shownFilename(base), backing_fmt: base.driver }
  await createImage(graph, {
    filename,
    format,
    options: { size: alignUp(size, sectorSize), ...record },
  })
}

/** By the name of its format, or of the storage that it is without one. */
export async function openImage(
  graph: Graph,
  filename: string,
  format: string,
  options: NodeOptions,
): Promise<BlockNode> {
  const driver = graph.drivers.find(({ name }) => name === format)
  const given = { driver: format, ...options }
  return driver?.kind === 'protocol'
    ? await graph.open({ ...given, filename })
    : await graph.openFile(filename, given)
}
