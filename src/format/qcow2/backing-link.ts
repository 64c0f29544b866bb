/** The backing file's name, in the first cluster behind the header's fields and extensions. */
import type { BackingLink, Io } from '../../block/layer.ts'
import { backingFormat, encodeHead, type Header, setBackingFormat } from './header.ts'
import type { Qcow2Image } from './image.ts'

export function backingLink(image: Qcow2Image): BackingLink {
  const { current } = image.header
  return {
    get recorded() {
      const { backingFile } = current
      if (backingFile === undefined) return undefined
      return { filename: backingFile, format: backingFormat(current) }
    },
    change: (to, io) => changeBacking(image, to, io),
  }
}

/**
 * Runs alone. What is to be written is put together first, so a name that does not fit changes
 * nothing. The fields that place the name are in the first sector and so come into force together;
 * a name that ends behind that sector is torn by a crash between, as it is in QEMU.
 */
async function changeBacking(
  image: Qcow2Image,
  to: { readonly filename: string; readonly format?: string } | undefined,
  io: Io,
): Promise<void> {
  const { header, file, faults, writeBack } = image
  // The fields are written as a whole: none may be ahead of the tables that it belongs to.
  await writeBack.flushChanges()
  const changed: Header = { ...header.current, backingFile: to?.filename }
  setBackingFormat(changed, to?.format)
  const head = encodeHead(changed, faults)
  await file.write(0, head)
  Object.assign(header.current, changed)
  await header.write(changed, file)
  await writeBack.flush(io)
}
