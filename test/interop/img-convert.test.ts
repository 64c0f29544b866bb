/**
 * `img convert` against the real one: the same words in two folders that hold the same images,
 * then the same output, the same status, and images that the real program calls equal and sound.
 */
import { existsSync, readFileSync } from 'node:fs'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { SeededRandom } from '../../src/bytes/seeded-random.ts'
import { peer } from '../peers.ts'
import { Pair, runTheirs } from '../support/img.ts'

const qemu = peer('qemu-img', 'qemu-io')

let pair: Pair

/** Images of random content in both folders. */
const recipe: readonly (readonly string[])[] = [
  ['qemu-img', 'create', '-q', '-f', 'raw', 'r.raw', '3000000'],
  ['qemu-io', '-f', 'raw', ...randomWrites(11, 2_900_000), 'r.raw'],
  ['qemu-img', 'create', '-q', '-f', 'qcow2', 'b.qcow2', '5M'],
  ['qemu-io', ...randomWrites(12, 5_242_880), 'b.qcow2'],
  ['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'b.qcow2', '-F', 'qcow2', 'o.qcow2', '6M'],
  ['qemu-io', ...randomWrites(13, 6_291_456), 'o.qcow2'],
  [
    'qemu-img',
    'create',
    '-q',
    '-f',
    'qcow2',
    '-o',
    'cluster_size=512,refcount_bits=1',
    's.qcow2',
    '3M',
  ],
  ['qemu-io', ...randomWrites(14, 3_145_728), 's.qcow2'],
  ['qemu-img', 'convert', '-c', '-O', 'qcow2', 'o.qcow2', 'c.qcow2'],
  [
    'qemu-img',
    'convert',
    '-c',
    '-O',
    'qcow2',
    '-o',
    'compression_type=zstd',
    'o.qcow2',
    'zstd.qcow2',
  ],
  ['qemu-img', 'create', '-q', '-f', 'raw', 'empty', '0'],
]

/** Writes of data and of zeroes at places that the seed decides. */
function randomWrites(seed: number, size: number): string[] {
  const random = new SeededRandom(seed)
  return Array.from({ length: 30 }, () => {
    const offset = random.below(size - 1)
    const length = 1 + random.below(Math.min(200_000, size - offset))
    const how = ['write -P 1', 'write -P 0', 'write -P 255', 'write -z'][random.below(4)]
    return ['-c', `${how} ${offset} ${length}`]
  }).flat()
}

qemu.describe('img convert', () => {
  beforeAll(async () => {
    pair = new Pair()
    for (const folder of [pair.ours, pair.theirs]) {
      for (const [program, ...args] of recipe) {
        const { status, stderr } = await runTheirs(folder, args, program)
        expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
      }
    }
  })
  afterAll(() => pair[Symbol.dispose]())

  it.each([
    'r.raw x',
    'r.raw -O qcow2 x',
    'b.qcow2 x',
    'o.qcow2 -O raw x',
    'o.qcow2 -O qcow2 x',
    's.qcow2 -O qcow2 -o cluster_size=2M x',
    'c.qcow2 x',
    'zstd.qcow2 -O qcow2 x',
    'o.qcow2 -O qcow2 -o compat=0.10,cluster_size=4k x',
    'o.qcow2 -O qcow2 -o cluster_size=512,refcount_bits=64 x',
    'o.qcow2 -O qcow2 -o lazy_refcounts=on x',
    '-c r.raw -O qcow2 x',
    '-c o.qcow2 -O qcow2 -o compression_type=zstd,cluster_size=8k x',
    '-c -W -m 16 s.qcow2 -O qcow2 x',
    '-S 0 r.raw x',
    '-S 0 b.qcow2 -O qcow2 x',
    '-S 64k o.qcow2 x',
    '-S 512 o.qcow2 x',
    '-S 12k o.qcow2 x',
    '-S 16M o.qcow2 -O qcow2 x',
    '-m 1 o.qcow2 x',
    '-W -m 3 o.qcow2 -O qcow2 x',
    '-r 100M b.qcow2 x',
    '-t writethrough -T writeback o.qcow2 x',
    '-t none -T none o.qcow2 -O qcow2 x',
    '-t directsync r.raw x',
    '-B b.qcow2 -F qcow2 -O qcow2 o.qcow2 x',
    // What these do not have is zeroes, not the new backing file's.
    '-B b.qcow2 -F qcow2 -O qcow2 s.qcow2 x',
    '-B o.qcow2 -F qcow2 -O qcow2 b.qcow2 x',
    '-B s.qcow2 -F qcow2 -O qcow2 o.qcow2 x',
    '-B b.qcow2 -F qcow2 -O qcow2 r.raw x',
    '-o backing_file=b.qcow2,backing_fmt=qcow2 -O qcow2 o.qcow2 x',
    'r.raw b.qcow2 s.qcow2 x',
    'b.qcow2 r.raw -O qcow2 x',
    '-O qcow2 empty x',
    'empty x',
    'empty r.raw empty x',
    '-U -q b.qcow2 x',
    '-o size=1M -O qcow2 b.qcow2 x',
    '-o preallocation=metadata -O qcow2 b.qcow2 x',
    '-o preallocation=full -O qcow2 b.qcow2 x',
    '-o preallocation=falloc r.raw x',
    '--salvage b.qcow2 x',
    '-C b.qcow2 x',
    '--image-opts driver=qcow2,file.filename=b.qcow2 x',
    '--image-opts driver=raw,offset=512,size=1M,file.filename=r.raw -O qcow2 x',
  ])('%s', converts)

  it.each([
    // Onto what is there: all of it has to be replaced.
    ['-O raw s.qcow2 x', '-n -O raw r.raw x'],
    ['-S 0 -O qcow2 o.qcow2 x', '-n -O qcow2 b.qcow2 x'],
    ['-S 0 o.qcow2 x', '-n -S 0 b.qcow2 x'],
    [
      '-O qcow2 -o size=6M o.qcow2 x',
      '-n --target-image-opts b.qcow2 driver=qcow2,file.filename=x',
    ],
    ['-O raw empty x', '-n -O raw b.qcow2 x'],
  ])('%s, then %s', async (first, second) => {
    await pair.same(['convert', ...first.split(' ')])
    await converts(second)
  })

  it('leaves zeroes out where the target is said to be zero', async () => {
    await pair.same('create -q -f qcow2 x 6M'.split(' '))
    await converts('-n --target-is-zero -O qcow2 o.qcow2 x')
  })

  it.each([
    'convert',
    'convert a',
    'convert -O nofmt r.raw x',
    'convert -O qcow2 nope x',
    'convert -f qcow2 r.raw x',
    'convert -f nofmt r.raw x',
    'convert b.qcow2 /nodir/x',
    'convert -O qcow2 b.qcow2 /nodir/x',
    'convert -c -O raw b.qcow2 x',
    'convert -S 3 b.qcow2 x',
    'convert -S x b.qcow2 x',
    'convert -S 32M b.qcow2 x',
    'convert -C -c -S 4k b.qcow2 x',
    'convert -m 0 b.qcow2 x',
    'convert -m 17 b.qcow2 x',
    'convert -m x b.qcow2 x',
    'convert -B b.qcow2 -O qcow2 o.qcow2 x',
    'convert -o backing_file=b.qcow2 -O qcow2 o.qcow2 x',
    'convert -B b.qcow2 -F qcow2 -O raw o.qcow2 x',
    'convert -B nope -F qcow2 -O qcow2 o.qcow2 x',
    'convert -n b.qcow2 nope.raw',
    'convert -n -O raw b.qcow2 empty',
    'convert --target-is-zero b.qcow2 x',
    'convert --target-image-opts b.qcow2 driver=raw,file.filename=x',
    'convert -n --target-image-opts -O raw b.qcow2 driver=raw,file.filename=x',
    'convert --image-opts -f raw b.qcow2 x',
    'convert -s s1 b.qcow2 x',
    'convert -C -S 4k b.qcow2 x',
    'convert -C -c -O qcow2 b.qcow2 x',
    'convert -r x b.qcow2 x',
    'convert -t foo b.qcow2 x',
    'convert -T foo b.qcow2 x',
    'convert -o foo=1 -O qcow2 b.qcow2 x',
    'convert -o cluster_size=3k -O qcow2 b.qcow2 x',
    'convert -o backing_fmt=raw -O qcow2 b.qcow2 x',
    'convert -F qcow2 -O qcow2 b.qcow2 x',
    'convert -c -o preallocation=metadata -O qcow2 b.qcow2 x',
    'convert -O qcow2 -o help',
    'convert -O qcow2 -o help b.qcow2 x',
    'convert --foo',
    'convert b.qcow2 b.qcow2',
    'convert -O qcow2 o.qcow2 b.qcow2',
    // A raw file has no reader that keeps writers out but the conversion itself.
    'convert -f raw -O raw s.qcow2 s.qcow2',
    'convert -f raw -O qcow2 s.qcow2 s.qcow2',
    'convert -b b.qcow2 x',
  ])('%s', async (text) => {
    await pair.same(text.split(' '))
  })
})

qemu.describe('a raw image converted into itself', () => {
  it.each(['convert -f raw -O raw own.raw own.raw', 'convert -n -f raw -O raw own.raw own.raw'])(
    '%s: is left alone',
    async (text) => {
      using own = new Pair()
      await own.prepare('qemu-img', 'create', '-q', '-f', 'raw', 'own.raw', '64k')
      await own.prepare('qemu-io', '-f', 'raw', '-c', 'write -P 5 0 64k', 'own.raw')
      await own.same(text)
      for (const folder of [own.ours, own.theirs]) {
        expect(readFileSync(`${folder}/own.raw`)).toEqual(Buffer.alloc(65536, 5))
      }
    },
  )
})

/** Both convert to `x`; the two are equal, and ours is sound. */
async function converts(text: string): Promise<void> {
  await pair.same(['convert', ...text.split(' ')])
  expect(existsSync(`${pair.ours}/x`)).toBe(true)
  const formats = isQcow2(text) ? ['-f', 'qcow2', '-F', 'qcow2'] : ['-f', 'raw', '-F', 'raw']
  const compared = ['compare', ...formats, `${pair.ours}/x`, `${pair.theirs}/x`]
  expect(await runTheirs(pair.theirs, compared)).toMatchObject({
    stdout: 'Images are identical.\n',
    stderr: '',
  })
  if (isQcow2(text)) {
    const checked = await runTheirs(pair.ours, ['check', 'x'])
    expect({ status: checked.status, stderr: checked.stderr }).toEqual({ status: 0, stderr: '' })
  }
}

/** Whether the words ask for a qcow2 target. */
function isQcow2(text: string): boolean {
  return text.includes('-O qcow2') || text.includes('driver=qcow2,file.filename=x')
}
