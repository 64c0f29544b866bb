/** What nodes use and share of each other, and how conflicts are told: Debian's daemon and ours. */
import { execFileSync } from 'node:child_process'
import { copyFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { command, QmpPair } from '../support/qmp-pair.ts'
import type { Message } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img')

const graph = command('x-debug-query-block-graph')
const add = (driver: string, name: string, options: object) =>
  command('blockdev-add', { driver, 'node-name': name, ...options })
const empty = (name: string, more: object = {}) => add('null-co', name, { size: 4 * MiB, ...more })
const file = (filename: string, name: string) => ({ driver: 'file', filename, 'node-name': name })

qsd.describe('permissions between nodes', () => {
  const folder = scratchFolder('qmp-permissions')
  let count = 0
  let pair: QmpPair

  beforeEach(async () => {
    pair = await QmpPair.start(join(folder, `${count++}`), qsd.path as string, (each) => {
      writeFileSync(join(each, 'raw'), Buffer.alloc(MiB))
      const create = ['create', '-q', '-f', 'qcow2']
      execFileSync('qemu-img', [...create, join(each, 'base.qcow2'), '4M'])
      const onto = ['-b', 'base.qcow2', '-F', 'qcow2']
      execFileSync('qemu-img', [...create, ...onto, join(each, 'top.qcow2')])
    })
  })

  afterEach(async () => {
    await pair?.[Symbol.asyncDispose]()
  })

  /** After each step the graph is asked for. */
  const same = (steps: readonly Message[]) => pair.same(steps.flatMap((step) => [step, graph]))
  const chain = [
    add('qcow2', 'base', { file: file('base.qcow2', 'fb') }),
    add('qcow2', 'top', { file: file('top.qcow2', 'ft'), backing: 'base' }),
  ]

  it('are the same with a raw window above, and below another', async () => {
    await same([
      empty('z'),
      add('raw', 'whole', { file: 'z' }),
      add('raw', 'part', { file: 'z', size: 512 }),
      add('raw', 'later', { file: 'z', offset: 512 }),
      add('raw', 'over', { file: 'part', 'read-only': true }),
      add('blkdebug', 'writer', { image: 'part', 'take-child-perms': ['write'] }),
      command('block_resize', { 'node-name': 'part', size: 1024 }),
      command('block_resize', { 'node-name': 'whole', size: 1024 }),
    ])
  })

  it('are the same with disks of virtual machines, whose place an overlay takes', async () => {
    const addr = (path: string) => ({ type: 'unix', path })
    const vhost = (id: string, node: string, more: object = {}) =>
      command('block-export-add', {
        ...{ type: 'vhost-user-blk', id, 'node-name': node, addr: addr(`${id}.sock`) },
        ...more,
      })
    const overlay = { file: file('top.qcow2', 'ft'), backing: null }
    await same([
      add('qcow2', 'base', { file: file('base.qcow2', 'fb') }),
      vhost('read', 'base'),
      vhost('written', 'base', { writable: true, writethrough: true }),
      add('qcow2', 'top', overlay),
      command('blockdev-snapshot', { node: 'base', overlay: 'top' }),
      command('block_resize', { 'node-name': 'top', size: 8 * MiB }),
      command('blockdev-del', { 'node-name': 'top' }),
      command('query-block-exports'),
      command('block-export-del', { id: 'read' }),
      command('block-export-del', { id: 'written', mode: 'hard' }),
      command('blockdev-del', { 'node-name': 'top' }),
    ])
  })

  it('are the same with each filter over an image', async () => {
    await same([
      ...chain,
      empty('z'),
      add('copy-on-read', 'cor', { file: 'top' }),
      add('raw', 'over-cor', { file: 'cor' }),
      add('compress', 'compress', { file: 'top' }),
      add('preallocate', 'preallocate', { file: 'z' }),
      add('blkverify', 'verify', { test: 'z', raw: 'z' }),
      add('blklogwrites', 'log', { file: 'top', log: 'z' }),
    ])
  })

  it('are the same with a log that nothing is written to', async () => {
    await same([
      empty('z'),
      empty('log-file', { 'read-only': true }),
      add('blklogwrites', 'log', { file: 'z', log: 'log-file', 'read-only': true }),
    ])
  })

  it('are the same with copy-before-write, alone, used, and with a target that is smaller', async () => {
    await same([
      ...chain,
      empty('z', { size: 512 }),
      add('copy-before-write', 'cbw', { file: 'top', target: 'z' }),
      add('snapshot-access', 'old', { file: 'cbw' }),
      add('raw', 'over', { file: 'old' }),
    ])
  })

  it('are the same below a LUKS disk, which passes them on', async () => {
    const key = ['--object', 'secret,id=key,data=open sesame']
    const quick = ['-o', 'key-secret=key,iter-time=10']
    const [one, other] = pair.folders.map((each) => join(each, 'l'))
    execFileSync('qemu-img', ['create', '-q', ...key, '-f', 'luks', ...quick, one, '1M'])
    copyFileSync(one, other)
    const secret = { 'qom-type': 'secret', id: 'key', data: 'open sesame' }
    await same([
      command('object-add', secret),
      add('luks', 'disk', { file: file('l', 'storage'), 'key-secret': 'key' }),
      add('raw', 'reader', { file: 'storage', 'read-only': true }),
      add('blkdebug', 'writer', { image: 'disk', 'take-child-perms': ['write'] }),
      command('query-named-block-nodes', { flat: true }),
    ])
  })

  it('are the same below blkverify that is written to', async () => {
    await same([
      empty('z'),
      empty('z2'),
      empty('z3'),
      add('blkverify', 'verify', { test: 'z', raw: 'z2' }),
      add('copy-before-write', 'cbw', { file: 'z3', target: 'verify' }),
    ])
  })

  it('conflict: the user that came last does not share', async () => {
    await same([
      add('file', 'f', { filename: 'base.qcow2' }),
      add('quorum', 'many', { children: ['f', 'f', 'f'], 'vote-threshold': 1 }),
      add('qcow2', 'disk', { file: 'many' }),
      command('blockdev-del', { 'node-name': 'many' }),
      add('copy-before-write', 'cbw', { file: 'f', target: 'f' }),
      add('qcow2', 'disk', { file: 'cbw' }),
      command('blockdev-del', { 'node-name': 'cbw' }),
      add('blkverify', 'verify', { raw: 'f', test: 'f' }),
      add('qcow2', 'disk', { file: 'verify' }),
      command('blockdev-del', { 'node-name': 'verify' }),
      add('qcow2', 'one', { file: 'f' }),
      add('qcow2', 'two', { file: 'f' }),
      add('raw', 'three', { file: 'f' }),
    ])
  })

  it('conflict with jobs, which are unnamed block devices in messages', async () => {
    // QEMU tells of jobs that come to nothing.
    const alike = async (steps: readonly Message[]) => {
      expect(await pair.differences(steps)).toEqual([])
    }
    await alike([
      empty('z'),
      empty('busy'),
      add('blkdebug', 'alone', { image: 'busy', 'unshare-child-perms': ['write'] }),
      add('qcow2', 'disk', { file: file('base.qcow2', 'f') }),
      add('raw', 'window', { file: 'f', size: 512 }),
      command('blockdev-mirror', { 'job-id': 'j', device: 'z', target: 'busy', sync: 'full' }),
      command('blockdev-mirror', { 'job-id': 'j', device: 'disk', target: 'f', sync: 'full' }),
      command('blockdev-backup', { 'job-id': 'j', device: 'z', target: 'busy', sync: 'full' }),
      command('blockdev-backup', { 'job-id': 'j', device: 'busy', target: 'z', sync: 'full' }),
      command('block-stream', { 'job-id': 'j', device: 'f' }),
    ])
    await pair.same([
      command('blockdev-create', {
        'job-id': 'c',
        options: { driver: 'qcow2', file: 'f', size: MiB },
      }),
      { until: 'concluded' },
      command('query-jobs'),
    ])
  })
})
