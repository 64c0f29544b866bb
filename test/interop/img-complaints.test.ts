/**
 * Which of several complaints comes first: qemu-img looks at an option when it reads it, at what the
 * options come to together later, and at images last.
 */
import { writeFileSync } from 'node:fs'
import { afterAll, beforeAll, it } from 'vitest'
import { peer } from '../peers.ts'
import { Pair } from '../support/img.ts'

const qemu = peer('qemu-img')

let pair: Pair

qemu.describe('of several complaints the first is made', () => {
  beforeAll(async () => {
    pair = new Pair()
    await pair.prepare('qemu-img', 'create', '-q', '-f', 'qcow2', 'a.qcow2', '1M')
    await pair.prepare('qemu-img', 'create', '-q', '-f', 'raw', 'r.raw', '1M')
    const raw = 'data_file=d.raw,data_file_raw=on'
    await pair.prepare('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', raw, 'd.qcow2', '1M')
    for (const folder of [pair.ours, pair.theirs]) {
      writeFileSync(`${folder}/odd.raw`, 'odd')
      writeFileSync(`${folder}/d.raw`, Buffer.alloc(1024 * 1024))
    }
  })
  afterAll(() => pair[Symbol.dispose]())

  it.each([
    'bench -c x -d 0 a.qcow2',
    'bench -c x -c 1 a.qcow2',
    'bench -s x -d 0 a.qcow2',
    'bench -t x -i x',
    'bench -i native nix',
    'bench -i native a.qcow2',
    'bench --pattern -w a.qcow2',
    'check -r x --object foo a.qcow2',
    'check --object foo --output=x a.qcow2',
    'commit -p nix',
    'commit -p a.qcow2',
    'compare --object foo a.qcow2 a.qcow2',
    'compare -p nix a.qcow2',
    'compare -p -T bad a.qcow2 a.qcow2',
    'convert -m 99 -S x a.qcow2 o',
    'convert -S 8E a.qcow2 o',
    'convert -m 021 a.qcow2 o',
    'convert -n -o size=1 nix nix',
    'convert --image-opts -f x --target-is-zero a b',
    'convert --image-opts -f x -T bad a b',
    'convert -n --target-image-opts -O raw -T bad a b',
    'convert -t bad nix o',
    'convert -t bad -O nix a.qcow2 o',
    'convert -t bad -o x=1 a.qcow2 o',
    'convert -C --salvage --target-is-zero a.qcow2',
    'convert -C -S 4k --skip-broken-bitmaps a.qcow2',
    'convert -C -c --salvage a.qcow2',
    'convert -p nix o',
    'convert --bitmaps -f raw -O raw -F qcow2 r.raw o',
    'convert -l snapshot.id=1 a.qcow2 a.qcow2 o',
    'convert -l 1 a.qcow2 a.qcow2 o',
    'convert -O qcow2 -B a.qcow2 a.qcow2 a.qcow2 o',
    'bench -n -i threads a.qcow2',
    'measure -f qcow2 --image-opts a.qcow2',
    'create --object secret -f qcow2 t x',
    'create -f qcow2 -o lazy_refcounts=TRUE t 1M',
    'create -f qcow2 -o size=16E t',
    'create -f qcow2 -o refcount_bits=99999999999999999999 t 1M',
    'dd if=a.qcow2 of=x:y',
    'dd if=a.qcow2 of=nix/o skip=9999',
    'map -f file --output=json odd.raw',
    'convert --bitmaps -o x=1 a.qcow2 a.qcow2 o',
    'info --output=x',
    'info --output=x a b',
    'info --output=x --object foo a.qcow2',
    'map -s x --output=x a.qcow2',
    'map -l x -s y a.qcow2',
    'measure -O nix nix',
    'measure -O qcow2 -o x=1 nix',
    'measure -O qcow2 -o x=1 -l nix a.qcow2',
    'rebase -b a.qcow2 r.raw',
    'rebase -u -f raw r.raw',
    'rebase -p -t x -b a.qcow2 a.qcow2',
    'rebase -u -b a.qcow2 -F qcow2 d.qcow2',
    'rebase -b x -F raw -f raw --image-opts driver=raw,offset=512,file.filename=r.raw',
    'resize --preallocation=bad a.qcow2 x',
    'resize a.qcow2 16E',
    'resize a.qcow2 8E',
    'resize a.qcow2 -99999999999999999999',
    'snapshot -a x -d y --output a.qcow2',
    'snapshot --object foo -l -d x a.qcow2',
    'amend -o preallocation=off a.qcow2',
    'amend -o preallocation=off,nocow=off a.qcow2',
    'amend -p -o x nix',
    'amend -p -o help -f qcow2 nix',
    'amend -o encrypt.state=bad,preallocation=off a.qcow2',
    'amend -o size=1M .',
  ])('%s', async (text) => {
    await pair.same(text)
  })

  it.each([
    'json:{"driver":"qcow2"}',
    'json:{}',
    'json:{"driver":"qcow2","file":null}',
    'json:{"file":{"driver":"file","filename":"a.qcow2"}}',
    'json:{"driver":"raw","file":{"driver":"file","filename":"a.qcow2"}}',
    'json:{"driver":"file","filename":"a.qcow2"}',
  ])('%s, alone and with a format beside it', async (name) => {
    await pair.same(['check', name])
    await pair.same(['check', '-f', 'qcow2', name])
  })

  it.each([
    'json:{"driver":"raw","offset":2048,"file":{"driver":"file","filename":"odd.raw"}}',
    'json:{"driver":"raw","size":1024,"file":{"driver":"file","filename":"odd.raw"}}',
  ])('%s', async (name) => {
    await pair.same(['check', name])
  })

  it.each([
    'driver=qcow2,backing=,file.filename=a.qcow2',
    'driver=qcow2,lazy-refcounts=y,file.filename=a.qcow2',
  ])('%s', async (options) => {
    await pair.same(['check', '--image-opts', options])
  })

  it.each([3, 1000, 5000, 10_000])(
    'a disk of %i bytes is read past the page cache',
    async (size) => {
      for (const folder of [pair.ours, pair.theirs]) {
        writeFileSync(`${folder}/end.raw`, Buffer.alloc(size, 'odd'))
      }
      await pair.same('convert -T none -f raw end.raw copy.raw')
      await pair.same('compare -f raw -F raw end.raw copy.raw')
    },
  )

  it('fractions of a unit are rounded', async () => {
    await pair.same('create -f qcow2 -o cluster_size=2M odd.qcow2 0.3M')
  })

  it('bitmaps are changed without the backing file', async () => {
    await pair.same('create -u -f qcow2 -b gone -F qcow2 orphan.qcow2 1M')
    await pair.same('bitmap --add orphan.qcow2 b')
    await pair.same('bitmap --merge b -b orphan.qcow2 -F qcow2 orphan.qcow2 b')
  })

  it.each(['encryption=on', 'encrypt.format=x', 'encrypt.format=luks', 'encrypt.key-secret=k'])(
    'measure looks at nothing of encryption but LUKS: %s',
    async (options) => {
      await pair.same(['measure', '-O', 'qcow2', '--size', '1M', '-o', options])
    },
  )
})
