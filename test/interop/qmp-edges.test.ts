/** What random conversations have found: small cases of it, the same at Debian's daemon and ours. */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { command, QmpPair } from '../support/qmp-pair.ts'
import type { Message } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img')

const nodes = command('query-named-block-nodes', { flat: true })
const add = (name: string, options: object) =>
  command('blockdev-add', { 'node-name': name, ...options })
const remove = (name: string) => command('blockdev-del', { 'node-name': name })
const removed = (...names: string[]) => names.map(remove)
const file = (filename: string, more: object = {}) => ({ driver: 'file', filename, ...more })
const qcow2 = (name: string, more: object = {}) => ({
  driver: 'qcow2',
  file: file(`${name}.qcow2`),
  ...more,
})

qsd.describe('the edges of commands', () => {
  let pair: QmpPair

  beforeAll(async () => {
    pair = await QmpPair.start(scratchFolder('qmp-edges'), qsd.path as string, (folder) => {
      writeFileSync(join(folder, 'raw'), Buffer.alloc(MiB))
      const create = ['create', '-q', '-f', 'qcow2']
      execFileSync('qemu-img', [...create, join(folder, 'base.qcow2'), '1M'])
      execFileSync('qemu-img', [...create, join(folder, 'alone.qcow2'), '1M'])
      const onto = ['-b', 'base.qcow2', '-F', 'qcow2']
      execFileSync('qemu-img', [...create, ...onto, join(folder, 'top.qcow2')])
    })
  })

  afterAll(async () => {
    await pair?.[Symbol.asyncDispose]()
  })

  const same = (steps: readonly Message[]) => pair.same(steps)

  it('nodes are listed by age: a node behind its file, before its other children', async () => {
    await same([
      add('top', qcow2('top')),
      add('debug', { driver: 'blkdebug', image: { driver: 'null-co' } }),
      add('many', { driver: 'quorum', children: [qcow2('alone')], 'vote-threshold': 1 }),
      nodes,
      ...removed('top', 'debug', 'many'),
    ])
  })

  it('facts of an image are those of what filters and raw stand on', async () => {
    await same([
      add('top', qcow2('top')),
      add('over', { driver: 'raw', file: 'top' }),
      add('old', { driver: 'snapshot-access', file: 'top' }),
      add('read', { driver: 'copy-on-read', file: 'top' }),
      add('ro', { driver: 'raw', file: file('raw', { 'read-only': true }) }),
      nodes,
      ...removed('over', 'old', 'read', 'ro', 'top'),
    ])
  })

  it('files are shared by force when nobody writes to them', async () => {
    await same([
      add('a', qcow2('alone', { 'force-share': true })),
      add('a', { driver: 'raw', file: file('raw', { 'force-share': true }) }),
      add('a', { driver: 'qcow2', file: file('raw'), 'force-share': true }),
      add('a', { driver: 'qcow2', file: file('no-such'), 'force-share': true }),
      add('a', qcow2('alone', { 'force-share': true, 'read-only': true })),
      remove('a'),
    ])
  })

  it('windows and backing files that do not fit are refused', async () => {
    await same([
      add('a', { driver: 'raw', file: file('raw'), size: 2 * MiB }),
      add('a', { driver: 'raw', file: file('raw'), offset: MiB, size: 512 }),
      add('alone', qcow2('alone')),
      add('a', qcow2('top', { backing: { driver: 'copy-on-read', file: 'alone' } })),
      remove('alone'),
    ])
  })

  it('nodes that others own, or use, stay', async () => {
    await same([
      add('a', { driver: 'qcow2', file: file('alone.qcow2', { 'node-name': 'f' }) }),
      remove('f'),
      add('r', { driver: 'raw', file: 'a' }),
      remove('a'),
      ...removed('r', 'a'),
    ])
  })

  it('overlays have to be new to their users', async () => {
    const snapshot = (node: string, overlay: string) =>
      command('blockdev-snapshot', { node, overlay })
    await same([
      add('f', file('raw')),
      add('r', { driver: 'raw', file: 'f' }),
      snapshot('r', 'f'),
      add('debug', {
        driver: 'blkdebug',
        image: { driver: 'qcow2', file: file('alone.qcow2', { 'node-name': 'g' }) },
      }),
      snapshot('debug', 'g'),
      ...removed('debug', 'r', 'f'),
      add('r', { driver: 'raw', file: file('raw', { 'read-only': false }) }),
      add('alone', qcow2('alone')),
      snapshot('r', 'alone'),
      nodes,
      ...removed('alone', 'r'),
    ])
  })

  it('jobs that cannot begin say why in the same order', async () => {
    const action = (type: string, data: object) => ({ type, data })
    const create = (options: object) =>
      command('blockdev-create', { 'job-id': 'c', options: { driver: 'qcow2', ...options } })
    const after = [command('query-jobs'), command('job-dismiss', { id: 'c' })]
    const backup = { 'job-id': 'c', device: 'a', target: 'r', sync: 'full' }
    await same([
      add('f', file('alone.qcow2')),
      add('a', { driver: 'qcow2', file: 'f' }),
      add('r', { driver: 'raw', file: file('raw') }),
      command('block-stream', { 'job-id': 'j', device: 'a', 'filter-node-name': 'a' }),
      command('blockdev-backup', { ...backup, 'filter-node-name': 'a' }),
      command('block-commit', { 'job-id': 'j', device: 'r' }),
      command('transaction', {
        actions: [
          action('blockdev-backup', { ...backup, device: 'no-such' }),
          action('block-dirty-bitmap-add', { node: 'a', name: 'm' }),
        ],
        properties: { 'completion-mode': 'grouped' },
      }),
    ])
    for (const perf of [{ 'max-workers': 0 }, { 'max-chunk': -1 }, { 'max-chunk': 65535 }]) {
      await same([command('blockdev-backup', { ...backup, 'x-perf': perf })])
    }
    await same([command('blockdev-backup', { ...backup, compress: true })])
    for (const options of [
      { file: 'f', size: MiB },
      { file: 'no-such', size: 0, 'cluster-size': 4 * MiB },
      { file: 'f', size: 1000 },
      { file: 'f', size: 0, 'backing-fmt': 'qcow2' },
    ]) {
      await pair.same([create(options), { until: 'concluded' }, ...after])
    }
    await pair.same([
      create({ file: 'no-such', size: 0 }),
      { until: 'concluded' },
      command('blockdev-backup', { ...backup, target: 'a' }),
      ...['dismiss', 'finalize'].map((verb) => command(`block-job-${verb}`, { id: 'c' })),
      command('block-job-pause', { device: 'c' }),
      ...after,
      ...removed('a', 'r', 'f'),
    ])
  })

  it('a child whose place another one takes is closed', async () => {
    await same([
      add('other', file('alone.qcow2')),
      add('a', qcow2('base')),
      command('blockdev-reopen', {
        options: [{ driver: 'qcow2', 'node-name': 'a', file: 'other' }],
      }),
      nodes,
      ...removed('a', 'other'),
    ])
  })

  it('what is missing is named before what is wrong', async () => {
    await same([
      command('block-dirty-bitmap-add', { node: 'no-such', name: '' }),
      add('r', { driver: 'raw', file: file('raw') }),
      add('a', qcow2('top', { backing: '' })),
      add('c', { driver: 'copy-on-read', file: { driver: 'snapshot-access', file: 'r' } }),
      command('blockdev-snapshot-internal-sync', { device: 'a', name: 's' }),
      add('over', { driver: 'raw', file: 'a' }),
      command('blockdev-snapshot-sync', {
        'node-name': 'r',
        'snapshot-file': 'made',
        'snapshot-node-name': 'made',
        format: 'raw',
      }),
      command('blockdev-reopen', {
        options: [
          { driver: 'raw', 'node-name': 'r', file: file('x') },
          { driver: 'raw', 'node-name': 'no-such', file: 'x' },
        ],
      }),
      ...removed('c', 'over', 'a', 'r'),
    ])
  })

  it('reopening finds the node before it looks at options, and names a file first', async () => {
    const reopen = (options: object) => command('blockdev-reopen', { options: [options] })
    await same([
      add('r', { driver: 'raw', file: file('raw') }),
      reopen({ driver: 'raw', 'node-name': 'no-such', file: 'f', 'detect-zeroes': 'unmap' }),
      reopen({ driver: 'raw', 'node-name': 'r', file: file('x', { discard: 'unmap' }) }),
      remove('r'),
    ])
  })

  it('names of what passes data on, and of what stands on it', async () => {
    const steps = [
      add('disk', qcow2('alone')),
      add('place', { driver: 'null-co', size: MiB }),
      add('copied', { driver: 'copy-before-write', file: 'disk', target: 'place' }),
      add('old', { driver: 'snapshot-access', file: 'copied' }),
      add('over-copied', { driver: 'raw', file: 'copied' }),
      add('over-old', { driver: 'raw', file: 'old' }),
      add('reads', { driver: 'copy-on-read', file: 'place' }),
      add('old-reads', { driver: 'snapshot-access', file: 'reads' }),
      nodes,
      ...removed('old-reads', 'reads', 'over-old', 'over-copied', 'old', 'copied', 'place', 'disk'),
    ]
    // The filter keeps bitmaps without names for itself.
    await pair.same(steps, ['dirty-bitmaps'])
  })

  it('a node that is amended cannot be taken away before the job is dismissed', async () => {
    await pair.same([
      add('disk', qcow2('alone')),
      command('x-blockdev-amend', {
        'job-id': 'j',
        'node-name': 'disk',
        options: { driver: 'qcow2' },
      }),
      { until: 'concluded' },
      remove('disk'),
      command('job-dismiss', { id: 'j' }),
      remove('disk'),
    ])
  })

  it('an image that gets an overlay is read-only, with storage that somebody else only reads', async () => {
    const steps = [
      add('base', { driver: 'qcow2', file: file('base.qcow2', { 'node-name': 'storage' }) }),
      add('reader', { driver: 'raw', file: 'storage' }),
      add('debug', { driver: 'blkdebug', image: file('raw') }),
      add('overlay', qcow2('top', { backing: null })),
      command('blockdev-snapshot', { node: 'base', overlay: 'overlay' }),
      nodes,
      ...removed('overlay', 'debug', 'reader', 'base'),
    ]
    await pair.same(steps, ['image'])
  })

  it('blkverify shows no snapshots', async () => {
    await pair.same(
      [
        add('disk', qcow2('alone')),
        command('blockdev-snapshot-internal-sync', { device: 'disk', name: 's' }),
        add('verify', { driver: 'blkverify', test: 'disk', raw: 'disk' }),
        nodes,
        ...removed('verify', 'disk'),
      ],
      ['date-sec', 'date-nsec', 'vm-clock-nsec'],
    )
  })
})
