/** New files: the options that are listed and what they take on the disk, beside qemu-img. */
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { file } from '../../src/protocol/file/driver.ts'
import { peer } from '../peers.ts'
import { openContext } from '../support/context.ts'
import { scratchFolder } from '../support/folder.ts'

const folder = scratchFolder('create')
const qemuImg = peer('qemu-img')
const placeholders = { size: '<size>', str: '<str>', bool: '<bool (on/off)>', num: '<num>' }

qemuImg.it('the options of create are those of qemu-img, in its words', async () => {
  const help = await qemuImg.run('create', '-f', 'raw', '-o', 'help', join(folder, 'x'))
  const theirs = help.split('\n').filter((line) => line.includes('='))
  const ours = file.creator!.options.map(
    ({ name, type, description }) => `${name}=${placeholders[type]} - ${description}`,
  )
  expect(ours).toEqual(theirs.map((line) => line.trim().replace(/\s+- /, ' - ')))
})

for (const size of [0, 512, 1_000_448, 3 * 1024 * 1024]) {
  for (const preallocation of ['off', 'falloc', 'full']) {
    qemuImg.it(`${size} bytes, preallocation=${preallocation}, take the same space`, async () => {
      const theirs = join(folder, `theirs-${size}-${preallocation}`)
      const ours = join(folder, `ours-${size}-${preallocation}`)
      const option = `preallocation=${preallocation}`
      await qemuImg.run('create', '-q', '-f', 'raw', '-o', option, theirs, `${size}`)
      const options = file.creator!.parse({ filename: ours, size, preallocation })
      await file.creator!.create(options, openContext())
      expect(statSync(ours).size).toBe(statSync(theirs).size)
      expect(statSync(ours).blocks).toBe(statSync(theirs).blocks)
    })
  }
}
