/** `BLOCK_IMAGE_CORRUPTED`, for images of one daemon's graph. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { type CorruptImage, corruptImages } from '../format/qcow2/corruption.ts'
import type { Graph } from '../graph/graph.ts'

/** Returns what ends the reporting. */
export function reportCorruption(
  graph: Graph,
  emit: (event: string, data: Readonly<Record<string, unknown>>) => void,
): () => void {
  const report = (message: unknown) => {
    const { node, message: msg, offset, fatal } = message as CorruptImage
    if (!graph.nodes.has(node)) return
    emit('BLOCK_IMAGE_CORRUPTED', { device: '', 'node-name': node, msg, offset, fatal })
  }
  subscribe(corruptImages, report)
  return () => unsubscribe(corruptImages, report)
}
