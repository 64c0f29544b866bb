/**
 * Incremental backups by QMP: what is refused, what bitmaps say afterwards and how transactions take
 * them back, beside Debian's qemu-storage-daemon; and a chain of backups that qemu's tools read.
 */
import { execFile, execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { type Message, QmpTalk, varveDaemon } from '../support/qmp-talk.ts'
import { Random, seedNote } from '../support/random.ts'

const run = promisify(execFile)
const qsd = peer('qemu-storage-daemon', 'qemu-img', 'qemu-io')

const size = 4 * MiB

type Step = readonly [string, Message?]

const node = (name: string, more: Message = {}): Step => [
  'blockdev-add',
  {
    driver: 'qcow2',
    'node-name': name,
    file: { driver: 'file', filename: `${name}.qcow2` },
    ...more,
  },
]

qsd.describe('QMP about incremental backups', () => {
  const folder = scratchFolder('qmp-backup-bitmaps')
  const sides = { theirs: join(folder, 'theirs'), ours: join(folder, 'ours') }
  let theirs: QmpTalk
  let ours: QmpTalk

  beforeAll(async () => {
    for (const cwd of Object.values(sides)) {
      mkdirSync(cwd)
      const qemu = (line: string) => execFileSync('qemu-img', line.split(' '), { cwd })
      for (const name of ['a', 'o', 't']) qemu(`create -q -f qcow2 ${name}.qcow2 ${size}`)
      qemu('bitmap --add o.qcow2 old')
      spawnSync('qemu-io', ['-c', 'write 0 64k', '-c', 'abort', 'o.qcow2'], { cwd })
      for (const name of ['x', 'off']) qemu(`bitmap --add a.qcow2 ${name}`)
      qemu('bitmap --disable a.qcow2 off')
      execFileSync('qemu-io', ['-c', 'write -q 1M 1M', '-c', 'write -q 3M 64k', 'a.qcow2'], { cwd })
    }
    theirs = await QmpTalk.start([qsd.path as string], sides.theirs)
    ours = await QmpTalk.start(varveDaemon, sides.ours)
    await same([['qmp_capabilities'], node('a'), node('o'), node('t')])
  })

  afterAll(async () => {
    await theirs?.[Symbol.asyncDispose]()
    await ours?.[Symbol.asyncDispose]()
  })

  async function same(steps: readonly Step[]): Promise<void> {
    for (const [execute, args] of steps) {
      const step = args ? { execute, arguments: args } : { execute }
      const answers = async (side: QmpTalk) => normalised((await side.say(step)).replies)
      expect(await answers(ours), JSON.stringify(step)).toEqual(await answers(theirs))
    }
  }

  const backup = (args: Message): Step => [
    'blockdev-backup',
    { 'job-id': 'j', device: 'a', target: 't', ...args },
  ]
  const list: Step = ['query-named-block-nodes', { flat: true }]

  it('refuses alike', async () => {
    await same([
      backup({ sync: 'incremental' }),
      backup({ sync: 'bitmap' }),
      backup({ sync: 'incremental', bitmap: 'zz' }),
      backup({ sync: 'incremental', bitmap: 'zz', 'bitmap-mode': 'never' }),
      backup({ sync: 'bitmap', bitmap: 'zz' }),
      backup({ sync: 'bitmap', bitmap: 'zz', 'bitmap-mode': 'never' }),
      backup({ sync: 'bitmap', bitmap: 'x' }),
      backup({ sync: 'incremental', bitmap: 'x', 'bitmap-mode': 'never' }),
      backup({ sync: 'incremental', bitmap: 'x', 'bitmap-mode': 'always' }),
      backup({ sync: 'incremental', 'bitmap-mode': 'on-success' }),
      backup({ sync: 'full', 'bitmap-mode': 'on-success' }),
      backup({ sync: 'full', bitmap: 'x' }),
      backup({ sync: 'full', bitmap: 'x', 'bitmap-mode': 'never' }),
      backup({ sync: 'top', bitmap: 'x', 'bitmap-mode': 'never' }),
      backup({ sync: 'none', bitmap: 'x', 'bitmap-mode': 'on-success' }),
      backup({ sync: 'none', bitmap: 'x', 'bitmap-mode': 'always' }),
      backup({ sync: 'none', bitmap: 'x' }),
      backup({ device: 'o', sync: 'bitmap', bitmap: 'old', 'bitmap-mode': 'never' }),
      list,
    ])
  })

  it('takes back what a transaction has done', async () => {
    const one = (type: string, data: Message) => ({ type: `block-dirty-bitmap-${type}`, data })
    const x = { node: 'a', name: 'x' }
    const off = { node: 'a', name: 'off' }
    const abort = { type: 'abort', data: {} }
    const together = (...actions: Message[]): Step => ['transaction', { actions }]
    await same([
      together(one('add', { node: 'a', name: 'new' }), one('clear', x), abort),
      list,
      together(one('remove', x), one('enable', off), abort),
      list,
      together(
        one('disable', x),
        one('merge', { node: 'a', target: 'off', bitmaps: ['x'] }),
        abort,
      ),
      list,
      together(
        one('add', { node: 'a', name: 'new', disabled: true }),
        one('merge', { node: 'a', target: 'new', bitmaps: ['x'] }),
        one('clear', x),
      ),
      list,
      together(
        one('merge', { node: 'a', target: 'x', bitmaps: ['new'] }),
        one('remove', { node: 'a', name: 'new' }),
      ),
      list,
      ['transaction', { actions: [one('clear', x)], properties: { 'completion-mode': 'grouped' } }],
      together(one('clear', x), one('clear', { node: 'a', name: 'zz' })),
      list,
    ])
  })

  it('has the same bitmaps during a backup and after it', async () => {
    const slow = { speed: 65536, 'auto-dismiss': false, 'auto-finalize': false }
    await same([
      backup({ sync: 'incremental', bitmap: 'x', ...slow }),
      list,
      ['block-dirty-bitmap-clear', { node: 'a', name: 'x' }],
      ['block-dirty-bitmap-remove', { node: 'a', name: 'x' }],
      backup({ 'job-id': 'k', sync: 'incremental', bitmap: 'x' }),
      ['job-cancel', { id: 'j' }],
    ])
    for (const side of [ours, theirs]) await untilStatus(side, 'j', 'concluded')
    await same([['job-dismiss', { id: 'j' }], list])
    const modes = [
      { sync: 'bitmap', bitmap: 'x', 'bitmap-mode': 'never' },
      { sync: 'full', bitmap: 'off', 'bitmap-mode': 'always' },
      { sync: 'top', bitmap: 'off', 'bitmap-mode': 'on-success' },
      { sync: 'incremental', bitmap: 'x' },
    ]
    for (const args of modes) {
      await same([backup({ ...args, 'auto-dismiss': false })])
      for (const side of [ours, theirs]) await untilStatus(side, 'j', 'concluded')
      await same([['query-jobs'], ['job-dismiss', { id: 'j' }], list])
    }
  })
})

qsd.describe('a chain of incremental backups', () => {
  const cwd = scratchFolder('backup-chain')
  const uri = 'nbd+unix:///disk?socket=nbd.sock'

  async function guest(random: Random, count: number): Promise<void> {
    const commands: string[] = []
    for (let step = 0; step < count; step++) {
      const [offset, length] = random.range(size, 512, 200_000)
      const verb = random.pick(['write -P 1', 'write -P 2', 'write -z', 'write -P 3'])
      commands.push('-c', `${verb} -q ${offset} ${length}`)
    }
    await run('qemu-io', ['-f', 'raw', ...commands, uri], { cwd })
  }

  async function daemon(): Promise<QmpTalk> {
    const talk = await QmpTalk.start(varveDaemon, cwd)
    const say = (execute: string, args: Message = {}) => expectDone(talk, execute, args)
    await say('qmp_capabilities')
    await say(...(node('disk') as [string, Message]))
    await say('nbd-server-start', { addr: { type: 'unix', data: { path: 'nbd.sock' } } })
    await say('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'disk', writable: true })
    return talk
  }

  it(`each link is the disk of its moment, also when the daemon has been restarted (${seedNote})`, async () => {
    const random = new Random()
    const qemu = (...words: string[]) => execFileSync('qemu-img', words, { cwd })
    qemu('create', '-q', '-f', 'qcow2', 'disk.qcow2', String(size))
    let talk = await daemon()
    await guest(random, 10)
    let below: string | undefined
    for (let link = 0; link < 5; link++) {
      const name = `t${link}`
      const backing = below === undefined ? [] : ['-b', `${below}.qcow2`, '-F', 'qcow2']
      qemu('create', '-q', '-f', 'qcow2', ...backing, `${name}.qcow2`, String(size))
      await expectDone(talk, ...(node(name) as [string, Message]))
      qemu('convert', '-f', 'raw', '-O', 'raw', uri, `${name}.raw`)
      const data = { 'job-id': 'j', device: 'disk', target: name, 'auto-dismiss': false }
      const begin =
        link === 0
          ? [
              {
                type: 'block-dirty-bitmap-add',
                data: { node: 'disk', name: 'b', persistent: true },
              },
              { type: 'blockdev-backup', data: { ...data, sync: 'full' } },
            ]
          : [{ type: 'blockdev-backup', data: { ...data, sync: 'incremental', bitmap: 'b' } }]
      await expectDone(talk, 'transaction', { actions: begin })
      await guest(random, 4)
      await untilStatus(talk, 'j', 'concluded')
      await expectDone(talk, 'job-dismiss', { id: 'j' })
      await expectDone(talk, 'blockdev-del', { 'node-name': name })
      qemu('compare', '-q', '-f', 'raw', '-F', 'qcow2', `${name}.raw`, `${name}.qcow2`)
      qemu('check', '-q', `${name}.qcow2`)
      below = name
      if (random.chance(0.5)) {
        await talk.quit()
        qemu('check', '-q', 'disk.qcow2')
        expect(qemu('info', 'disk.qcow2').toString()).toMatch(/flags:\n +\[0\]: auto\n +name: b\n/)
        talk = await daemon()
      }
    }
    // An incremental backup is small.
    await talk.quit()
    qemu('check', '-q', 'disk.qcow2')
  })
})

async function expectDone(talk: QmpTalk, execute: string, args: Message): Promise<void> {
  const { replies } = await talk.say({ execute, arguments: args })
  expect(replies, execute).toEqual([{ return: {} }])
}

async function untilStatus(side: QmpTalk, id: string, status: string): Promise<void> {
  for (let left = 500; left > 0; left--) {
    const { replies } = await side.say({ execute: 'query-jobs' })
    const jobs = replies[0].return as Message[]
    if (jobs.some((job) => job.id === id && job.status === status)) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  throw new Error(`job ${id} did not get ${status}`)
}

/** Of nodes only their named bitmaps; of jobs nothing that depends on how fast they are. */
function normalised(replies: readonly Message[]): unknown {
  return replies.map((reply) => {
    if (!Array.isArray(reply.return)) return reply
    return (reply.return as Message[])
      .filter((each) => !String(each['node-name']).startsWith('#'))
      .map((each) => {
        if (!('node-name' in each)) return { ...each }
        const bitmaps = (each['dirty-bitmaps'] ?? []) as Message[]
        return [each['node-name'], bitmaps.filter(({ name }) => name !== undefined)]
      })
  })
}
