/** Conversations about dirty bitmaps with Debian's qemu-storage-daemon and with ours. */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { type Message, QmpTalk, varveDaemon } from '../support/qmp-talk.ts'
import { Random, seedNote } from '../support/random.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img', 'qemu-io')

const size = 4 * MiB

qsd.describe('QMP about dirty bitmaps', () => {
  const folder = scratchFolder('qmp-bitmaps')
  const sides = { theirs: join(folder, 'theirs'), ours: join(folder, 'ours') }
  let theirs: QmpTalk
  let ours: QmpTalk

  beforeAll(async () => {
    for (const cwd of Object.values(sides)) {
      mkdirSync(cwd)
      const qemu = (line: string) => execFileSync('qemu-img', line.split(' '), { cwd })
      for (const name of ['a', 'o', 'ro', 're']) qemu(`create -q -f qcow2 ${name}.qcow2 ${size}`)
      qemu(`create -q -f qcow2 -o compat=0.10 v2.qcow2 ${size}`)
      for (const name of ['old', 'old2']) qemu(`bitmap --add o.qcow2 ${name}`)
      spawnSync('qemu-io', ['-c', 'write 0 64k', '-c', 'abort', 'o.qcow2'], { cwd })
      for (const name of ['x', 'y']) qemu(`bitmap --add ro.qcow2 ${name}`)
      execFileSync('qemu-io', ['-c', 'write 1M 128k', 'ro.qcow2'], { cwd })
    }
    theirs = await QmpTalk.start([qsd.path as string], sides.theirs)
    ours = await QmpTalk.start(varveDaemon, sides.ours)
    await same([['qmp_capabilities'], add('a'), add('o'), add('v2'), add('ro', true)])
    await same([['blockdev-add', { driver: 'null-co', 'node-name': 'n', size: MiB }]])
  })

  afterAll(async () => {
    await theirs?.[Symbol.asyncDispose]()
    await ours?.[Symbol.asyncDispose]()
  })

  async function same(steps: readonly (readonly [string, Message?])[]): Promise<void> {
    for (const [execute, args] of steps) {
      const step = args ? { execute, arguments: args } : { execute }
      const answers = async (side: QmpTalk) => normalised((await side.say(step)).replies)
      expect(await answers(ours), JSON.stringify(step)).toEqual(await answers(theirs))
    }
  }

  const bitmap = (verb: string, node: string, name: string, more: Message = {}) =>
    [`block-dirty-bitmap-${verb}`, { node, name, ...more }] as const
  const merge = (node: string, target: string, bitmaps: unknown) =>
    ['block-dirty-bitmap-merge', { node, target, bitmaps }] as const
  const hash = (node: string, name: string) =>
    ['x-debug-block-dirty-bitmap-sha256', { node, name }] as const
  const list = ['query-named-block-nodes', { flat: true }] as const

  it('adds alike', async () => {
    await same([
      list,
      bitmap('add', 'a', 'b0'),
      bitmap('add', 'a', 'b0'),
      bitmap('add', 'a', ''),
      bitmap('add', 'zz', 'b0'),
      bitmap('add', 'a', 'b1', { granularity: 1000 }),
      bitmap('add', 'a', 'b1', { granularity: 2 ** 31 }),
      bitmap('add', 'a', 'b2', { granularity: 2 ** 32 }),
      bitmap('add', 'a', 'b2', { granularity: 0 }),
      bitmap('add', 'a', 'b2', { granularity: 256 }),
      bitmap('add', 'a', 'p', { persistent: true, disabled: true }),
      bitmap('add', 'a', 'x'.repeat(1024)),
      bitmap('add', 'a', 'x'.repeat(1024), { persistent: true }),
      bitmap('add', 'n', 'p', { persistent: true }),
      bitmap('add', 'n', 'p'),
      bitmap('add', 'v2', 'p', { persistent: true }),
      bitmap('add', 'o', 'old', { persistent: true }),
      list,
    ])
  })

  it('refuses alike', async () => {
    await same([
      bitmap('remove', 'a', 'zz'),
      bitmap('remove', 'zz', 'zz'),
      bitmap('clear', 'zz', 'zz'),
      ...['clear', 'enable', 'disable'].map((verb) => bitmap(verb, 'o', 'old')),
      merge('o', 'old', ['old2']),
      bitmap('add', 'o', 't'),
      merge('o', 't', ['old2']),
      merge('n', 'p', [{ node: 'a', name: 'p' }]),
      merge('n', 'p', [{ node: 'zz', name: 'p' }]),
      merge('n', 'p', ['zz']),
      merge('n', 'zz', ['zz']),
      merge('n', 'p', [1]),
      merge('n', 'p', 1),
      hash('a', 'zz'),
      hash('zz', 'zz'),
      hash('o', 'old'),
      ['block_resize', { 'node-name': 'o', size: MiB }],
      ...['clear', 'enable', 'disable', 'remove'].map((verb) => bitmap(verb, 'ro', 'x')),
      merge('ro', 'x', ['y']),
      bitmap('add', 'ro', 't'),
      merge('ro', 't', ['y']),
      hash('ro', 't'),
      list,
    ])
  })

  it('merges, removes and resizes alike', async () => {
    await same([
      merge('a', 'b0', ['b1', { node: 'a', name: 'p' }, 'b0']),
      bitmap('add', 'a', 'from', { granularity: 512 }),
      merge('a', 'from', [{ node: 'ro', name: 'y' }]),
      merge('a', 'b1', ['from']),
      hash('a', 'from'),
      hash('a', 'b1'),
      ['block_resize', { 'node-name': 'a', size: 2 * size }],
      hash('a', 'from'),
      hash('a', 'b1'),
      ['block_resize', { 'node-name': 'a', size: MiB + 65536 }],
      hash('a', 'from'),
      bitmap('remove', 'o', 'old'),
      bitmap('remove', 'o', 'old2'),
      bitmap('remove', 'a', 'p'),
      list,
    ])
  })

  it(`random changes leave both alike (${seedNote})`, async () => {
    const random = new Random()
    await same([['blockdev-add', { driver: 'null-co', 'node-name': 'r', size }]])
    const names = ['a', 'b', 'c', 'd']
    await same([bitmap('add', 'r', 'seed'), merge('r', 'seed', [{ node: 'ro', name: 'y' }])])
    for (let step = 0; step < 60; step++) {
      const name = random.pick(names)
      const verb = random.pick(['add', 'remove', 'clear', 'enable', 'disable', 'merge', 'merge'])
      const granularity = 512 * 2 ** random.below(14)
      if (verb === 'merge') {
        const sources = [random.pick([...names, 'seed']), random.pick([...names, 'seed'])]
        await same([merge('r', name, sources)])
      } else {
        await same([bitmap(verb, 'r', name, verb === 'add' ? { granularity } : {})])
      }
      await same([hash('r', name)])
    }
    await same([list])
  })

  it('exports alike, and holds what is exported', async () => {
    const addExport = (id: string, node: string, more: Message) =>
      ['block-export-add', { type: 'nbd', id, 'node-name': node, name: id, ...more }] as const
    const unix = (path: string) => ({ type: 'unix', data: { path } })
    await same([
      ['nbd-server-start', { addr: unix('nbd.sock') }],
      bitmap('add', 'a', 'on'),
      bitmap('add', 'a', 'off', { disabled: true }),
      bitmap('add', 'a', 'more', { disabled: true }),
      addExport('e0', 'a', { bitmaps: ['zz'] }),
      addExport('e0', 'a', { bitmaps: ['on'] }),
      addExport('e1', 'a', { bitmaps: ['on'], writable: true }),
      addExport('e2', 'a', { bitmaps: ['off'] }),
      list,
      ...['remove', 'enable', 'disable', 'clear'].map((verb) => bitmap(verb, 'a', 'off')),
      merge('a', 'off', ['more']),
      merge('a', 'more', ['off']),
      addExport('e3', 'a', { bitmaps: ['off'] }),
      addExport('e3', 'a', { bitmaps: ['more', 'more', { node: 'a', name: 'zz' }] }),
      addExport('e3', 'n', { bitmaps: [{ node: 'zz', name: 'x' }] }),
      addExport('e3', 'n', { bitmaps: [{ node: 'a', name: 'more' }] }),
      addExport('e4', 'ro', { bitmaps: ['y'] }),
      ['nbd-server-add', { device: 'a', name: 'e5', bitmap: 'zz' }],
      ['nbd-server-add', { device: 'a', name: 'e5', bitmap: 'off' }],
      list,
      ['block-export-del', { id: 'e2' }],
      list,
      bitmap('remove', 'a', 'off'),
      ['nbd-server-stop'],
      bitmap('remove', 'a', 'on'),
      bitmap('remove', 'a', 'more'),
      list,
    ])
  })

  it('keeps bitmaps alike when a node becomes read-only and writable again', async () => {
    const options = (readOnly: boolean) => ({
      driver: 'qcow2',
      'node-name': 're',
      file: 're-file',
      'read-only': readOnly,
    })
    const reopen = (readOnly: boolean) =>
      ['blockdev-reopen', { options: [options(readOnly)] }] as const
    const flags = () =>
      Object.values(sides).map(
        (cwd) =>
          execFileSync('qemu-img', ['info', '-U', 're.qcow2'], { cwd })
            .toString()
            .split('bitmaps:')[1],
      )
    const file = { driver: 'file', filename: 're.qcow2', 'node-name': 're-file' }
    await same([
      ['blockdev-add', file],
      ['blockdev-add', options(false)],
      bitmap('add', 're', 'kept', { persistent: true, granularity: 512 }),
      bitmap('add', 're', 'lost'),
      merge('re', 'kept', [{ node: 'ro', name: 'y' }]),
      reopen(true),
      list,
    ])
    const [stored, expected] = flags()
    expect(stored).toEqual(expected)
    expect(stored).not.toContain('in-use')
    await same([
      ...['clear', 'remove', 'disable', 'enable'].map((verb) => bitmap(verb, 're', 'kept')),
      bitmap('clear', 're', 'lost'),
      hash('re', 'kept'),
      reopen(false),
      list,
      hash('re', 'kept'),
    ])
    const [used, wanted] = flags()
    expect(used).toEqual(wanted)
    expect(used).toContain('in-use')
    await same([
      bitmap('clear', 're', 'kept'),
      ['blockdev-del', { 'node-name': 're' }],
      ['blockdev-add', options(false)],
      list,
      hash('re', 'kept'),
    ])
  })

  it('leaves the same bitmaps in the images', async () => {
    expect(await ours.quit()).toEqual(await theirs.quit())
    const info = (cwd: string, name: string) =>
      execFileSync('qemu-img', ['info', `${name}.qcow2`], { cwd })
        .toString()
        .replace(/^disk size.*$/m, '')
    for (const name of ['a', 'o', 'ro', 're']) {
      expect(info(sides.ours, name)).toEqual(info(sides.theirs, name))
      execFileSync('qemu-img', ['check', '-q', `${name}.qcow2`], { cwd: sides.ours })
    }
  })
})

function add(name: string, readOnly = false): [string, Message] {
  const file = { driver: 'file', filename: `${name}.qcow2` }
  return ['blockdev-add', { driver: 'qcow2', 'node-name': name, 'read-only': readOnly, file }]
}

/** Of nodes only their bitmaps, and those that have a name of their own. */
function normalised(replies: readonly Message[]): unknown {
  return replies.map((reply) => {
    if (!Array.isArray(reply.return)) return reply
    const nodes = reply.return as Message[]
    return nodes
      .filter((node) => !String(node['node-name']).startsWith('#'))
      .map((node) => [node['node-name'], node['dirty-bitmaps']])
  })
}
