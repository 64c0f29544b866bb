import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { img } from './main.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'varve-img-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

/** Runs a command; words with a slash in front are files of the test's folder. */
async function run(text: string): Promise<{ status: number; stdout: string; stderr: string }> {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const words = text.split(' ').map((word) => (word.startsWith('/') ? folder + word : word))
  const io = { stdin: new PassThrough(), stdout, stderr, env: {}, cwd: folder }
  const status = await img(words, io)
  const read = (stream: PassThrough) => String(stream.read() ?? '').replaceAll(`${folder}/`, '')
  return { status, stdout: read(stdout), stderr: read(stderr) }
}

/** 300 KB: data, stored zeroes, an odd end. */
function makeDisk(): Uint8Array {
  const bytes = new Uint8Array(300_007)
  for (let at = 70_000; at < 130_000; at++) bytes[at] = (at * 7) % 251
  bytes[300_006] = 1
  writeFileSync(`${folder}/disk`, bytes)
  return bytes
}

it('a disk comes back from compressed qcow2 as it was', async () => {
  const bytes = makeDisk()
  const silent = { status: 0, stdout: '', stderr: '' }
  expect(await run('convert -f raw -c -O qcow2 /disk /small')).toEqual(silent)
  expect(await run('convert /small /again')).toEqual(silent)
  const again = readFileSync(`${folder}/again`)
  expect(again.subarray(0, bytes.length).equals(bytes)).toBe(true)
  expect(again.length).toBe(300_032)
  expect(await run('compare -F raw /small /disk')).toEqual({
    ...silent,
    stdout: 'Images are identical.\n',
  })
})

it('an overlay shows where its data lies', async () => {
  makeDisk()
  await run('convert -f raw -O qcow2 /disk /base')
  await run('create -q -f qcow2 -b base -F qcow2 /top')
  expect(await run('map --output=json /top')).toMatchObject({
    status: 0,
    stdout: expect.stringMatching(/"start": 65536, .*"depth": 1, "present": true, .*"data": true/),
  })
  const info = await run('info /top')
  expect(info.stdout).toContain(
    'backing file: base (actual path: base)\nbacking file format: qcow2',
  )
})

it('a difference is told to the sector', async () => {
  const bytes = makeDisk()
  bytes[100_000] ^= 1
  writeFileSync(`${folder}/other`, bytes)
  expect(await run('compare -f raw -F raw /disk /other')).toEqual({
    status: 1,
    stdout: `Content mismatch at offset ${100_000 - (100_000 % 512)}!\n`,
    stderr: '',
  })
})

it('nothing is touched when the options of the new image make no sense', async () => {
  makeDisk()
  const before = readFileSync(`${folder}/disk`)
  const made = await run('create -q -f qcow2 -o cluster_size=3k /disk 1M')
  expect(made.stderr).toBe(
    'varve-img: disk: Cluster size must be a power of two between 512 and 2048k\n',
  )
  expect(readFileSync(`${folder}/disk`).equals(before)).toBe(true)
})
