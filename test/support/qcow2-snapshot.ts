/** Internal snapshots, put into images without the code under test knowing how to make them. */
import { type BlockLayer, plainIo, plainWriteIo } from '../../src/block/layer.ts'
import { alignUp } from '../../src/bytes/range.ts'
import { Faults } from '../../src/format/qcow2/faults.ts'
import { decodeHeader, encodeFields, type Header } from '../../src/format/qcow2/header.ts'
import { snapshotEntry, snapshotExtra } from '../../src/format/qcow2/snapshot-table.ts'
import { openImage } from './qcow2.ts'

const faults = new Faults('test')

/** Takes a snapshot of a closed image: a second L1 table; the repair sees to counts and flags. */
export async function addSnapshot(file: BlockLayer): Promise<void> {
  const header = await headerOf(file)
  const clusterSize = 2 ** header.clusterBits
  const l1Offset = alignUp(file.size, clusterSize)
  const l1 = await bytesAt(file, header.l1TableOffset, header.l1Size * 8)
  const tableOffset = l1Offset + alignUp(l1.length, clusterSize)
  await file.truncate(tableOffset + clusterSize, plainIo)
  await file.write(l1Offset, l1, plainWriteIo)
  await file.write(tableOffset, entry(l1Offset, header), plainWriteIo)
  header.nbSnapshots = 1
  header.snapshotsOffset = tableOffset
  await file.write(0, encodeFields(header), plainWriteIo)
  const { image } = await openImage(file, { check: true })
  await image.check('all')
  await image.close()
}

/** Makes the disk of the snapshot the active one, which makes the flags wrong: only to be read. */
export async function showSnapshot(file: BlockLayer): Promise<void> {
  const header = await headerOf(file)
  const fields = snapshotEntry.decode(
    await bytesAt(file, header.snapshotsOffset, snapshotEntry.size),
  )
  header.l1TableOffset = fields.l1TableOffset
  header.l1Size = fields.l1Size
  await file.write(0, encodeFields(header), plainWriteIo)
}

function entry(l1TableOffset: number, header: Header): Uint8Array {
  const fields = snapshotEntry.encode({
    l1TableOffset,
    l1Size: header.l1Size,
    idSize: 1,
    nameSize: 3,
    dateSeconds: 1_700_000_000,
    dateNanoseconds: 0,
    vmClockNanoseconds: 0n,
    vmStateSize: 0,
    extraDataSize: snapshotExtra.size,
  })
  const extra = snapshotExtra.encode({ vmStateSize: 0, diskSize: header.size })
  return Buffer.concat([fields, extra, Buffer.from('1one')])
}

async function headerOf(file: BlockLayer): Promise<Header> {
  return decodeHeader(await bytesAt(file, 0, Math.min(file.size, 65536)), faults)
}

async function bytesAt(file: BlockLayer, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length)
  await file.read(offset, bytes, plainIo)
  return bytes
}
