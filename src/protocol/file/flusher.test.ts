import { execFileSync } from 'node:child_process'
import { constants, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { nodeSys } from '../../sys/node-sys.ts'
import { Flusher } from './flusher.ts'
import { OpenFile } from './open-file.ts'

const folder = mkdtempSync(join(tmpdir(), 'varve-flusher-'))
afterAll(() => rmSync(folder, { recursive: true }))

function open(path: string): Promise<OpenFile> {
  return OpenFile.open({ path, node: 'disk0' }, constants.O_RDWR, nodeSys)
}

it('does nothing unless something was written', async () => {
  const path = join(folder, 'file')
  writeFileSync(path, 'x')
  const file = await open(path)
  const flusher = new Flusher(file)
  expect(flusher.flush()).toBeUndefined()
  flusher.wrote()
  const first = flusher.flush()
  expect(first).toBeInstanceOf(Promise)
  await first
  expect(flusher.flush()).toBeUndefined()
  await file.close()
})

it('covers a write that settled while a flush was running by another one', async () => {
  const path = join(folder, 'file')
  writeFileSync(path, 'x')
  const file = await open(path)
  const flusher = new Flusher(file)
  flusher.wrote()
  const first = flusher.flush()
  await Promise.resolve()
  flusher.wrote()
  await first
  const second = flusher.flush()
  expect(second).toBeInstanceOf(Promise)
  await second
  expect(flusher.flush()).toBeUndefined()
  await file.close()
})

it('keeps failing once it has failed, and says why', async () => {
  // A FIFO can be opened and written, but there is no disk under it to be flushed.
  const path = join(folder, 'fifo')
  execFileSync('mkfifo', [path])
  const file = await open(path)
  const flusher = new Flusher(file)
  flusher.wrote()
  const first = flusher.flush()
  const second = flusher.flush()
  await expect(first).rejects.toMatchObject({ code: 'IO', errno: 'EINVAL', path, node: 'disk0' })
  await expect(second).rejects.toMatchObject({ errno: 'EINVAL' })
  expect(() => flusher.flush()).toThrowError(
    expect.objectContaining({
      code: 'IO',
      errno: 'EINVAL',
      message: expect.stringMatching(/An earlier flush/),
    }),
  )
  await file.close()
})
