/** Driver `qcow2`. */

import { ClusterLayer } from '../../block/cluster-layer.ts'
import type { ClusterMap } from '../../block/cluster-map.ts'
import type { BlockDriver, NodeOptions, NodeReference, OpenContext } from '../../block/driver.ts'
import type { BlockLayer } from '../../block/layer.ts'
import { inContext, invalid } from '../../errors.ts'
import { imageAmend } from './amend/amend.ts'
import { amendOptionInfo } from './amend/options.ts'
import { backingLink } from './backing-link.ts'
import { Qcow2Bitmaps } from './bitmaps.ts'
import { creator } from './create.ts'
import type { Qcow2CreateOptions } from './create-options.ts'
import { dataFileName, hasDataFile } from './data-file.ts'
import { openEncryption } from './encryption/encryption.ts'
import { imageFacts } from './facts.ts'
import { backingFormat, type Header, isQcow2 } from './header.ts'
import { Qcow2Image } from './image.ts'
import { isSparse } from './image-file.ts'
import { makeEmpty } from './make-empty.ts'
import { Qcow2Map } from './map.ts'
import { changeable, parseOptions, type Qcow2Options } from './options.ts'
import { internalSnapshots } from './snapshots.ts'

export const qcow2: BlockDriver<Qcow2Options, Qcow2CreateOptions> = {
  name: 'qcow2',
  kind: 'format',
  naming: { strong: ['encrypt'] },
  parse: parseOptions,
  probe: isQcow2,
  changeable,
  creator,
  amendOptions: amendOptionInfo,
  async open(options, context) {
    const file = await context.child('file', options.file)
    const { readOnly, check } = context.flags
    const settings = { ...options.settings, name: context.name, readOnly, check }
    const image = await Qcow2Image.open(file, settings, (header) =>
      openDataFile(options, header, context),
    )
    try {
      await openEncryption(image, options.encrypt, context)
      const bitmaps = await Qcow2Bitmaps.open(image)
      if (bitmaps.stale) context.warn?.(staleWarning)
      image.rereadOthers = () => bitmaps.reread()
      const map = new Qcow2Map(image, abilitiesOf(image, bitmaps), await isSparse(image.file))
      return new ClusterLayer(map, await openBacking(options, image, context))
    } catch (error) {
      await image.close()
      throw error
    }
  },
}

/** In the words of qemu-img, which ends it without a newline. */
const staleWarning =
  'a program lacking bitmap support modified this file, so all bitmaps are now considered ' +
  "inconsistent\nSome clusters may be leaked, run 'qemu-img check -r' on the image file to fix."

function abilitiesOf(image: Qcow2Image, bitmaps: Qcow2Bitmaps): ClusterMap['abilities'] {
  return {
    amend: imageAmend(image),
    image: imageFacts(image, bitmaps),
    bitmaps,
    backingLink: backingLink(image),
    snapshots: internalSnapshots(image),
    check: { run: ({ repair }) => image.check(repair) },
    makeEmpty: (io) => makeEmpty(image, io),
  }
}

/** The data file that the user names, or else the image; none where the image has none. */
async function openDataFile(
  { dataFile }: Qcow2Options,
  header: Header,
  context: OpenContext,
): Promise<BlockLayer | undefined> {
  // What is only looked at needs no data.
  if (context.flags.noIo) return undefined
  if (!hasDataFile(header)) {
    if (dataFile === undefined) return undefined
    throw invalid("'data-file' can only be set for images with an external data file")
  }
  if (dataFile !== undefined) return await context.child('data-file', dataFile)
  const name = dataFileName(header)
  if (name === undefined) throw invalid("'data-file' is required for this image")
  return await context.implied('data-file', name, undefined)
}

/** As QEMU: the recorded name is one more option of a backing file whose options name none. */
function checkApart(backing: NodeReference): void {
  if (typeof backing === 'string' || backing.file === undefined) return
  const { file } = backing
  if (typeof file === 'string') {
    throw invalid(
      'Cannot reference an existing block device with additional options or a new filename',
    )
  }
  if (typeof file === 'object' && (file as NodeOptions | null)?.filename !== undefined) return
  if (backing['file.filename'] !== undefined) return
  throw invalid("Can't specify 'file' and 'filename' options at the same time")
}

async function openBacking(
  { backing }: Qcow2Options,
  image: Qcow2Image,
  context: OpenContext,
): Promise<BlockLayer | undefined> {
  if (backing === null || backing === '') return undefined
  const { current } = image.header
  if (backing !== undefined) {
    try {
      if (current.backingFile !== undefined) checkApart(backing)
      return await context.child('backing', backing)
    } catch (error) {
      throw inContext('Could not open backing file', error)
    }
  }
  if (current.backingFile === undefined) return undefined
  return await context.implied('backing', current.backingFile, backingFormat(current))
}
