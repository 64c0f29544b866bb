/** `img resize`, `img rebase -u` and `img check` against the real ones. */
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { viewOf } from '../../src/bytes/view.ts'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'

const qemu = peer('qemu-img', 'qemu-io')

let pair: Pair
beforeEach(async () => {
  pair = new Pair()
  await pair.prepare('qemu-img', 'create', '-q', '-f', 'qcow2', 'b.qcow2', '1M')
  await pair.prepare('qemu-io', '-c', 'write -P 7 64k 100k', 'b.qcow2')
  await pair.prepare('qemu-img', 'create', '-q', '-f', 'raw', 'r.raw', '1M')
})
afterEach(() => pair[Symbol.dispose]())

/** What is in the image, and that it is sound, is for the real program to say. */
async function equalAndSound(image: string): Promise<void> {
  const compared = ['compare', '-s', `${pair.ours}/${image}`, `${pair.theirs}/${image}`]
  expect(await runTheirs(pair.ours, compared)).toMatchObject({ stdout: 'Images are identical.\n' })
  const checked = await runTheirs(pair.ours, ['check', '-q', image])
  expect(checked.stderr).toBe('')
}

qemu.describe('img resize', () => {
  it.each([1, 511, 512, 513, 5000])('makes an empty file %d bytes long', async (size) => {
    await pair.prepare('qemu-img', 'create', '-q', '-f', 'raw', 'empty.raw', '0')
    await pair.same(`resize -f raw empty.raw ${size}`)
    const sizes = [pair.ours, pair.theirs].map((at) => statSync(`${at}/empty.raw`).size)
    expect(sizes[0]).toBe(sizes[1])
  })

  it.each([
    'resize b.qcow2 2M',
    'resize b.qcow2 +1M',
    'resize --shrink b.qcow2 -512k',
    'resize b.qcow2 --shrink 128k',
    'resize -q b.qcow2 +512',
    'resize b.qcow2 8G',
    'resize b.qcow2 1M',
    'resize --image-opts driver=qcow2,file.filename=b.qcow2 3M',
  ])('%s', async (text) => {
    await pair.same(text)
    await equalAndSound('b.qcow2')
  })

  it.each([
    'resize',
    'resize b.qcow2',
    'resize b.qcow2 x',
    'resize b.qcow2 512k',
    'resize b.qcow2 -1k',
    'resize --shrink b.qcow2 -8G',
    'resize b.qcow2 +511',
    'resize b.qcow2 1M --shrink',
    'resize --preallocation=foo b.qcow2 4M',
    'resize --preallocation=full --shrink b.qcow2 512k',
    'resize nope 2M',
    'resize r.raw 2M',
    'resize -f raw r.raw 3M',
    'resize -x b.qcow2 2M',
  ])('%s', async (line) => {
    await pair.same(line)
  })
})

qemu.describe('img rebase -u', () => {
  it.each([
    'rebase -u -b nope -F raw b.qcow2',
    'rebase -u -b nope -F qcow2 b.qcow2',
    'rebase -u -b nope b.qcow2',
    'rebase -u b.qcow2',
    "rebase -u -b '' b.qcow2",
    'rebase -u -b x -F foo b.qcow2',
    "rebase -u -b '' -f raw r.raw",
    'rebase b.qcow2',
    'rebase',
    'rebase -u -t foo -b x -F raw b.qcow2',
  ])('%s', async (text) => {
    await pair.same(text)
    expect(await described(pair.ours)).toBe(await described(pair.theirs))
  })
})

/** The image, apart from its size on the disk, which copying has changed. */
async function described(folder: string): Promise<string> {
  const { stdout } = await runTheirs(folder, ['info', 'b.qcow2'])
  return stdout.replace(/disk size: .*/, '')
}

qemu.describe('img check', () => {
  it.each([
    'check b.qcow2',
    'check -q b.qcow2',
    'check --output json b.qcow2',
    'check r.raw',
    'check --output=json r.raw',
    'check nope',
    'check',
    'check a b',
    'check -z',
    'check -r x b.qcow2',
    'check -r all b.qcow2',
    'check -r leaks b.qcow2',
    'check --output=foo b.qcow2',
    'check -T foo b.qcow2',
    'check -T none b.qcow2',
    'check -U b.qcow2',
    'check -U -r all b.qcow2',
    'check -f raw r.raw',
    'check -r all r.raw',
    'check --image-opts driver=qcow2,file.filename=b.qcow2',
    'check --image-opts -f qcow2 x',
  ])('%s', async (line) => {
    await pair.same(line)
  })

  it.each([
    'check b.qcow2',
    'check -q b.qcow2',
    'check --output=json b.qcow2',
    'check -r leaks b.qcow2',
    'check -r all b.qcow2',
    'check -q -r all b.qcow2',
    'check -r all --output=json b.qcow2',
  ])('%s, with a leaked cluster', async (text) => {
    leakCluster(`${pair.ours}/b.qcow2`)
    leakCluster(`${pair.theirs}/b.qcow2`)
    await pair.same(text)
    await pair.same('check b.qcow2')
  })
})

qemu.describe('img check, with a cluster that is used and not counted', () => {
  it.each(['check b.qcow2', 'check -q b.qcow2', 'check --output=json b.qcow2'])(
    '%s',
    async (text) => {
      uncountCluster(`${pair.ours}/b.qcow2`)
      uncountCluster(`${pair.theirs}/b.qcow2`)
      await pair.same(text)
    },
  )

  it('check -r all puts it right, which the real program confirms', async () => {
    uncountCluster(`${pair.ours}/b.qcow2`)
    const { status, stdout } = await runOurs(pair.ours, ['check', '-r', 'all', 'b.qcow2'])
    expect({ status, stdout }).toMatchObject({ status: 0, stdout: expect.stringMatching(/^The/) })
    await pair.same('check -q b.qcow2')
    const compared = ['compare', `${pair.ours}/b.qcow2`, `${pair.theirs}/b.qcow2`]
    expect((await runTheirs(pair.ours, compared)).stdout).toBe('Images are identical.\n')
  })
})

/** Sets the refcount of the first data cluster, the sixth of the file, to 0. */
function uncountCluster(path: string): void {
  const image = readFileSync(path)
  const view = viewOf(image)
  const table = view.getUint32(52)
  const block = view.getUint32(table + 4)
  view.setUint16(block + 2 * 5, 0)
  writeFileSync(path, image)
}

/** Takes the entry of the second guest cluster away, as a crash might. */
function leakCluster(path: string): void {
  const image = readFileSync(path)
  const view = viewOf(image)
  const l1 = view.getUint32(44)
  const l2 = view.getUint32(l1 + 4)
  view.setBigUint64(l2 + 8, 0n)
  writeFileSync(path, image)
}
