/** `img measure` against the real one: the same numbers, the same texts. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'
import { Random, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')

async function same(folder: string, text: string): Promise<void> {
  const args = text.split(' ')
  const ours = await runOurs(folder, args)
  expect({ text, ...ours }).toEqual({ text, ...(await runTheirs(folder, args)) })
}

const clusterSizes = ['512', '4k', '16k', '64k', '1M', '2M']

qemu.describe('img measure', () => {
  it.each([
    'measure',
    'measure --size 1G',
    'measure --size 1000 -O raw',
    'measure --size 1G --output=json -O qcow2',
    'measure --size 1G --output=x -O qcow2',
    'measure --size 0 -O qcow2',
    'measure --size x -O qcow2',
    'measure --size -1',
    'measure --size 9E -O qcow2',
    'measure --size 1E -O qcow2',
    'measure --size 100P -O qcow2',
    'measure --size 1P -O qcow2',
    'measure --size 1P -O raw',
    'measure --size 1M --size 2M',
    'measure --size 1G -O qcow2 -o help',
    'measure --size 1G -O qcow2 -o foo=1',
    'measure --size 1G -O qcow2 -o size=2G',
    'measure --size 1G -O qcow2 -o cluster_size=7',
    'measure --size 1G -O qcow2 -o preallocation=bad',
    'measure --size 1G -O qcow2 -o ,',
    'measure --size 1G -O qcow2 -o refcount_bits=3',
    'measure --size 1G -O qcow2 -o refcount_bits=8,compat=0.10',
    'measure --size 1G -O qcow2 -o compat=7',
    'measure --size 1G -O qcow2 -o compat=v3',
    'measure --size 1G -O qcow2 -o compat=7,cluster_size=3',
    'measure --size 1G -O qcow2 -o extended_l2=on,cluster_size=4k',
    'measure --size 1G -O qcow2 -o backing_file=x',
    'measure --size 1G -O qcow2 -o data_file=x,data_file_raw=on',
    'measure --size 1G -O qcow2 -o lazy_refcounts=on,compat=0.10',
    'measure --size 1G -O nofmt',
    'measure --size 1G -O file',
    'measure --size 1G -O raw -o preallocation=full',
    'measure --size 1G -O raw -o cluster_size=1',
    'measure --size 1G -f raw',
    'measure --size 1G --image-opts',
    'measure --size 1G -l x',
    'measure --size 1G -U',
    'measure --size 1G a',
    'measure a b',
    'measure nofile',
  ])('%s', async (text) => {
    using pair = new Pair()
    await same(pair.ours, text)
  })

  it(`of a size, with random options (${seedNote})`, async () => {
    using pair = new Pair()
    const random = new Random()
    for (let round = 0; round < 40; round++) {
      const size = Math.floor(2 ** (9 + 34 * random.next()))
      const options = [
        random.chance(0.7) ? `cluster_size=${random.pick(clusterSizes.slice(2))}` : '',
        random.chance(0.4) ? `refcount_bits=${2 ** random.below(7)}` : '',
        random.chance(0.3) ? 'extended_l2=on' : '',
        random.chance(0.4)
          ? `preallocation=${random.pick(['off', 'metadata', 'falloc', 'full'])}`
          : '',
        random.chance(0.2) ? 'compat=0.10' : '',
      ].filter((option) => option !== '')
      const list = options.length > 0 ? ` -o ${options.join(',')}` : ''
      await same(pair.ours, `measure --size ${size} -O qcow2${list}`)
    }
  })

  it(`of images (${seedNote})`, async () => {
    using pair = new Pair()
    const random = new Random()
    const run = async (program: string, ...args: string[]) => {
      expect(await runTheirs(pair.ours, args, program)).toMatchObject({ status: 0 })
    }
    const size = 16 * 1024 * 1024
    await run('qemu-img', 'create', '-q', '-f', 'raw', 'base.raw', `${size / 2}`)
    for (let round = 0; round < 6; round++) {
      const cluster = random.pick(clusterSizes)
      const backing = random.chance(0.5) ? ['-b', 'base.raw', '-F', 'raw'] : []
      const options = ['-o', `cluster_size=${cluster}`]
      await run(
        'qemu-img',
        'create',
        '-q',
        '-f',
        'qcow2',
        ...options,
        ...backing,
        'a.qcow2',
        `${size}`,
      )
      for (const [file, format] of [
        ['base.raw', 'raw'],
        ['a.qcow2', 'qcow2'],
      ]) {
        for (let count = 0; count < 6; count++) {
          const limit = format === 'raw' ? size / 2 : size
          const [offset, length] = random.range(limit, 512, 1024 * 1024)
          const write = random.chance(0.3) ? 'write -z' : 'write'
          await run('qemu-io', '-f', format, '-c', `${write} ${offset} ${length}`, file)
        }
      }
      if (random.chance(0.5)) {
        await run(
          'qemu-img',
          'bitmap',
          '--add',
          '-g',
          random.pick(['512', '64k']),
          'a.qcow2',
          'one',
        )
        await run('qemu-img', 'bitmap', '--add', 'a.qcow2', 'a-longer-name-than-that')
      }
      await run('qemu-img', 'snapshot', '-c', 's1', 'a.qcow2')
      await run('qemu-io', '-c', 'write 0 3M', 'a.qcow2')
      // Where a file has unwritten extents, Linux calls those pages a hole that nobody has read yet:
      // whoever came second saw more data than the first.
      for (const name of ['base.raw', 'a.qcow2']) readFileSync(join(pair.ours, name))
      for (const into of [
        '-O raw',
        '-O qcow2',
        `-O qcow2 -o cluster_size=${random.pick(clusterSizes)}`,
        '-O qcow2 --output=json',
        '-O qcow2 -o compat=0.10',
        '-O qcow2 -o backing_file=x',
        '-O qcow2 -l s1',
        '-O qcow2 -l snapshot.name=s1',
        '-l nix',
        '-l snapshot.x=s1',
        '-O qcow2 -o preallocation=full',
      ]) {
        await same(pair.ours, `measure ${into} a.qcow2`)
      }
      await same(pair.ours, 'measure -f raw -O qcow2 base.raw')
      await same(pair.ours, 'measure -O qcow2 --image-opts driver=qcow2,file.filename=a.qcow2')
      await same(pair.ours, 'measure -f raw -O qcow2 a.qcow2')
    }
  })
})
