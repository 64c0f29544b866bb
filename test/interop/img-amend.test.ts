/** `img amend` against the real one: texts, statuses, and that no bit of any disk is lost. */
import { copyFileSync, readdirSync, readFileSync } from 'node:fs'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'
import { Random, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')

let pair: Pair
beforeEach(() => {
  pair = new Pair()
})
afterEach(() => pair[Symbol.dispose]())

/** Has the real programs make images, which both sides get. */
async function prepare(...commands: string[]): Promise<void> {
  for (const command of commands) {
    const [program, ...args] = command.split(' ')
    const words = args.map((word) => word.replaceAll('_', ' '))
    const plain = program === 'qemu-io' ? words : args
    const { status, stderr } = await runTheirs(pair.theirs, plain, program)
    expect({ command, status, stderr }).toEqual({ command, status: 0, stderr: '' })
  }
  for (const name of readdirSync(pair.theirs)) {
    copyFileSync(`${pair.theirs}/${name}`, `${pair.ours}/${name}`)
  }
}

/** Sound, described alike, and showing what the other side's image shows. */
async function alike(image: string): Promise<void> {
  const checked = await runTheirs(pair.ours, ['check', image])
  expect(checked).toMatchObject({ stderr: '', status: 0 })
  expect(checked.stdout).toContain('No errors were found on the image.')
  expect((await runOurs(pair.ours, ['check', image])).stdout).toBe(checked.stdout)
  expect(await facts(pair.ours, image)).toEqual(await facts(pair.theirs, image))
  const compared = await runTheirs(pair.ours, ['compare', '-U', image, `${pair.theirs}/${image}`])
  expect(compared.stdout).toBe('Images are identical.\n')
}

async function facts(folder: string, image: string): Promise<unknown> {
  const { stdout } = await runTheirs(folder, ['info', '--output=json', image])
  const { 'actual-size': _, ...rest } = JSON.parse(stdout)
  return { ...rest, 'full-backing-filename': undefined }
}

/** What a snapshot of our image shows. */
async function snapshotContent(name: string): Promise<Buffer> {
  const args = ['convert', '-l', `snapshot.name=${name}`, '-O', 'raw', 'a.qcow2', 'shown.raw']
  expect(await runTheirs(pair.ours, args)).toMatchObject({ status: 0 })
  return readFileSync(`${pair.ours}/shown.raw`)
}

const create = 'qemu-img create -q -f qcow2'

qemu.describe('img amend', () => {
  it.each([
    'amend',
    'amend a.qcow2',
    'amend -o help a.qcow2',
    'amend -f qcow2 -o help',
    'amend -f raw -o help',
    'amend -f raw -o size=1 a.qcow2',
    'amend -f nofmt -o help',
    'amend -f nofmt -o size=1 a.qcow2',
    'amend -o help nofile',
    'amend -o help',
    'amend -x',
    'amend -o foo=1 a.qcow2',
    'amend -o cluster_size=4k a.qcow2',
    'amend -o encryption=on a.qcow2',
    'amend -o extended_l2=on a.qcow2',
    'amend -o data_file=x a.qcow2',
    'amend -o data_file_raw=on a.qcow2',
    'amend -o lazy_refcounts=maybe a.qcow2',
    'amend -o lazy_refcounts=on a.qcow2',
    'amend -o lazy_refcounts a.qcow2',
    'amend -o compat=0.10,lazy_refcounts=on a.qcow2',
    'amend -o compat=7 a.qcow2',
    'amend -p -o compat=7 a.qcow2',
    'amend -o refcount_bits=3 a.qcow2',
    'amend -o refcount_bits=128 a.qcow2',
    'amend -o refcount_bits=0 a.qcow2',
    'amend -o refcount_bits=x a.qcow2',
    'amend -o refcount_bits=8,compat=v2 a.qcow2',
    'amend -o backing_file=b a.qcow2',
    'amend -o backing_fmt=raw a.qcow2',
    'amend -o backing_file= a.qcow2',
    'amend -o size=2M a.qcow2',
    'amend -p -o size=4M a.qcow2',
    'amend -q -p -o size=0 a.qcow2',
    'amend -o size=1000 a.qcow2',
    'amend -o size=100000000G a.qcow2',
    'amend -o size=-1 a.qcow2',
    'amend -o encrypt.state=active a.qcow2',
    'amend -o encrypt.keyslot=x a.qcow2',
    'amend --force -o lazy_refcounts=on,compat=v3 a.qcow2',
    'amend -t wrong -o lazy_refcounts=off a.qcow2',
    'amend --image-opts -o lazy_refcounts=on driver=qcow2,file.filename=a.qcow2',
    'amend -f qcow2 --image-opts -o size=1 driver=qcow2,file.filename=a.qcow2',
    'amend -o size=1M a.qcow2 b.qcow2',
    "amend -o '' a.qcow2",
    'amend -o lazy_refcounts=on,help a.qcow2',
    'amend --object x=1 -o help a.qcow2',
    'amend -o compat= a.qcow2',
  ])('%s', async (text) => {
    await prepare(`${create} a.qcow2 1M`, 'qemu-io -c write_64k_128k a.qcow2')
    await pair.same(text)
    await alike('a.qcow2')
  })

  it('refuses what version 2 cannot say', async () => {
    await prepare(
      `${create} -o refcount_bits=8 r.qcow2 1M`,
      `${create} s.qcow2 1M`,
      'qemu-img snapshot -c s1 s.qcow2',
    )
    await pair.same('amend -o compat=0.10 r.qcow2')
    await pair.same('amend -o compat=v2,lazy_refcounts=on,refcount_bits=16 r.qcow2')
    await pair.same('amend -o size=2M,compat=v2 s.qcow2')
    await pair.same('amend -o size=2M s.qcow2')
    await pair.same('amend -o compat=v2 s.qcow2')
    await pair.same('amend -o compat=v2 s.qcow2')
    await pair.same('amend -o compat=v2,refcount_bits=16 r.qcow2')
    await pair.same('amend -o refcount_bits=8 r.qcow2')
    await pair.same('amend -o size=1M r.qcow2')
  })

  it('makes a disk larger by zeroes, whatever a backing file has there', async () => {
    await prepare(
      `${create} b.qcow2 2M`,
      'qemu-io -c write_-P_9_0_2M b.qcow2',
      `${create} -b b.qcow2 -F qcow2 a.qcow2 80k`,
      'qemu-img bitmap --add -g 512 a.qcow2 bits',
      `${create} -b b.qcow2 -F qcow2 -o extended_l2=on e.qcow2 80k`,
      `${create} -o data_file=d,data_file_raw=on r.qcow2 80k`,
    )
    for (const image of ['a.qcow2', 'e.qcow2']) {
      for (const size of ['200k', '1M', '80k', '20M']) {
        await pair.same(`amend -o size=${size} ${image}`)
        await alike(image)
      }
    }
    await pair.same('amend -o size=300k r.qcow2')
    await alike('r.qcow2')
  })

  it('leaves the backing file to rebase', async () => {
    await prepare(`${create} b.qcow2 1M`, `${create} -b b.qcow2 -F qcow2 a.qcow2 1M`)
    await pair.same('amend -o backing_file=b.qcow2 a.qcow2')
    await pair.same('amend -o backing_fmt=qcow2 a.qcow2')
    await pair.same('amend -o backing_file=b.qcow2,backing_fmt=qcow2 a.qcow2')
    await alike('a.qcow2')
  })

  it.each(['', '-b b.qcow2 -F qcow2 '])('downgrades zeroes: create %s', async (backing) => {
    await prepare(
      `${create} b.qcow2 1M`,
      'qemu-io -c write_-P_9_0_1M b.qcow2',
      `${create} ${backing}a.qcow2 1M`,
      'qemu-io -c write_-P_1_0_256k -c write_-z_0_64k -c write_-z_512k_64k a.qcow2',
      'qemu-img snapshot -c one a.qcow2',
      'qemu-img snapshot -c two a.qcow2',
      'qemu-io -c write_-z_64k_64k -c write_-z_-u_576k_64k -c write_-P_3_0_64k a.qcow2',
    )
    // What snapshots show is held against what they showed before: qemu-img 7.2 writes zeroes into
    // clusters that a snapshot has as data, where the active disk had a mark over them.
    const before = [await snapshotContent('one'), await snapshotContent('two')]
    await pair.same('amend -o compat=0.10 a.qcow2')
    await alike('a.qcow2')
    expect(before[0].equals(await snapshotContent('one'))).toBe(true)
    expect(before[1].equals(await snapshotContent('two'))).toBe(true)
    await pair.same('amend -o compat=1.1 a.qcow2')
    await alike('a.qcow2')
  })

  it('changes the width of refcounts to any other', async () => {
    await prepare(
      `${create} -o cluster_size=4k a.qcow2 64M`,
      'qemu-io -c write_-P_1_0_9M a.qcow2',
      'qemu-img snapshot -c one a.qcow2',
      'qemu-img snapshot -c two a.qcow2',
      'qemu-img snapshot -c three a.qcow2',
    )
    const before = await snapshotContent('two')
    for (const bits of [64, 1, 2, 4, 8, 32, 16]) {
      await pair.same(`amend -o refcount_bits=${bits} a.qcow2`)
      await alike('a.qcow2')
    }
    expect(before.equals(await snapshotContent('two'))).toBe(true)
  })

  it(`keeps the disk through random amendments (${seedNote})`, async () => {
    const random = new Random()
    // In large clusters qemu-img takes a minute.
    for (let round = 0; round < 4; round++) {
      const clusterSize = ['512', '4k', '64k'][random.below(3)]
      await prepare(`${create} -o cluster_size=${clusterSize} a.qcow2 8M`)
      for (let step = 0; step < 6; step++) {
        const [offset, length] = random.range(8 * 1024 * 1024, 512, 1024 * 1024)
        const zero = random.chance(0.4) ? '-z' : `-P_${random.below(256)}`
        const io = `write_${zero}_${offset}_${length}`
        for (const folder of [pair.ours, pair.theirs]) {
          const args = ['-c', io.replaceAll('_', ' '), 'a.qcow2']
          expect(await runTheirs(folder, args, 'qemu-io')).toMatchObject({ status: 0 })
        }
        const choices = [
          `refcount_bits=${2 ** random.below(7)}`,
          `compat=${random.pick(['v2', 'v3', '0.10', '1.1'])}`,
          `lazy_refcounts=${random.pick(['on', 'off'])}`,
          `size=${random.pick(['8M', '9M', '20M'])}`,
        ].filter(() => random.chance(0.6))
        if (choices.length === 0) continue
        const status = await pair.same(`amend -o ${choices.join(',')} a.qcow2`)
        // What is refused leaves our image as it was; qemu-img may have done a part of it.
        if (status !== 0) copyFileSync(`${pair.ours}/a.qcow2`, `${pair.theirs}/a.qcow2`)
        await alike('a.qcow2')
      }
    }
  })
})
