/** The record of an external data file: its name, and the promise that it is a raw image by itself. */
import { extensionType } from '../extensions.ts'
import { autoclear } from '../header.ts'
import type { Qcow2Image } from '../image.ts'
import { rewriteHeader } from './version.ts'

/** Whether the data file alone is promised to show the disk. */
export function hasRawDataFile(image: Qcow2Image): boolean {
  return (image.header.current.autoclearFeatures & autoclear.rawExternalData) !== 0n
}

/** Records another name; '' leaves the image without one, so that its user has to name the file. */
export async function renameDataFile(image: Qcow2Image, name: string): Promise<void> {
  const { extensions } = image.header.current
  const rest = extensions.filter(({ type }) => type !== extensionType.dataFile)
  const own = { type: extensionType.dataFile, data: Buffer.from(name) }
  await rewriteHeader(image, { extensions: name === '' ? rest : [...rest, own] })
}

/** Takes the promise back: from now on the tables may say more than the data file. */
export async function forgetRawDataFile({ header, writeBack }: Qcow2Image): Promise<void> {
  header.current.autoclearFeatures &= ~autoclear.rawExternalData
  await writeBack.finish()
}
