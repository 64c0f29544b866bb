/** Opening the image of a session: the node, an overlay on it where one is wanted, and an edge. */

import { drivers } from '../../drivers.ts'
import { type BlockError, invalid } from '../../errors.ts'
import type { Edge } from '../../graph/edge.ts'
import type { Graph } from '../../graph/graph.ts'
import type { BlockNode } from '../../graph/node.ts'
import type { NamedIo } from '../command.ts'
import { parseOptionString } from '../keyval.ts'
import { imageGraph, isOnFiles, openNode } from '../open-image.ts'
import { addOverlay } from '../overlay.ts'
import type { ImageSettings } from './image.ts'

/** An image, open, and the edge by which the tool uses it. */
export interface Opened extends AsyncDisposable {
  readonly node: BlockNode
  readonly edge: Edge
  /** The same for other sizes of the disk. Who writes needs no permission for that until it comes to it; then it is kept. */
  resizing(): Edge
  /** Options set by `reopen -o`. */
  readonly options: Readonly<Record<string, string>>
}

/** Opens the image that `settings` describe, or throws in QEMU's words. */
export async function openGraph(
  settings: ImageSettings,
  io: NamedIo,
  options: Readonly<Record<string, string>> = {},
): Promise<Opened> {
  const graph = imageGraph(io)
  try {
    const refused = combinationFault(settings)
    if (refused) {
      // What cannot be opened at all is told of instead.
      const format = isFormat(settings.format) ? 'raw' : settings.format
      const seen = { ...settings, format, readOnly: true, noIo: true }
      const node = await openTop(graph, seen, io, options)
      if (refused.onFilesOnly && !isOnFiles(node)) await graph.remove(node.name)
      else throw refused.error
    }
    const opened = await openTop(graph, settings, io, options)
    const node = settings.snapshot ? await addOverlay(graph, opened, settings.readOnly) : opened
    const edge = graph.attach(node, {
      description: 'the tool',
      uses: settings.readOnly ? ['consistentRead'] : ['consistentRead', 'write'],
    })
    let resizing: Edge | undefined
    return {
      node,
      edge,
      resizing: () => {
        resizing ??= graph.attach(node, { description: 'the tool', uses: ['resize'] })
        return resizing
      },
      options,
      [Symbol.asyncDispose]: () => graph[Symbol.asyncDispose](),
    }
  } catch (error) {
    await graph[Symbol.asyncDispose]()
    throw error
  }
}

async function openTop(
  graph: Graph,
  settings: ImageSettings & { readonly noIo?: boolean },
  io: NamedIo,
  changes: Readonly<Record<string, string>>,
): Promise<BlockNode> {
  const { filename, optionString } = settings
  const own = filename === undefined ? {} : parseOptionString(optionString ?? '').options
  const { driver, ...options } = { ...own, ...changes } as Record<string, string>
  const request = {
    filename: filename ?? optionString ?? '',
    imageOpts: settings.imageOpts || filename === undefined,
    impliedKey: null,
    format: settings.format ?? driver,
    readOnly: settings.readOnly || settings.snapshot,
    forceShare: settings.forceShare,
    noIo: settings.noIo,
    cache: settings.cache,
    unmap: settings.unmap,
    options,
  }
  return await openNode(graph, request, io)
}

function isFormat(driver: string | undefined): boolean {
  return drivers.some(({ name, kind }) => name === driver && kind === 'format')
}

interface CombinationFault {
  readonly error: BlockError
  /** It matters where the image lies in files. */
  readonly onFilesOnly: boolean
}

function combinationFault(settings: ImageSettings): CombinationFault | undefined {
  const { copyOnRead, readOnly, aio, cache, forceShare, snapshot } = settings
  const fault = (message: string, onFilesOnly = false) => ({
    error: invalid(message),
    onFilesOnly,
  })
  // Which opening will tell of.
  if (forceShare && !readOnly && !snapshot) return undefined
  if (aio === 'native' && !cache.direct) {
    return fault(
      'aio=native was specified, but it requires cache.direct=on, which was not specified.',
      true,
    )
  }
  if (copyOnRead && readOnly) return fault("Can't use copy-on-read on read-only device")
  return undefined
}
