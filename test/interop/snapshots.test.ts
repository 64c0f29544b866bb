/** Internal snapshots, done by `varve img` and by the real qemu-img on twin images. */
import { copyFileSync, existsSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { plainIo, plainWriteIo } from '../../src/block/layer.ts'
import { openDisk } from '../../src/disk.ts'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'
import { realIo, varveIo } from '../support/io-tools.ts'
import { startVarve } from '../support/programs.ts'
import { QemuMonitor } from '../support/qemu-monitor.ts'
import { Random, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')
const served = peer('qemu-nbd', 'qemu-img', 'qemu-io')
const machine = peer('qemu-system-x86_64', 'qemu-img')

let pair: Pair
beforeEach(() => {
  pair = new Pair()
})
afterEach(() => pair[Symbol.dispose]())

/** Dates differ by a second now and then. */
const timeless = (text: string) => text.replaceAll(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, 'DATE')

async function expectSame(words: readonly string[]): Promise<void> {
  const ours = await runOurs(pair.ours, words)
  const theirs = await runTheirs(pair.theirs, words)
  expect({ ...ours, stdout: timeless(ours.stdout) }, words.join(' ')).toEqual({
    ...theirs,
    stdout: timeless(theirs.stdout),
  })
}

qemu.describe('img snapshot', () => {
  it('prints, refuses and ends as qemu-img does', async () => {
    for (const folder of [pair.ours, pair.theirs]) {
      await qemu.run('create', '-q', '-f', 'qcow2', `${folder}/a.qcow2`, '4M')
      await qemu.run('create', '-q', '-f', 'raw', `${folder}/a.raw`, '1M')
      await qemu.run('create', '-q', '-f', 'qcow2', `${folder}/marked.qcow2`, '1M')
      await qemu.run('bitmap', '--add', `${folder}/marked.qcow2`, 'b0')
      const options = ['-o', 'refcount_bits=1', `${folder}/narrow.qcow2`, '1M']
      await qemu.run('create', '-q', '-f', 'qcow2', ...options)
      await runTheirs(folder, ['-c', 'write 0 64k', 'narrow.qcow2'], 'qemu-io')
    }
    const lines = [
      'a.qcow2',
      '-l a.qcow2',
      '-c one a.qcow2',
      '-c one a.qcow2',
      '-c 2 a.qcow2',
      `-c ${'x'.repeat(300)} a.qcow2`,
      '-l a.qcow2',
      'a.qcow2',
      '-d 1 a.qcow2',
      '-d 2 a.qcow2',
      '-d one a.qcow2',
      '-a nope a.qcow2',
      '-a 2 a.qcow2',
      '-a 4 a.qcow2',
      '-d nope a.qcow2',
      '-c x -d y a.qcow2',
      '-l -l a.qcow2',
      '-l',
      '-l a.qcow2 b',
      '-l nosuch',
      '-c',
      '-x',
      '-q -l a.qcow2',
      '-U -l a.qcow2',
      '-U -c zz a.qcow2',
      'nosuch',
      '-U a.qcow2',
      '--image-opts -l driver=qcow2,file.filename=a.qcow2',
      '-f qcow2 -l a.qcow2',
      '-l a.raw',
      '-c x a.raw',
      '-d x a.raw',
      '-c one narrow.qcow2',
      '-c one marked.qcow2',
      '-a one marked.qcow2',
      '-d one marked.qcow2',
    ]
    for (const line of lines) await expectSame(['snapshot', ...line.split(' ')])
    await expectSame(['snapshot', '-c', '', 'a.qcow2'])
    await expectSame(['snapshot', '-l', 'a.qcow2'])
    await expectSame(['info', 'a.raw'])
  })

  it('is converted from, by name, by id or both', async () => {
    for (const folder of [pair.ours, pair.theirs]) {
      await qemu.run('create', '-q', '-f', 'qcow2', `${folder}/a.qcow2`, '1M')
      const write = (pattern: number) => ['-c', `write -P ${pattern} 0 512k`, 'a.qcow2']
      await runTheirs(folder, write(1), 'qemu-io')
      await runTheirs(folder, ['snapshot', '-c', 'one', 'a.qcow2'])
      await runTheirs(folder, ['resize', '-q', 'a.qcow2', '2M'])
      await runTheirs(folder, write(2), 'qemu-io')
      await runTheirs(folder, ['snapshot', '-c', 'two', 'a.qcow2'])
      await runTheirs(folder, ['create', '-q', '-f', 'raw', 'a.raw', '1M'])
    }
    for (const [param, works] of [
      ['one', true],
      ['2', true],
      ['snapshot.name=one', true],
      ['snapshot.id=2', true],
      ['snapshot.id=2,snapshot.name=two', true],
      ['snapshot.id=1,snapshot.name=two', false],
      ['snapshot.id=9', false],
      ['snapshot.foo=9', false],
      ['snapshot.', false],
      ['nope', false],
      ['', false],
    ] as const) {
      await expectSame(['convert', '-O', 'raw', '-l', param, 'a.qcow2', 'o.raw'])
      if (!works) continue
      const ours = readFileSync(`${pair.ours}/o.raw`)
      expect(ours.equals(readFileSync(`${pair.theirs}/o.raw`)), param).toBe(true)
    }
    await expectSame(['convert', '-l', 'one', 'a.qcow2', 'a.qcow2', 'o.raw'])
    await expectSame(['convert', '-f', 'raw', '-l', 'one', 'a.raw', 'o.raw'])
  })
})

qemu.describe('io -b', () => {
  it('reads and writes the state of a machine as qemu-io does', async () => {
    const commands = [
      'write -b -P 5 0 100k',
      'read -b -P 5 0 100k',
      'read -b 200k 64k',
      'read -b -v 0 16',
      'write -b -P 5 1000 100',
      'read -b -P 5 1000 512',
      'write -b -z 0 64k',
      'write -b -f 0 512',
      'write -b -P 6 64k 512',
      'read -b -P 6 64k 512',
      'read -b -P 5 64k 1k',
      'aio_write -b 0 1k',
    ]
    for (const format of ['qcow2', 'raw']) {
      const outcomes = []
      for (const [folder, run] of [
        [pair.ours, varveIo],
        [pair.theirs, realIo],
      ] as const) {
        const path = `${folder}/a.${format}`
        await qemu.run('create', '-q', '-f', format, path, '1M')
        const words = commands.flatMap((command) => ['-c', command])
        outcomes.push(await run(['-f', format, ...words, path]))
      }
      expect(outcomes[0]).toEqual(outcomes[1])
    }
    await qemu.run('check', '-q', `${pair.ours}/a.qcow2`)
  })
})

served.describe('nbd -l', () => {
  it('serves a snapshot, read-only, or says what qemu-nbd says', async () => {
    const image = `${pair.ours}/a.qcow2`
    await qemu.run('create', '-q', '-f', 'qcow2', image, '1M')
    await runTheirs(pair.ours, ['-c', 'write -P 1 0 64k', 'a.qcow2'], 'qemu-io')
    await qemu.run('snapshot', '-c', 'one', image)
    await runTheirs(pair.ours, ['-c', 'write -P 2 0 64k', 'a.qcow2'], 'qemu-io')
    // qemu-nbd leaves its own where it fails.
    const refusals = `${pair.ours}/refused`
    for (const param of ['nope', 'snapshot.name=nope', 'snapshot.foo=nope', 'snapshot.']) {
      const words = ['-l', param, '-f', 'qcow2', '-k', refusals, image]
      const theirs = await runTheirs(pair.ours, words, 'qemu-nbd')
      const { status, stderr } = await startVarve(['nbd', ...words]).ended
      const ours = { status, stderr: stderr.replaceAll('varve-nbd', 'qemu-nbd') }
      expect(ours, param).toEqual({ status: theirs.status, stderr: theirs.stderr })
    }
    const socket = `${pair.ours}/s`
    const server = startVarve(['nbd', '-l', 'one', '-f', 'qcow2', '-k', socket, image])
    while (!existsSync(socket) && server.child.exitCode === null) await sleep(10)
    const read = ['-r', '-f', 'raw', '-c', 'read -P 1 0 64k', `nbd:unix:${socket}`]
    expect(await realIo(read)).toMatchObject({ status: 0, stderr: '' })
    expect(await server.ended).toMatchObject({ status: 0 })
  })
})

const variants = ['', 'cluster_size=512', 'compat=0.10,cluster_size=4k', 'refcount_bits=64']
const rounds = process.env.VARVE_LONG === '1' ? 200 : 14
const unit = 65536

qemu.describe('twin images, each worked on by either program', () => {
  for (const options of variants) {
    it(`show the same and are sound after every step: ${options} (${seedNote})`, async () => {
      const random = new Random()
      const size = 16 * unit
      const o = options === '' ? [] : ['-o', options]
      for (const folder of [pair.ours, pair.theirs]) {
        await qemu.run('create', '-q', '-f', 'qcow2', ...o, `${folder}/a.qcow2`, String(size))
      }
      const twins = new Twins(options.includes('0.10'))
      for (let step = 0; step < rounds; step++) {
        const note = `step ${step}: ${await twins.step(random)}`
        for (const folder of [pair.ours, pair.theirs]) {
          const check = await qemu.try('check', `${folder}/a.qcow2`)
          expect(check, note).toMatchObject({ status: 0 })
        }
        const files = [`${pair.ours}/a.qcow2`, `${pair.theirs}/a.qcow2`]
        const compared = await qemu.try('compare', ...files)
        expect(compared.stdout, note).toBe('Images are identical.\n')
      }
      await twins.compareSnapshots()
    })
  }
})

class Twins {
  readonly #fixedSize: boolean
  #size = 16 * unit
  readonly #snapshots = new Map<string, number>()
  #next = 0

  constructor(fixedSize: boolean) {
    this.#fixedSize = fixedSize
  }

  /** Does the same to both images; says what. */
  async step(random: Random): Promise<string> {
    const choice = random.next()
    const [offset, length] = random.range(this.#size, 512, 4 * unit)
    const names = [...this.#snapshots.keys()]
    if (choice < 0.4 || (choice >= 0.7 && names.length === 0)) {
      const flags = random.pick(['-P 17', '-P 99', '-z', '-z -u'])
      return await this.#io(random, `write ${flags} ${offset} ${length}`)
    }
    if (choice < 0.5 && !this.#fixedSize) {
      const size = unit * (4 + random.below(40))
      this.#size = size
      return await this.#img(random, ['resize', '-q', '--shrink', 'a.qcow2', String(size)])
    }
    if (choice < 0.7) {
      const name = `s${this.#next++}`
      this.#snapshots.set(name, this.#size)
      return await this.#img(random, ['snapshot', '-c', name, 'a.qcow2'])
    }
    const name = random.pick(names)
    if (choice < 0.85) {
      this.#size = this.#snapshots.get(name)!
      return await this.#img(random, ['snapshot', '-a', name, 'a.qcow2'])
    }
    this.#snapshots.delete(name)
    return await this.#img(random, ['snapshot', '-d', name, 'a.qcow2'])
  }

  /** What both programs see in each snapshot of each image. */
  async compareSnapshots(): Promise<void> {
    for (const name of this.#snapshots.keys()) {
      const contents: Buffer[] = []
      for (const folder of [pair.ours, pair.theirs]) {
        for (const run of [runOurs, runTheirs]) {
          // The one that does not cut anything off.
          await runTheirs(folder, ['resize', '-q', '--shrink', 'a.qcow2', String(44 * unit)])
          const words = ['convert', '-O', 'raw', '-l', name, 'a.qcow2', 'o.raw']
          expect(await run(folder, words)).toMatchObject({ status: 0 })
          contents.push(readFileSync(`${folder}/o.raw`))
        }
      }
      for (const content of contents) expect(content.equals(contents[0]), name).toBe(true)
    }
  }

  async #io(random: Random, command: string): Promise<string> {
    const swap = random.chance(0.3)
    const [one, other] = swap ? [pair.theirs, pair.ours] : [pair.ours, pair.theirs]
    const ours = await varveIo(['-c', command, `${one}/a.qcow2`])
    expect(ours, command).toMatchObject({ status: 0, stderr: '' })
    await runTheirs(other, ['-c', command, 'a.qcow2'], 'qemu-io')
    return command
  }

  async #img(random: Random, words: readonly string[]): Promise<string> {
    const swap = random.chance(0.3)
    const [one, other] = swap ? [pair.theirs, pair.ours] : [pair.ours, pair.theirs]
    const note = words.join(' ')
    const ours = await runOurs(one, words)
    expect(ours, note).toMatchObject({ status: 0, stderr: '' })
    expect(await runTheirs(other, words), note).toMatchObject({ status: 0, stderr: '' })
    return note
  }
}

machine.describe('the state of a real machine', () => {
  it('is read from a snapshot of savevm, and a copy of ours is loaded by loadvm', async () => {
    const [theirs, ours] = [`${pair.theirs}/vm.qcow2`, `${pair.ours}/vm.qcow2`]
    for (const path of [theirs, ours]) {
      await runTheirs(pair.theirs, ['create', '-q', '-f', 'qcow2', path, '8M'])
    }
    await using saving = await QemuMonitor.start(theirs)
    expect(await saving.command('savevm one')).toBe('')
    await saving.quit()

    const options = { format: 'qcow2', readOnly: true }
    await using disk = await openDisk(theirs, options)
    const [facts] = (await disk.node.layer.image?.snapshots?.()) ?? []
    expect(facts.vmStateSize).toBeGreaterThan(100_000)
    await disk.node.layer.snapshots!.open('one', plainIo)
    const state = Buffer.alloc(facts.vmStateSize)
    await disk.node.layer.vmState!.read(0, state, plainIo)
    expect(state.toString('latin1', 0, 4)).toBe('QEVM')

    // What qemu-img makes of it, as the active state.
    copyFileSync(theirs, `${pair.theirs}/applied.qcow2`)
    await runTheirs(pair.theirs, ['snapshot', '-a', 'one', 'applied.qcow2'])
    await using applied = await openDisk(`${pair.theirs}/applied.qcow2`, options)
    const active = Buffer.alloc(state.length)
    await applied.node.layer.vmState!.read(0, active, plainIo)
    expect(active.equals(state)).toBe(true)

    {
      await using copy = await openDisk(ours, { format: 'qcow2' })
      const { vmState, snapshots } = copy.node.layer
      for (let at = 0; at < state.length; at += 1_000_000) {
        await vmState!.write(at, state.subarray(at, at + 1_000_000), plainWriteIo)
      }
      const { vmStateSize, vmClock, icount } = facts
      const taken = { name: 'one', vmStateSize, vmClock, icount }
      await snapshots!.create(taken, plainIo)
    }
    expect((await machine.try('--version')).status).toBe(0)
    expect(await runTheirs(pair.ours, ['check', '-q', 'vm.qcow2'])).toMatchObject({ status: 0 })
    await using loading = await QemuMonitor.start(ours)
    expect(await loading.command('loadvm one')).toBe('')
    expect(await loading.command('info snapshots')).toMatch(/ one /)
    await loading.quit()
  })
})
