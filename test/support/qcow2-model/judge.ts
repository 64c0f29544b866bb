/** Whether two images are what the reference says, for both programs. */
import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { expect } from 'vitest'
import { runOurs, runTheirs } from '../img.ts'
import type { Workshop } from './commands.ts'
import { readOurs, stateUnit } from './hands.ts'
import { expectDone, type ImageFolder, password } from './image.ts'
import type { Reference } from './reference.ts'

export async function judge(reference: Reference, workshop: Workshop): Promise<void> {
  const { ours, theirs, folder } = workshop
  expect(await ours.check(), 'our check, while the image is open').toEqual([])
  expectSame(await ours.read(), reference.disk, 'what the open image shows')
  await ours.close()
  await theirs.close()
  const raw = join(folder, 'reference')
  writeFileSync(raw, reference.disk)
  for (const [note, { image }] of [
    ['ours', ours],
    ['theirs', theirs],
  ] as const) {
    await expectSound(image, note)
    await expectDisk(image, raw, reference, note)
    await expectState(image, note)
    await expectSnapshots(image, reference, note)
    await expectBitmaps(image, reference, note)
  }
}

/** Both programs say the same of it, and that nothing is wrong. */
async function expectSound(image: ImageFolder, note: string): Promise<void> {
  const checked = await image.theirs('check')
  expectDone(checked, `${note}: qemu-img check: ${checked.stdout}`)
  expect(await image.ours('check'), `${note}: check`).toEqual(checked)
  for (const format of ['human', 'json']) {
    const words = ['info', `--output=${format}`, 'i']
    const told = await runTheirs(image.folder, words)
    expect(await runOurs(image.folder, words), `${note}: info`).toEqual(told)
  }
}

async function expectDisk(
  image: ImageFolder,
  raw: string,
  reference: Reference,
  note: string,
): Promise<void> {
  const compared = await image.theirs('compare', [], [`driver=raw,file.filename=${raw}`])
  expect(compared.stdout + compared.stderr, note).toBe('Images are identical.\n')
  expectSame((await readOurs(image)).disk, reference.disk, `${note}, read by us`)
  const { dataFile, encryption } = image.kind
  if (dataFile === 'raw' && encryption === 'none') {
    const data = image.read('d').subarray(0, reference.size)
    expectSame(data, reference.disk, `${note}: the raw data file`)
  }
}

async function expectState(image: ImageFolder, note: string): Promise<void> {
  const { known, state } = await readOurs(image).then((shown) => shown.state)
  expect(state, `${note}: the state of the machine`).toEqual(known)
  const runs: { offset: number; length: number; pattern: number }[] = []
  for (const [offset, pattern] of [...known].sort(([a], [b]) => a - b)) {
    const last = runs.at(-1)
    if (last?.pattern === pattern && last.offset + last.length === offset) last.length += stateUnit
    else runs.push({ offset, length: stateUnit, pattern })
  }
  if (runs.length === 0) return
  const outcome = await image.theirIo(
    runs.map(({ offset, length, pattern }) => `read -b -P ${pattern} ${offset} ${length}`),
  )
  expect(outcome.stdout, `${note}: the state of the machine`).not.toMatch(/failed/)
}

async function expectSnapshots(
  image: ImageFolder,
  { snapshots }: Reference,
  note: string,
): Promise<void> {
  const { stdout } = await image.theirs('info', ['--output=json'])
  const listed: { name: string }[] = JSON.parse(stdout).snapshots ?? []
  expect(listed.map(({ name }) => name).sort(), note).toEqual([...snapshots.keys()].sort())
  for (const [name, content] of snapshots) {
    const what = `${note}: snapshot ${name}`
    expectDone(await image.theirs('convert', ['-l', name, '-O', 'raw'], ['shown']), what)
    // qemu-img shows it in the size that the disk has now.
    const shown = image.read('shown')
    const common = Math.min(shown.length, content.length)
    expectSame(shown.subarray(0, common), content.subarray(0, common), what)
    const { disk, state } = await readOurs(image, name)
    expectSame(disk, content, `${what}, read by us`)
    expect(state.state, `${what}: the state of the machine`).toEqual(state.known)
  }
}

async function expectBitmaps(
  image: ImageFolder,
  { bitmaps }: Reference,
  note: string,
): Promise<void> {
  const { stdout } = await image.theirs('info', ['--output=json'])
  const listed: { name: string; granularity: number; flags: string[] }[] =
    JSON.parse(stdout)['format-specific'].data.bitmaps ?? []
  const found = Object.fromEntries(listed.map((each) => [each.name, each]))
  const wanted = [...bitmaps].map(([name, { granularity, enabled }]) => {
    return [name, { name, granularity, flags: enabled ? ['auto'] : [] }]
  })
  expect(found, `${note}: bitmaps`).toEqual(Object.fromEntries(wanted))
  if (bitmaps.size === 0) return
  const hashes = await bitmapHashes(image, [...bitmaps.keys()])
  for (const [name, bitmap] of bitmaps) {
    expect(hashes.get(name), `${note}: what is dirty in ${name}`).toBe(bitmap.hash)
  }
}

/** What QEMU makes of bitmaps when it loads them. */
async function bitmapHashes(image: ImageFolder, names: readonly string[]) {
  const monitor = ['--chardev', 'stdio,id=c', '--monitor', 'c']
  const node = `${image.options},node-name=n,read-only=on,file.driver=file`
  const child = spawn(
    'qemu-storage-daemon',
    ['--object', `secret,id=s,data=${password}`, '--blockdev', node, ...monitor],
    { cwd: image.folder, stdio: ['pipe', 'pipe', 'inherit'] },
  )
  const ask = (name: string) => ({
    execute: 'x-debug-block-dirty-bitmap-sha256',
    arguments: { node: 'n', name },
    id: name,
  })
  const commands = [{ execute: 'qmp_capabilities' }, ...names.map(ask), { execute: 'quit' }]
  child.stdin.end(commands.map((each) => `${JSON.stringify(each)}\n`).join(''))
  const answers = (await text(child.stdout)).trim().split('\n')
  const told = answers.map((line) => JSON.parse(line)).filter(({ id }) => id !== undefined)
  return new Map<string, string>(told.map((each) => [each.id, each.return?.sha256 ?? each.error]))
}

function expectSame(found: Buffer, wanted: Buffer, note: string): void {
  if (found.equals(wanted)) return
  const length = Math.min(found.length, wanted.length)
  let at = 0
  while (at < length && found[at] === wanted[at]) at++
  expect.fail(
    `${note}: ${found.length} bytes, ${found[at]} at ${at}, in place of ` +
      `${wanted.length} bytes, ${wanted[at]}`,
  )
}
