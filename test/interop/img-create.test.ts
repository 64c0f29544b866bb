/** `img create` and `img info` against the real ones: same words, same output, same status. */
import { afterEach, beforeEach, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'

const qemuImg = peer('qemu-img')

let pair: Pair
beforeEach(() => {
  pair = new Pair()
})
afterEach(() => pair[Symbol.dispose]())

/** Both prepare with the real program, then each runs `args` itself. */
async function same(args: readonly string[], prepare: readonly string[][] = []): Promise<void> {
  for (const words of prepare) {
    await runTheirs(pair.ours, words)
    await runTheirs(pair.theirs, words)
  }
  await pair.same(args)
}

const words = (text: string) => (text === '' ? [] : text.split(' '))

qemuImg.describe('the command line of img', () => {
  it.each([
    '',
    'foo',
    '-x',
    '-T',
    '-T zz* --trace zy* info nope',
    'info',
    'info -x',
    'info -f',
    'info --out',
    'info --output',
    'info --ba a b',
    'info --backing-chain=1 a',
    'info -fU',
    'info -Uq',
    'info -qU b',
    'info a -qU b',
    'info --output=x a',
    'info --o a',
    'info --=x a',
    'create',
    'create -f',
    'create -f raw x 1M 2M',
    'create -f raw x 10x',
    'create -f raw x -5',
    'create -f raw x 9E',
    'create -f raw x 7E',
    'create -f raw x',
    'create -f nofmt x 1M',
    'create -o , x 1M',
    'create -f raw -o foo=1 x 1M',
    'create -f raw -o size=1e3 x',
    'create -f raw -o size=2M x 1M',
    'create -f raw -b b -F raw x',
    'create -f raw -F raw x 1M',
    'create -f raw -o help',
    'create -f raw -o help x',
    'create -o ? x',
    'create -f raw -o help foo:x',
    'create -f nofmt -o help',
    'create foo:bar 1M',
    'create json:{} 1M',
    'create -f raw /nodir/x 1M',
    'create -f raw /tmp 1M',
  ])('%s', async (text) => {
    await same(words(text))
  })
})

qemuImg.describe('new raw images', () => {
  it.each([
    'create x 1M',
    'create -q x 1M',
    'create x 5',
    'create x 0',
    'create x 1.5M',
    'create x 0x10k',
    'create -o size=3k x',
    'create -o preallocation=falloc x 1M',
    'create -o preallocation=full,nocow=on x 64k',
    'create -o extent_size_hint=2M,nocow=off x 64k',
    'create -f file x 1M',
  ])('%s', async (text) => {
    await same(words(text))
    await same(['info', '-f', 'raw', 'x'])
    await same(['info', '--output=json', 'x'])
  })
})

qemuImg.describe('what opens no image', () => {
  it.each([
    ['info', 'nope'],
    ['info', ''],
    ['info', '/tmp'],
    ['info', 'foo:bar'],
    ['info', '-f', 'nofmt', 'x'],
    ['info', 'json:[]'],
    ['info', 'json:'],
    ['info', 'json:{"driver":"raw"'],
    ['info', 'json:{bad'],
    ['info', 'json:{"driver":"raw",}'],
    ['info', 'json:{"driver":"raw"}{}'],
    ['info', 'json:{"driver":"raw"} x'],
    ['info', 'json:"x'],
    ['info', 'json:}'],
    ['info', 'json:{"driver":"raw","driver":"raw"}'],
    ['info', "json:{'driver':'raw','file':{'driver':'file','filename':'nosuch'}}"],
    ['info', '--image-opts', ''],
    ['info', '--image-opts', 'foo'],
    ['info', '--image-opts', 'driver=foo'],
    ['info', '--image-opts', '-f', 'raw', 'x'],
    ['info', '--image-opts', 'driver=raw,file.driver=file,file.filename=nope'],
    ['info', '--image-opts', 'file.filename=x,read-only=maybe'],
    ['info', '--object', 'foo,id=s', 'x'],
    ['info', '--object', 'secret,id=s', 'x'],
  ])('%s %s %s %s', async (...args) => {
    await same(
      args.filter((word) => word !== undefined),
      [['create', '-q', 'x', '1M']],
    )
  })
})

qemuImg.describe('what opens an image', () => {
  it.each([
    ['info', 'x'],
    ['info', '--', './x'],
    ['info', 'file:x'],
    ['info', 'json:{"driver":"raw","file":{"driver":"file","filename":"x"}}'],
    ['info', '--image-opts', 'driver=raw,file.filename=x'],
    ['info', '--image-opts', 'file.filename=x,read-only'],
    ['info', '--image-opts', 'file.filename=x,noread-only'],
    ['info', '-U', 'x'],
    ['info', '--backing-chain', 'x'],
    ['info', '--backing-chain', '--output', 'json', 'x'],
  ])('%s %s %s', async (...args) => {
    await same(
      args.filter((word) => word !== undefined),
      [['create', '-q', 'x', '1536k']],
    )
  })
})

qemuImg.describe('new qcow2 images', () => {
  const base = [['create', '-q', '-f', 'qcow2', 'b.qcow2', '1M']]

  it.each([
    'create -f qcow2 x 1M',
    'create -q -f qcow2 x 1M',
    'create -f qcow2 x 1',
    'create -f qcow2 x 1b',
    'create -f qcow2 x 0',
    'create -f qcow2 -o size=2M x',
    'create -f qcow2 -o cluster_size=64k,compat=0.10 x 1M',
    'create -f qcow2 -o cluster_size=4k,cluster_size=8k x 1M',
    'create -f qcow2 -o lazy_refcounts x 1M',
    'create -f qcow2 -o nolazy_refcounts x 1M',
    'create -f qcow2 -o lazy_refcounts=on -o cluster_size=128k x 1M',
    'create -f qcow2 -o refcount_bits=0x10 x 1M',
    'create -f qcow2 -o preallocation=full,cluster_size=2M,lazy_refcounts=on,refcount_bits=8,compat=v3,compression_type=zstd x 1M',
    'create -f qcow2 -o preallocation=metadata,nocow=on,extent_size_hint=2M x 1M',
    'create -f qcow2 -o preallocation=falloc x 1M',
    'create -f qcow2 file:x 1M',
    'create -f qcow2 -b b.qcow2 -F qcow2 x',
    'create -f qcow2 -b b.qcow2 -F qcow2 x 2M',
    'create -f qcow2 -b b.qcow2 -F qcow2 -o size=3M,compat=1.1 x',
    'create -f qcow2 -o backing_file=b.qcow2,backing_fmt=qcow2 x',
    'create -f qcow2 -b b.qcow2 -F qcow2 -o backing_fmt=raw x',
    'create -f qcow2 -b b.qcow2 -F raw x',
    'create -f qcow2 -b ./b.qcow2 -F qcow2 ./x',
    'create -u -f qcow2 -b nope.qcow2 -F qcow2 x 1M',
    'create -u -f qcow2 -b a,,b -F raw x 1M',
  ])('%s', async (text) => {
    await same(words(text), base)
    const ours = await runTheirs(pair.ours, ['info', '--output=json', 'x'])
    const theirs = await runTheirs(pair.theirs, ['info', '--output=json', 'x'])
    const withoutDiskSize = (json: string) => json.replace(/"actual-size": \d+/, '')
    expect(withoutDiskSize(ours.stdout)).toBe(withoutDiskSize(theirs.stdout))
    if (text.includes('-u') || text.includes('-F raw')) return
    expect(await runTheirs(pair.ours, ['check', '-q', 'x'])).toMatchObject({
      status: 0,
      stderr: '',
    })
  })

  it.each([
    'create -f qcow2 x',
    'create -f qcow2 x 64P',
    'create -f qcow2 x 7E',
    'create -f qcow2 x 1M 2M',
    'create -f qcow2 -o cluster_size=3k x 1M',
    'create -f qcow2 -o cluster_size=abc x 1M',
    'create -f qcow2 -o cluster_size= x 1M',
    'create -f qcow2 -o cluster_size=4k,, x 1M',
    'create -f qcow2 -o preallocation=abc x 1M',
    'create -f qcow2 -o lazy_refcounts=maybe x 1M',
    'create -f qcow2 -o refcount_bits=x x 1M',
    'create -f qcow2 -o refcount_bits=7 x 1M',
    'create -f qcow2 -o compression_type=lzo x 1M',
    'create -f qcow2 -o compat=9 x 1M',
    'create -f qcow2 -o compat=0.10,lazy_refcounts=on x 1M',
    'create -f qcow2 -o compat=0.10,refcount_bits=8 x 1M',
    'create -f qcow2 -o compat=0.10,compression_type=zstd x 1M',
    'create -f qcow2 -o foo=1 x 1M',
    'create -f qcow2 -o help=1 x 1M',
    'create -f qcow2 -o help',
    'create -f qcow2 -o help x',
    'create -f qcow2 -o a=b,help x 1M',
    'create -f qcow2 -o x 1M',
    'create -f qcow2 /nodir/x 1M',
    'create -f qcow2 /tmp 1M',
    'create -f qcow2 -F qcow2 x 1M',
    'create -f qcow2 -b nope.qcow2 -F qcow2 x',
    'create -f qcow2 -b nope.qcow2 -F qcow2 x 1M',
    'create -f qcow2 -b b.qcow2 -F nofmt x',
    'create -f qcow2 -b foo:bar -F raw x',
    'create -u -f qcow2 -b nope.qcow2 -F qcow2 x',
    'create -u -f qcow2 -b nope.qcow2 x 1M',
    'create -f qcow2 -b b.qcow2 -F qcow2 -o preallocation=full x',
    'create -f qcow2 -b x -F qcow2 x',
    'create -f qcow2 -o backing_file= x 1M',
    'create -f qcow2 -b b.qcow2 -F qcow2 /nodir/x',
    'create -b b.qcow2 -F qcow2 x',
  ])('%s', async (text) => {
    await same(words(text), base)
  })

  it.each([
    'create -f raw x 16T',
    'create -f raw x 7E',
    'create -f qcow2 -o data_file=y x 16T',
    'create -f luks --object secret,id=s,data=s -o key-secret=s,iter-time=10 x 16T',
  ])('more than this file system may hold: %s', async (text) => {
    await same(words(text))
  })

  it('with the detected format of the backing file, and a line that ends', async () => {
    await same(['create', '-q', '-f', 'qcow2', 'b.qcow2', '1M'])
    const args = ['create', '-f', 'qcow2', '-b', 'b.qcow2', 'x']
    const theirs = await runTheirs(pair.theirs, args)
    const ours = await runOurs(pair.ours, args)
    expect(ours).toEqual({ ...theirs, stderr: `${theirs.stderr}\n` })
  })
})
