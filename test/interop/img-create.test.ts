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
  const ours = await runOurs(pair.ours, args)
  expect(ours).toEqual(await runTheirs(pair.theirs, args))
}

const words = (text: string) => (text === '' ? [] : text.split(' '))

qemuImg.describe('the command line of img', () => {
  it.each([
    '',
    'foo',
    '-x',
    '-T',
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
