/** External snapshots and transactions: the same conversation with qemu-storage-daemon and ours. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { type Message, QmpTalk, varveDaemon } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img')

qsd.describe('external snapshots and transactions', () => {
  const folder = scratchFolder('qmp-snapshots')
  let theirs: QmpTalk
  let ours: QmpTalk

  beforeAll(async () => {
    for (const name of ['theirs', 'ours']) prepare(join(folder, name))
    theirs = await QmpTalk.start([qsd.path as string], join(folder, 'theirs'))
    ours = await QmpTalk.start(varveDaemon, join(folder, 'ours'))
    await same([command('qmp_capabilities')])
  })

  afterAll(async () => {
    await theirs?.[Symbol.asyncDispose]()
    await ours?.[Symbol.asyncDispose]()
  })

  async function same(steps: readonly Message[]): Promise<void> {
    for (const step of steps) {
      const expected = (await theirs.say(step)).replies
      expect((await ours.say(step)).replies, JSON.stringify(step)).toEqual(expected)
    }
  }

  it('puts an open overlay on a node, or says why not', async () => {
    await same([
      ...['a', 'b', 'c'].map((name) => qcow2(name)),
      command('blockdev-add', {
        driver: 'raw',
        'node-name': 'r',
        file: { driver: 'file', filename: 'r.raw' },
      }),
      snapshot('nope', 'b'),
      snapshot('a', 'nope'),
      snapshot('a', 'r'),
      snapshot('a', 'b'),
      snapshot('a', 'b'),
      snapshot('a', 'c'),
      snapshot('a', 'a'),
      snapshot('b', 'a'),
      snapshot('b', 'c'),
      command('blockdev-del', { 'node-name': 'a' }),
      command('blockdev-del', { 'node-name': 'b' }),
    ])
  })

  it('makes the overlay itself', async () => {
    const sync = (args: Message) => command('blockdev-snapshot-sync', args)
    await same([
      sync({ 'snapshot-file': 's.qcow2' }),
      sync({ device: 'x', 'snapshot-file': 's.qcow2' }),
      sync({ device: 'x', 'node-name': 'r', 'snapshot-file': 's.qcow2' }),
      sync({ 'node-name': 'b', 'snapshot-file': 's.qcow2' }),
      sync({ 'node-name': 'r', 'snapshot-file': 's.qcow2', 'snapshot-node-name': 'c' }),
      sync({ 'node-name': 'r', 'snapshot-file': 's.qcow2', 'snapshot-node-name': 's' }),
      // Nobody used the node, so nobody uses the overlay.
      command('blockdev-del', { 'node-name': 's' }),
    ])
    for (const side of ['theirs', 'ours']) {
      const info = execFileSync('qemu-img', ['info', '-U', join(folder, side, 's.qcow2')])
      expect(String(info)).toMatch(/backing file: r\.raw/)
    }
  })

  it('does all actions of a transaction or none', async () => {
    const grouped = { 'completion-mode': 'grouped' }
    const act = (type: string, data: Message) => ({ type, data })
    await same([
      transaction([]),
      transaction([act('abort', {})]),
      transaction([act('abort', {})], grouped),
      transaction([act('nope', {})]),
      command('transaction', { actions: [{ type: 'abort' }] }),
      transaction([act('blockdev-snapshot', { node: 'c', overlay: 'zz' })]),
      transaction([act('blockdev-snapshot', { node: 'c', overlay: 'zz' })], grouped),
      qcow2('d'),
      qcow2('e'),
      // The first is taken back when the second fails, so it can be done again.
      transaction([
        act('blockdev-snapshot', { node: 'c', overlay: 'd' }),
        act('blockdev-snapshot', { node: 'e', overlay: 'zz' }),
      ]),
      command('blockdev-del', { 'node-name': 'd' }),
      qcow2('d'),
      transaction([
        act('blockdev-snapshot', { node: 'c', overlay: 'd' }),
        act('blockdev-snapshot', { node: 'r', overlay: 'e' }),
      ]),
      command('blockdev-del', { 'node-name': 'c' }),
      command('blockdev-del', { 'node-name': 'r' }),
    ])
  })
})

function prepare(folder: string): void {
  mkdirSync(folder)
  for (const name of ['a', 'b', 'c', 'd', 'e']) {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', join(folder, `${name}.qcow2`), '4M'])
  }
  writeFileSync(join(folder, 'r.raw'), '')
  truncateSync(join(folder, 'r.raw'), 4 * 1024 * 1024)
}

function command(execute: string, args?: Message): Message {
  return args ? { execute, arguments: args } : { execute }
}

function qcow2(name: string): Message {
  const file = { driver: 'file', filename: `${name}.qcow2` }
  return command('blockdev-add', { driver: 'qcow2', 'node-name': name, file, backing: null })
}

function snapshot(node: string, overlay: string): Message {
  return command('blockdev-snapshot', { node, overlay })
}

function transaction(actions: readonly Message[], properties?: Message): Message {
  return command('transaction', properties ? { actions, properties } : { actions })
}
