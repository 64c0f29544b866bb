import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { scratchFolder } from '../../../test/support/folder.ts'
import { plainIo } from '../../block/layer.ts'
import { nodeSys } from '../../sys/node-sys.ts'
import type { Sys } from '../../sys/sys.ts'
import { CdromLayer } from './cdrom.ts'
import { OpenFile } from './open-file.ts'

const folder = scratchFolder('cdrom')

/** A drive whose medium is a file, and which answers as Linux has them. */
async function openDrive() {
  const path = join(folder, 'disc.iso')
  await writeFile(path, new Uint8Array(4096).fill(9))
  const drive = { status: 4, size: 4096, asked: [] as [number, unknown][] }
  const sys: Sys = {
    ...nodeSys,
    supported: { ...nodeSys.supported, ioctl: true, holes: true },
    seekEnd: () => drive.size,
    async ioctl(_fd, request, argument) {
      if (request === 0x5326) return drive.status
      drive.asked.push([request, argument])
      return 0
    },
  }
  const file = await OpenFile.open({ path, node: 'sr0' }, 0, sys)
  const layer = new CdromLayer(file, {
    kind: 'device',
    size: 2048,
    readOnly: true,
    noFlush: false,
    locking: false,
  })
  return { drive, layer, [Symbol.asyncDispose]: () => layer[Symbol.asyncDispose]() }
}

it('reads the medium that is in the drive, and says when there is none', async () => {
  await using set = await openDrive()
  const { drive, layer } = set
  const sector = new Uint8Array(512)
  await layer.read(0, sector, plainIo)
  expect(sector).toEqual(new Uint8Array(512).fill(9))
  // An open tray, no disc, a drive that is not ready yet.
  for (const status of [2, 1, 3, 0]) {
    drive.status = status
    expect(await layer.medium.isInserted()).toBe(false)
    await expect(layer.read(0, sector, plainIo)).rejects.toMatchObject({ errno: 'ENOMEDIUM' })
  }
})

it('has the size of the medium that is in it', async () => {
  await using set = await openDrive()
  const { drive, layer } = set
  expect(await layer.medium.isInserted()).toBe(true)
  expect(layer.size).toBe(4096)
  drive.status = 1
  await layer.medium.isInserted()
  Object.assign(drive, { status: 4, size: 8192 })
  expect(await layer.medium.isInserted()).toBe(true)
  expect(layer.size).toBe(8192)
})

it('moves and locks the tray', async () => {
  await using set = await openDrive()
  const { drive, layer } = set
  await layer.medium.lock(true)
  await layer.medium.lock(false)
  await layer.medium.eject(true)
  await layer.medium.eject(false)
  expect(drive.asked).toEqual([
    [0x5329, 1],
    [0x5329, 0],
    [0x5309, 0],
    [0x5319, 0],
  ])
})
