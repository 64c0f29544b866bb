/** quorum, and write thresholds, beside QEMU's: the same data, answers and events. */
import { randomFillSync } from 'node:crypto'
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { DaemonPair, storageDaemon } from '../support/daemon-pair.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random, seedNote } from '../support/random.ts'

const folder = scratchFolder('quorum')
const seed = join(folder, 'seed')
mkdirSync(seed)
const original = randomFillSync(Buffer.alloc(256 * 1024))
for (const name of ['a', 'b', 'c']) {
  writeFileSync(join(seed, name), original)
  truncateSync(join(seed, name), 256 * 1024)
}
let pairs = 0

async function start(): Promise<DaemonPair> {
  const pair = await DaemonPair.start(join(folder, `pair${pairs++}`), seed)
  for (const name of ['a', 'b', 'c']) {
    await pair.same('blockdev-add', { driver: 'file', filename: name, 'node-name': name })
  }
  return pair
}

function damage(pair: DaemonPair, name: string, at: number): void {
  for (const side of Object.values(pair.folders)) {
    const bytes = readFileSync(join(side, name))
    bytes[at] ^= 0xff
    writeFileSync(join(side, name), bytes)
  }
}

const quorum = { driver: 'quorum', 'node-name': 'q', children: ['a', 'b', 'c'] }

storageDaemon.describe(`quorum (${seedNote})`, () => {
  it.each([
    [{ 'vote-threshold': 2 }],
    [{ 'vote-threshold': 2, 'rewrite-corrupted': true }],
    [{ 'vote-threshold': 3 }],
    [{ 'vote-threshold': 1, 'read-pattern': 'fifo' }],
  ])('votes: %j', async (options) => {
    const random = new Random()
    await using pair = await start()
    await pair.same('blockdev-add', { ...quorum, ...options })
    await pair.export('q')
    await pair.guest('q', ['write -P 1 0 4k', 'write -z 8k 4k', 'flush', 'read 0 64k'])
    for (const name of ['a', 'b', 'c']) damage(pair, name, random.below(256 * 1024))
    damage(pair, 'b', 100_000)
    for (let round = 0; round < 6; round++) {
      await pair.guest('q', [`read -v ${random.range(256 * 1024, 512, 60_000).join(' ')}`])
    }
    await pair.guest('q', ['read 100000 512'])
    await pair.sameEvents()
    await pair.same('blockdev-del', { 'node-name': 'q' })
    await pair.same('block-export-del', { id: 'q-export' })
    for (const name of ['a', 'b', 'c']) {
      const [ours, theirs] = [pair.folders.ours, pair.folders.theirs]
      expect(readFileSync(join(ours, name)).equals(readFileSync(join(theirs, name)))).toBe(true)
    }
  })

  it.each([
    ['read', 1, ['read 0 512', 'read 64k 512']],
    ['write', 1, ['write 0 512', 'read 0 512']],
    ['write', 2, ['write 0 512']],
    ['flush', 1, ['write 0 512', 'flush']],
    ['flush', 2, ['write 0 512', 'flush']],
  ])('with %ss of %s children failing', async (iotype, failing, lines) => {
    await using pair = await start()
    const bad = (image: string, errno: number) => ({
      driver: 'blkdebug',
      'node-name': `bad-${image}`,
      image,
      'inject-error': [{ event: 'none', iotype, errno }],
    })
    await pair.same('blockdev-add', bad('a', 28))
    await pair.same('blockdev-add', bad('b', 28))
    const children = failing === 1 ? ['bad-a', 'b', 'c'] : ['bad-a', 'bad-b', 'c']
    await pair.same('blockdev-add', { ...quorum, children, 'vote-threshold': 2 })
    await pair.export('q')
    await pair.guest('q', lines)
    const events = await pair.sameEvents()
    expect(events.some(({ event }) => event === 'QUORUM_REPORT_BAD')).toBe(true)
  })

  it('takes options, and children while it is used, alike', async () => {
    await using pair = await start()
    const add = (options: object) => pair.same('blockdev-add', { ...quorum, ...options })
    await add({})
    await add({ 'vote-threshold': 0 })
    await add({ 'vote-threshold': 4 })
    await add({ children: [], 'vote-threshold': 1 })
    await add({ children: ['a'], 'vote-threshold': 1, blkverify: true })
    await add({ 'vote-threshold': 2, 'read-pattern': 'x' })
    await add({
      children: ['a', 'b'],
      'vote-threshold': 2,
      blkverify: true,
      'rewrite-corrupted': true,
    })
    await add({ children: ['a', 'nobody'], 'vote-threshold': 1 })
    await add({ children: ['a', 'b'], 'vote-threshold': 2 })
    const change = (args: object) =>
      pair.same('x-blockdev-change', args as Readonly<Record<string, unknown>>)
    await change({ parent: 'q' })
    await change({ parent: 'x', node: 'c' })
    await change({ parent: 'q', node: 'x' })
    await change({ parent: 'q', node: 'c', child: 'children.0' })
    await change({ parent: 'q', child: 'children.0' })
    await change({ parent: 'q', child: 'children.5' })
    await change({ parent: 'q', node: 'c' })
    await change({ parent: 'q', node: 'c' })
    await change({ parent: 'a', node: 'c' })
    await pair.same('blockdev-del', { 'node-name': 'c' })
    await pair.export('q')
    await pair.guest('q', ['write -P 5 0 64k', 'read -P 5 0 64k'])
    await change({ parent: 'q', child: 'children.0' })
    await change({ parent: 'q', child: 'children.1' })
    await pair.guest('q', ['write -P 6 0 64k', 'read -P 6 0 64k'])
    await pair.same('blockdev-del', { 'node-name': 'a' })
    await pair.sameEvents()
  })
})

