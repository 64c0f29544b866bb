/** `img info`, `map` and `compare` on qcow2 images and chains, against the real ones. */
import { afterAll, beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'

const qemu = peer('qemu-img', 'qemu-io')

let pair: Pair

/** Images made once by the real tools; both programs only look at them. */
const recipe: readonly (readonly [string, string])[] = [
  ['qemu-img', 'create -q -f qcow2 b.qcow2 1M'],
  ['qemu-io', '-c|write -P 7 64k 100k|b.qcow2'],
  ['qemu-img', 'create -q -f qcow2 -b b.qcow2 -F qcow2 o.qcow2'],
  ['qemu-io', '-c|write -P 8 4k 10k|-c|write -z 512k 64k|o.qcow2'],
  ['qemu-img', 'create -q -f qcow2 -b o.qcow2 -F qcow2 t.qcow2'],
  ['qemu-img', 'create -q -f qcow2 -b b.qcow2 -F qcow2 big.qcow2 2M'],
  ['qemu-img', 'create -q -f raw r.raw 1536k'],
  ['qemu-io', '-f|raw|-c|write -P 8 4k 10k|r.raw'],
  ['qemu-img', 'create -q -f raw z.raw 2M'],
  ['qemu-io', '-f|raw|-c|write -P 1 1500k 1|z.raw'],
  ['qemu-img', 'create -q -f qcow2 z.qcow2 1M'],
  ['qemu-io', '-c|write -P 0 0 64k|z.qcow2'],
  ['qemu-img', 'create -q -f qcow2 e.qcow2 1M'],
  ['qemu-img', 'convert -c -O qcow2 b.qcow2 c.qcow2'],
  ['qemu-img', 'create -q -f qcow2 -o preallocation=metadata pm.qcow2 1M'],
  ['qemu-img', 'create -q -f qcow2 -o compat=0.10 old.qcow2 5T'],
  [
    'qemu-img',
    'create -q -f qcow2 -o lazy_refcounts=on,refcount_bits=64,cluster_size=4k l.qcow2 77M',
  ],
  ['qemu-img', 'create -q -u -f qcow2 -b nope.qcow2 -F qcow2 m.qcow2 1M'],
  ['qemu-img', 'create -q -f raw empty 0'],
  ['qemu-img', 'create -q -f qcow2 s.qcow2 1M'],
  ['qemu-img', 'snapshot -c one s.qcow2'],
  ['qemu-img', 'snapshot -c a-name-longer-than-its-column s.qcow2'],
  ['qemu-img', 'create -q -f qcow2 -b b.qcow2 -F qcow2 so.qcow2'],
  ['qemu-img', 'snapshot -c one so.qcow2'],
  // The tail of the last cluster stays a hole.
  ['qemu-img', 'convert -f raw -O qcow2 r.raw h.qcow2'],
]

qemu.describe('images as both programs see them', () => {
  beforeAll(async () => {
    pair = new Pair()
    for (const [program, text] of recipe) {
      const args = text.split(text.includes('|') ? '|' : ' ')
      const made = await runTheirs(pair.theirs, args, program)
      expect(made.stderr, `${program} ${text}`).toBe('')
    }
  })
  afterAll(() => pair[Symbol.dispose]())

  it.each([
    ...['b', 'o', 't', 'big', 'c', 'pm', 'old', 'l', 'm', 's', 'so'].flatMap((name) => [
      `info ${name}.qcow2`,
      `info --output=json ${name}.qcow2`,
    ]),
    'info --backing-chain t.qcow2',
    'info --backing-chain --output=json t.qcow2',
    'info --backing-chain m.qcow2',
    'info -f raw b.qcow2',
    'info -f qcow2 r.raw',
    'info --image-opts driver=qcow2,file.filename=b.qcow2',
    'info --image-opts driver=qcow2',
    'info --image-opts driver=qcow2,file.filename=b.qcow2,file.driver=file,read-only=off',
    'info empty',
  ])('%s', same)

  it.each([
    ...[
      'b.qcow2',
      'o.qcow2',
      't.qcow2',
      'big.qcow2',
      'c.qcow2',
      'r.raw',
      'z.qcow2',
      'pm.qcow2',
      'h.qcow2',
    ].flatMap((name) => [`map ${name}`, `map --output=json ${name}`]),
    'map',
    'map --output=x b.qcow2',
    'map nope',
    'map m.qcow2',
    'map -s 64k -l 4k --output=json b.qcow2',
    'map --start-offset=2M b.qcow2',
    'map --start-offset=2M --output=json b.qcow2',
    'map --start-offset=x b.qcow2',
    'map --max-length=-1 b.qcow2',
    'map -l 9E b.qcow2',
    'map --start-offset 1 --max-length 70000 --output=json b.qcow2',
    'map --start-offset 513 --max-length 70000 b.qcow2',
    'map empty',
    'map --output=json empty',
    'map -U b.qcow2',
    'map -f raw r.raw',
    'map --image-opts driver=raw,file.filename=r.raw',
    'map --image-opts driver=raw,offset=512,file.filename=r.raw --output=json',
    'map --image-opts -f raw x',
  ])('%s', same)

  it.each([
    'compare',
    'compare b.qcow2',
    'compare a b c',
    'compare -x',
    'compare -f',
    'compare b.qcow2 b.qcow2',
    'compare b.qcow2 o.qcow2',
    'compare -s b.qcow2 o.qcow2',
    'compare o.qcow2 t.qcow2',
    'compare b.qcow2 big.qcow2',
    'compare -s b.qcow2 big.qcow2',
    'compare b.qcow2 c.qcow2',
    'compare -s b.qcow2 c.qcow2',
    'compare -q b.qcow2 o.qcow2',
    'compare -p b.qcow2 o.qcow2',
    'compare -s -p b.qcow2 o.qcow2',
    'compare -p z.raw z.qcow2',
    'compare b.qcow2 nope',
    'compare nope b.qcow2',
    'compare m.qcow2 b.qcow2',
    'compare -f raw -F raw b.qcow2 o.qcow2',
    'compare -f qcow2 r.raw b.qcow2',
    'compare z.raw z.qcow2',
    'compare z.qcow2 z.raw',
    'compare -s z.raw z.qcow2',
    'compare z.qcow2 e.qcow2',
    'compare -s z.qcow2 e.qcow2',
    'compare pm.qcow2 e.qcow2',
    'compare -T foo a b',
    'compare --image-opts -f raw a b',
    'compare --image-opts driver=qcow2,file.filename=b.qcow2 driver=qcow2,file.filename=c.qcow2',
    'compare -U b.qcow2 c.qcow2',
    'compare -T none b.qcow2 c.qcow2',
    'compare empty e.qcow2',
  ])('%s', same)
})

async function same(text: string): Promise<void> {
  const args = text.split(' ')
  const ours = await runOurs(pair.theirs, args)
  expect(ours).toEqual(await runTheirs(pair.theirs, args))
}
