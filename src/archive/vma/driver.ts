/** Driver `vma`: one device of an archive as a read-only disk. What it takes is loaded when used. */
import type { BlockDriver, NodeReference } from '../../block/driver.ts'
import { missing, OptionReader } from '../../block/options.ts'
import { isVma } from './structures.ts'

export interface VmaOptions {
  readonly file: NodeReference
  /** May be left out where the archive holds one disk. */
  readonly device: string | undefined
}

export const vma: BlockDriver<VmaOptions> = {
  name: 'vma',
  kind: 'format',
  naming: { strong: ['device'] },
  parse(options) {
    const reader = new OptionReader(options)
    const file = reader.take('file') as NodeReference | undefined
    const device = reader.string('device')
    reader.finish()
    if (file === undefined) throw missing('file')
    return { file, device }
  },
  probe: isVma,
  async open(options, context) {
    const { openVmaLayer } = await import('./layer.ts')
    return await openVmaLayer(options, context)
  },
}