storageDaemon.it('a write threshold is told of once', async () => {
  await using pair = await start()
  const set = (threshold: unknown, name = 'a') =>
    pair.same('block-set-write-threshold', { 'node-name': name, 'write-threshold': threshold })
  await set(5, 'nobody')
  await set(-1)
  await set(1.5)
  await set('x')
  await set(64 * 1024)
  const shown = (answer: Readonly<Record<string, unknown>>) =>
    (answer.return as { 'node-name': string; write_threshold: number }[]).map((node) => [
      node['node-name'],
      node.write_threshold,
    ])
  await pair.same('query-named-block-nodes', { flat: true }, shown)
  await pair.export('a')
  await pair.guest('a', ['write 0 64k', 'read 128k 1k', 'discard 128k 4k'])
  expect(await pair.sameEvents()).toEqual([])
  await pair.guest('a', ['write 60k 8k', 'write 128k 1k'])
  expect(await pair.sameEvents()).toHaveLength(1)
  await pair.same('query-named-block-nodes', { flat: true }, shown)
  await set(1)
  await set(0)
  await pair.guest('a', ['write -z 60k 8k'])
  await set(100)
  await pair.guest('a', ['write -z 60k 8k'])
  expect(await pair.sameEvents()).toHaveLength(1)
})

storageDaemon.it('the highest offset written, and what is nested, is told alike', async () => {
  await using pair = await start()
  await pair.same('blockdev-add', { driver: 'raw', 'node-name': 'disk', file: 'a' })
  await pair.export('disk')
  await pair.guest('disk', ['write 0 4k', 'write -z 20k 4k', 'read 0 64k', 'write 4k 1k'])
  const shown = (answer: Readonly<Record<string, unknown>>) =>
    JSON.parse(JSON.stringify(answer.return), (key, value) =>
      key === 'stats' ? value.wr_highest_offset : value,
    )
  await pair.same('query-blockstats', { 'query-nodes': true }, shown)
  await pair.same('query-blockstats', {}, shown)
})
