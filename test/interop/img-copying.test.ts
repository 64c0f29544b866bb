/** `img dd`, `img rebase` and `img bench` against the real ones. */
import { copyFileSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'
import { Random, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')

let pair: Pair
beforeEach(async () => {
  pair = new Pair()
  writeFileSync(
    `${pair.theirs}/r.raw`,
    Uint8Array.from({ length: 77_000 }, (_, at) => at % 251),
  )
  copyFileSync(`${pair.theirs}/r.raw`, `${pair.ours}/r.raw`)
  await pair.prepare('qemu-img', 'create', '-q', '-f', 'qcow2', 'a.qcow2', '1M')
  await pair.prepare('qemu-io', '-c', 'write -P 7 0 100k', 'a.qcow2')
})
afterEach(() => pair[Symbol.dispose]())

qemu.describe('img dd', () => {
  it.each([
    'dd',
    'dd if=r.raw',
    'dd of=x',
    'dd bs=0 if=a.qcow2 of=o',
    'dd bs=x if=a.qcow2 of=o',
    'dd bs=3G if=a.qcow2 of=o',
    'dd bs= if=a.qcow2 of=o',
    'dd count=-1 if=a.qcow2 of=o',
    'dd skip=x if=a.qcow2 of=o',
    'dd foo=1 if=a.qcow2 of=o',
    'dd foo if=a.qcow2 of=o',
    'dd if=nix of=o',
    'dd -O nofmt if=a.qcow2 of=o',
    'dd -f nofmt if=a.qcow2 of=o',
    'dd if=a.qcow2 of=/nix/o',
    'dd -x if=a.qcow2 of=o',
    'dd -f qcow2 --image-opts if=driver=qcow2,file.filename=a.qcow2 of=o',
  ])('refuses: %s', async (text) => {
    await pair.same(text)
  })

  it.each([
    'dd -f raw if=r.raw of=o',
    'dd -f raw bs=4k count=2 skip=1 if=r.raw of=o',
    'dd -f raw bs=7 count=3 skip=2 if=r.raw of=o',
    'dd count=0 if=a.qcow2 of=o',
    'dd skip=100000 if=a.qcow2 of=o',
    'dd bs=1M skip=1 if=a.qcow2 of=o',
    'dd bs=300k skip=1 count=100 if=a.qcow2 of=o',
    'dd bs=1k bs=2k count=9 if=r.raw if=a.qcow2 of=o',
    'dd -U if=a.qcow2 of=o',
    'dd if=r.raw of=o',
    'dd --image-opts if=driver=qcow2,file.filename=a.qcow2 of=o',
  ])('copies: %s', async (text) => {
    await pair.same(text)
    expect(readFileSync(`${pair.ours}/o`).equals(readFileSync(`${pair.theirs}/o`))).toBe(true)
  })

  it('copies into other formats', async () => {
    await pair.same('dd -f raw -O qcow2 if=r.raw of=o.qcow2')
    const compared = await runTheirs(pair.ours, ['compare', 'o.qcow2', `${pair.theirs}/o.qcow2`])
    expect(compared.stdout).toBe('Images are identical.\n')
    await pair.same('dd -O qcow2 if=a.qcow2 of=o.qcow2')
    expect(statSync(`${pair.ours}/o.qcow2`).size).toBeGreaterThan(1024 * 1024)
  })
})

qemu.describe('img bench', () => {
  it.each([
    'bench',
    'bench a b',
    'bench -c 100 a.qcow2',
    'bench -c 0 a.qcow2',
    'bench -c 10 -d 2 -s 4096 -w --pattern=5 a.qcow2',
    'bench -c 10 -w --flush-interval=2 a.qcow2',
    'bench -c 10 -w --flush-interval=2 -d 1 a.qcow2',
    'bench -c 10 -w --flush-interval=2 --no-drain -d 1 a.qcow2',
    'bench -c 300 -w --flush-interval=70 -d 4 a.qcow2',
    'bench -c x a.qcow2',
    'bench -c -1 a.qcow2',
    'bench -d x a.qcow2',
    'bench -s x a.qcow2',
    'bench -s 0 -c 1 a.qcow2',
    'bench -S x a.qcow2',
    'bench -c 3 -S 0 a.qcow2',
    'bench -c 300 -S 5000 a.qcow2',
    'bench -o x a.qcow2',
    'bench -c 3 -o 4096 a.qcow2',
    'bench -c 1 -o 2M a.qcow2',
    'bench -s 3M -c 2 a.qcow2',
    'bench --pattern=300 -c 2 a.qcow2',
    'bench --pattern=x a.qcow2',
    'bench --flush-interval=x a.qcow2',
    'bench --flush-interval=5 -c 2 a.qcow2',
    'bench -q -c 2 a.qcow2',
    'bench -t bad a.qcow2',
    'bench -i bad a.qcow2',
    'bench -i native -c 2 a.qcow2',
    'bench -U -c 2 a.qcow2',
    'bench -U -w -c 2 a.qcow2',
    'bench -c 3 -f raw r.raw',
    'bench nofile',
  ])('%s', async (text) => {
    await pair.same(text)
  })
})

qemu.describe('img rebase', () => {
  const overlay = async () => {
    await pair.prepare('qemu-img', 'create', '-q', '-f', 'qcow2', 'b1.qcow2', '1M')
    await pair.prepare('qemu-io', '-c', 'write -P 1 0 512k', 'b1.qcow2')
    await pair.prepare('qemu-img', 'create', '-q', '-f', 'qcow2', 'b2.qcow2', '768k')
    await pair.prepare(
      'qemu-io',
      '-c',
      'write -P 1 0 256k',
      '-c',
      'write -P 2 256k 512k',
      'b2.qcow2',
    )
    await pair.prepare(
      'qemu-img',
      'create',
      '-q',
      '-f',
      'qcow2',
      '-b',
      'b1.qcow2',
      '-F',
      'qcow2',
      'o.qcow2',
      '2M',
    )
    await pair.prepare('qemu-io', '-c', 'write -P 3 100k 64k', 'o.qcow2')
  }

  it.each([
    'rebase -b b2.qcow2 -F qcow2 o.qcow2',
    'rebase -q -p -b b2.qcow2 -F qcow2 o.qcow2',
    "rebase -b '' o.qcow2",
    'rebase -b b2.qcow2 o.qcow2',
    'rebase -b nix -F qcow2 o.qcow2',
    'rebase -b b2.qcow2 -F nofmt o.qcow2',
    'rebase -c -b b2.qcow2 -F qcow2 o.qcow2',
    'rebase -b b1.qcow2 -F qcow2 o.qcow2',
    'rebase -b b1.qcow2 -F qcow2 a.qcow2',
    "rebase -b '' a.qcow2",
    'rebase -b b1.qcow2 -F qcow2 -f raw r.raw',
    'rebase -b b2.qcow2 -F raw o.qcow2',
    'rebase -t bad -b b2.qcow2 -F qcow2 o.qcow2',
    'rebase -T bad -b b2.qcow2 -F qcow2 o.qcow2',
    'rebase o.qcow2',
    'rebase',
  ])('%s', async (text) => {
    await overlay()
    await runTheirs(pair.ours, ['convert', '-O', 'raw', 'o.qcow2', 'before.raw'])
    await pair.same(text)
    const args = ['compare', '-F', 'raw', 'o.qcow2', 'before.raw']
    expect((await runTheirs(pair.ours, args)).stdout).toBe('Images are identical.\n')
    expect(await runTheirs(pair.ours, ['check', '-q', 'o.qcow2'])).toMatchObject({ status: 0 })
    const backing = async (folder: string) =>
      JSON.parse((await runTheirs(folder, ['info', '--output=json', 'o.qcow2'])).stdout)[
        'backing-filename'
      ]
    expect(await backing(pair.ours)).toBe(await backing(pair.theirs))
  })

  it.each([
    // The new backing file has data from within a cluster on, and zeroes, or nothing, before it.
    ['write -P 5 100k 10k', '64k'],
    ['write -z 64k 64k|write -P 5 100k 10k', '64k'],
    ['write -P 5 1000k 24k', '2M'],
  ])('zeroes the old disk has stay zeroes: %s, in clusters of %s', async (text, cluster) => {
    const write = text.split('|').flatMap((command) => ['-c', command])
    const create = ['create', '-q', '-f', 'qcow2', '-o']
    await pair.prepare('qemu-img', ...create, 'cluster_size=4k', 'n.qcow2', '1M')
    await pair.prepare('qemu-io', ...write, 'n.qcow2')
    await pair.prepare('qemu-img', ...create, `cluster_size=${cluster}`, 'e.qcow2', '1M')
    await pair.same('rebase -b n.qcow2 -F qcow2 e.qcow2')
    const zeroes = ['-c', 'read -P 0 0 1M', 'e.qcow2']
    expect(await runTheirs(pair.ours, zeroes, 'qemu-io')).toMatchObject({ status: 0 })
  })

  it(`shows the same on any backing file (${seedNote})`, async () => {
    const random = new Random()
    const run = async (program: string, ...args: string[]) => {
      expect(await runTheirs(pair.ours, args, program)).toMatchObject({ status: 0 })
    }
    for (let round = 0; round < 5; round++) {
      for (const name of ['x', 'y', 'z']) {
        const size = random.pick(['1M', '2M', '3M'])
        const backing = name === 'y' && random.chance(0.5) ? ['-b', 'x.qcow2', '-F', 'qcow2'] : []
        const base = name === 'z' ? ['-b', 'y.qcow2', '-F', 'qcow2'] : backing
        const options = [
          '-o',
          `cluster_size=${random.pick(['4k', '64k'])},compat=${random.pick(['0.10', '1.1'])}`,
        ]
        await run(
          'qemu-img',
          'create',
          '-q',
          '-f',
          'qcow2',
          ...options,
          ...base,
          `${name}.qcow2`,
          size,
        )
        for (let count = 0; count < 4; count++) {
          const [offset, length] = random.range(1024 * 1024, 512, 300_000)
          const write = random.chance(0.3) ? 'write -z' : `write -P ${random.below(3)}`
          await run('qemu-io', '-c', `${write} ${offset} ${length}`, `${name}.qcow2`)
        }
      }
      await run('qemu-img', 'convert', '-O', 'raw', 'z.qcow2', 'before.raw')
      for (const to of ['x.qcow2', 'a.qcow2', '']) {
        const args = to === '' ? ['-b', ''] : ['-b', to, '-F', 'qcow2']
        expect(await runOurs(pair.ours, ['rebase', ...args, 'z.qcow2'])).toMatchObject({
          status: 0,
          stderr: '',
        })
        const compared = await runTheirs(pair.ours, [
          'compare',
          '-F',
          'raw',
          'z.qcow2',
          'before.raw',
        ])
        expect(compared.stdout).toBe('Images are identical.\n')
        expect(await runTheirs(pair.ours, ['check', '-q', 'z.qcow2'])).toMatchObject({ status: 0 })
      }
    }
  })
})
