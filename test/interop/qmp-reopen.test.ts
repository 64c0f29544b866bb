/** `blockdev-reopen`: the same conversation with qemu-storage-daemon and ours. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { type Message, QmpTalk, varveDaemon } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img')

qsd.describe('blockdev-reopen', () => {
  const folder = scratchFolder('qmp-reopen')
  let theirs: QmpTalk
  let ours: QmpTalk

  beforeAll(async () => {
    for (const name of ['theirs', 'ours']) prepare(join(folder, name))
    theirs = await QmpTalk.start([qsd.path as string], join(folder, 'theirs'))
    ours = await QmpTalk.start(varveDaemon, join(folder, 'ours'))
    await same([
      command('qmp_capabilities'),
      ...['a', 'b'].map((name) => add({ ...storage(`f${name}`, `${name}.qcow2`) })),
      add(storage('fr', 'r.raw')),
      add(qcow2('a')),
      add(qcow2('b', { backing: 'a' })),
      add({ driver: 'raw', 'node-name': 'r', file: 'fr' }),
      command('object-add', { 'qom-type': 'throttle-group', id: 'g' }),
      command('object-add', { 'qom-type': 'throttle-group', id: 'h' }),
      add({ driver: 'throttle', 'node-name': 't', file: 'b', 'throttle-group': 'g' }),
      add({ driver: 'null-co', 'node-name': 'n' }),
      add({
        driver: 'qcow2',
        'node-name': 'i',
        file: { driver: 'file', filename: 'i.qcow2', 'node-name': 'fi' },
      }),
    ])
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

  /** What both say of their nodes, as far as reopening can change it. */
  async function sameNodes(): Promise<void> {
    const states = async (side: QmpTalk) => {
      const { replies } = await side.say(command('query-named-block-nodes', { flat: true }))
      const nodes = (replies[0] as { return: Record<string, unknown>[] }).return
      return nodes.map(({ 'node-name': name, ro, cache, detect_zeroes: zeroes, drv }) =>
        String(name).startsWith('#') ? { drv } : { name, ro, cache, zeroes, drv },
      )
    }
    expect(await states(ours)).toEqual(await states(theirs))
  }

  it('refuses what cannot change', async () => {
    await same([
      reopen({ driver: 'qcow2', 'node-name': 'zz', file: 'fa' }),
      reopen({ driver: 'qcow2', file: 'fa' }),
      reopen({ driver: 'raw', 'node-name': 'a', file: 'fa' }),
      reopen({ ...qcow2('a'), file: 'fb' }),
      reopen({ ...qcow2('a'), file: 'nope' }),
      reopen({ ...qcow2('a'), file: { driver: 'file', filename: 'a.qcow2' } }),
      reopen({ driver: 'qcow2', 'node-name': 'a' }),
      reopen(qcow2('b')),
      reopen(qcow2('b', { backing: 'zz' })),
      reopen(qcow2('b', { backing: 'b' })),
      reopen({
        driver: 'qcow2',
        'node-name': 'i',
        file: { driver: 'file', filename: 'x' },
        backing: 'i',
      }),
      reopen(qcow2('b', { backing: { driver: 'null-co' } })),
      reopen(qcow2('b', { backing: 'a', 'l2-cache-size': 'x' })),
      reopen(qcow2('b', { backing: 'a', 'l2-cache-size': 3 << 20, 'cache-size': 1 << 20 })),
      reopen(storage('fr', 'r2.raw')),
      reopen({ ...storage('fr', 'r.raw'), locking: 'off' }),
      reopen({ ...storage('fr', 'r.raw'), aio: 'native' }),
      reopen({ driver: 'null-co', 'node-name': 'n', size: 5 }),
      reopen({ driver: 'throttle', 'node-name': 't', file: 'b', 'throttle-group': 'zz' }),
    ])
    await sameNodes()
  })

  it('changes what can change', async () => {
    await same([reopen(qcow2('a')), reopen(qcow2('a', { 'read-only': true }))])
    await sameNodes()
    await same([
      reopen(qcow2('a')),
      reopen(qcow2('b', { backing: 'a', 'lazy-refcounts': true, 'l2-cache-size': 1 << 20 })),
      reopen(qcow2('b', { backing: 'a', discard: 'unmap', 'detect-zeroes': 'unmap' })),
    ])
    await sameNodes()
    await same([
      reopen(qcow2('b', { backing: 'a', 'detect-zeroes': 'unmap' })),
      reopen(qcow2('b', { backing: 'a', cache: { 'no-flush': true } })),
      reopen({ driver: 'throttle', 'node-name': 't', file: 'b', 'throttle-group': 'h' }),
      command('object-del', { id: 'g' }),
      command('object-del', { id: 'h' }),
      reopen({ driver: 'null-co', 'node-name': 'n', 'read-only': true }),
      reopen({ driver: 'raw', 'node-name': 'r', file: 'fr', offset: 512 }),
      reopen({ driver: 'raw', 'node-name': 'r', file: 'fr', size: 1 << 20 }),
    ])
    await sameNodes()
  })

  it('changes a child that was opened along with its parent', async () => {
    const file = { driver: 'file', filename: 'i.qcow2' }
    await same([
      reopen({ driver: 'qcow2', 'node-name': 'i', file: { ...file, filename: 'x' } }),
      reopen({ driver: 'qcow2', 'node-name': 'i', file, 'read-only': true }),
    ])
    await sameNodes()
    await same([reopen({ driver: 'qcow2', 'node-name': 'i', file })])
    await sameNodes()
  })

  it('changes children along with their parents, and says in the same order what it cannot', async () => {
    const storage = { driver: 'file', filename: 'w.raw', aio: 'threads', 'drop-cache': true }
    const whole = (file: object | string, more: object = {}) =>
      reopen({ driver: 'raw', 'node-name': 'w', file, ...more })
    const { aio: _, ...noAio } = storage
    const unmap = { 'detect-zeroes': 'unmap' }
    await same([
      add({ driver: 'raw', 'node-name': 'w', file: storage }),
      whole(noAio),
      whole({ driver: 'file', filename: 'w.raw', aio: 'threads' }),
      whole({ ...storage, 'drop-cache': false }),
      whole({ ...storage, filename: 'x.raw', locking: 'off' }),
      whole({ driver: 'null-co' }),
      whole({ ...storage, 'node-name': 'other' }),
      whole({ ...storage, 'force-share': true }),
      whole('nope'),
      whole(storage, { ...unmap, 'force-share': true }),
    ])
    await sameNodes()
    await same([
      whole({ ...storage, ...unmap, discard: 'ignore' }),
      whole({ ...storage, ...unmap }),
    ])
    await sameNodes()
    await same([whole(storage, { 'read-only': true })])
    await sameNodes()
    await same([whole(storage)])
    await sameNodes()
  })

  it('keeps what was given once', async () => {
    const more = { 'prealloc-size': 65536 }
    const filter = { driver: 'preallocate', 'node-name': 'p', file: 'n' }
    const shared = { driver: 'raw', 'node-name': 's', file: 'fr', 'read-only': true }
    const debug = { driver: 'blkdebug', 'node-name': 'd', image: 'n' }
    await same([
      add({ ...filter, ...more }),
      reopen(filter),
      reopen({ ...filter, 'prealloc-align': 65536 }),
      reopen({ ...filter, ...more, 'prealloc-align': 1000 }),
      reopen({ ...filter, 'prealloc-size': 512, 'prealloc-align': 65536 }),
      reopen({ ...filter, ...more, 'prealloc-align': 65536, file: 'r' }),
      add({ ...shared, 'force-share': true }),
      reopen(shared),
      add(debug),
      reopen(debug),
      reopen({ ...debug, align: 512 }),
      reopen({ ...debug, image: 'r' }),
      reopen({ driver: 'raw', 'node-name': 'r', file: 'fr', size: 512 }),
      reopen({ driver: 'raw', 'node-name': 'r', file: 'fr' }),
      reopen({ ...qcow2('a'), 'l2-cache-entry-size': 1000 }),
    ])
  })

  it('says who writes to what is to be read-only', async () => {
    await same([
      reopen({ ...storage('fa', 'a.qcow2'), 'read-only': true }),
      reopen({ ...storage('fa', 'a.qcow2'), 'read-only': true, 'auto-read-only': true }),
    ])
    await sameNodes()
  })

  it('changes how the page cache is used, of children that were opened along too', async () => {
    const file = { driver: 'file', filename: 'i.qcow2' }
    const whole = { driver: 'qcow2', 'node-name': 'i' }
    const direct = { direct: true }
    await same([reopen({ ...whole, file, cache: { ...direct, 'no-flush': true } })])
    await sameNodes()
    await same([reopen({ ...whole, file: { ...file, cache: { direct: false } }, cache: direct })])
    await sameNodes()
    await same([
      reopen({ ...whole, file }),
      reopen({ driver: 'raw', 'node-name': 'r', file: 'fr', cache: direct }),
    ])
    await sameNodes()
    await same([reopen({ ...storage('fr', 'r.raw'), cache: direct })])
    await sameNodes()
    await same([reopen(storage('fr', 'r.raw'))])
    await sameNodes()
  })

  it('moves children', async () => {
    await same([
      reopen(qcow2('b', { backing: null })),
      reopen(qcow2('b')),
      reopen(qcow2('b', { backing: 'r' })),
      reopen(qcow2('a', { backing: 'b' })),
      // In a cycle nothing changes, of neither node.
      reopen(qcow2('a', { backing: 'b', 'read-only': true }), qcow2('b', { backing: 'a' })),
      reopen({ driver: 'throttle', 'node-name': 't', file: 'r', 'throttle-group': 'h' }),
    ])
    await sameNodes()
  })
})

function prepare(folder: string): void {
  mkdirSync(folder)
  for (const name of ['a', 'b', 'i']) {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', join(folder, `${name}.qcow2`), '4M'])
  }
  for (const name of ['r.raw', 'w.raw']) {
    writeFileSync(join(folder, name), '')
    truncateSync(join(folder, name), 4 * 1024 * 1024)
  }
}

function command(execute: string, args?: Message): Message {
  return args ? { execute, arguments: args } : { execute }
}

function add(options: Message): Message {
  return command('blockdev-add', options)
}

function reopen(...options: readonly Message[]): Message {
  return command('blockdev-reopen', { options })
}

function storage(name: string, filename: string): Message {
  return { driver: 'file', 'node-name': name, filename }
}

function qcow2(name: string, more: Message = {}): Message {
  return { driver: 'qcow2', 'node-name': name, file: `f${name}`, ...more }
}
