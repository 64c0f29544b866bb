/** Where several things are wrong, the same one is told by Debian's daemon and by ours. */
import { execFileSync } from 'node:child_process'
import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { command, QmpPair } from '../support/qmp-pair.ts'
import type { Message } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img')

const add = (driver: string, name: string, options: object) =>
  command('blockdev-add', { driver, 'node-name': name, ...options })
const empty = (name: string, more: object = {}) => add('null-co', name, { size: 4 * MiB, ...more })

qsd.describe('what is refused first', () => {
  let pair: QmpPair

  beforeAll(async () => {
    pair = await QmpPair.start(scratchFolder('qmp-refusals'), qsd.path as string, (folder) => {
      writeFileSync(join(folder, 'raw'), Buffer.alloc(MiB))
      const create = ['create', '-q', '-f', 'qcow2']
      execFileSync('qemu-img', [...create, join(folder, 'disk.qcow2'), '4M'])
      execFileSync('qemu-img', [...create, join(folder, 'old.qcow2'), '4M'])
    })
    await alike([
      empty('z'),
      empty('small', { size: MiB }),
      empty('locked', { 'read-only': true }),
      empty('x'),
      empty('busy'),
      add('raw', 'rz', { file: 'z' }),
      add('copy-on-read', 'cx', { file: 'x' }),
      add('blkdebug', 'alone', { image: 'busy', 'unshare-child-perms': ['write'] }),
      add('qcow2', 'disk', { file: { driver: 'file', filename: 'disk.qcow2', 'node-name': 'f' } }),
    ])
  })

  afterAll(async () => {
    await pair?.[Symbol.asyncDispose]()
  })

  async function alike(steps: readonly Message[]): Promise<void> {
    expect(await pair.differences(steps)).toEqual([])
  }

  it('of a new node: its file, what every node has, its name, its own options', async () => {
    const file = { driver: 'file', filename: 'old.qcow2' }
    const nowhere = { driver: 'file', filename: 'nowhere' }
    const odd = { 'detect-zeroes': 'unmap' }
    await alike([
      add('qcow2', '1x', { file: nowhere, ...odd }),
      add('qcow2', '1x', { file, ...odd, 'force-share': true }),
      add('qcow2', '1x', { file, ...odd }),
      add('qcow2', '1x', { file }),
      add('qcow2', 'x', { file: { ...file, 'node-name': 'disk' }, ...odd }),
      add('qcow2', 'x', { file, 'l2-cache-size': 2, 'cache-size': 1 }),
      add('qcow2', 'fresh', { file, 'l2-cache-entry-size': 1000 }),
      add('raw', 'x', { file: 'nowhere' }),
      add('blkdebug', 'x', { image: 'nowhere', 'opt-write-zero': -1 }),
      add('throttle', 'fresh', { file: 'nowhere', 'throttle-group': 'nowhere' }),
      add('blklogwrites', 'x', { file: 'z', log: 'nowhere' }),
      add('quorum', 'x', { children: ['nowhere'], 'vote-threshold': 1 }),
    ])
  })

  it('of a backup', async () => {
    const backup = (device: string, target: string, more: object) =>
      command('blockdev-backup', { 'job-id': 'j', device, target, sync: 'full', ...more })
    const workers = { 'x-perf': { 'max-workers': 0 } }
    await alike([
      backup('z', 'z', workers),
      backup('z', 'small', workers),
      backup('z', 'x', { ...workers, compress: true }),
      backup('z', 'x', { ...workers, speed: -1 }),
      backup('z', 'x', { ...workers, bitmap: 'nowhere' }),
      backup('z', 'small', { speed: -1 }),
      backup('z', 'locked', {}),
    ])
  })

  it('of a mirror', async () => {
    const mirror = (device: string, target: string, more: object = {}) =>
      command('blockdev-mirror', { 'job-id': 'j', device, target, sync: 'full', ...more })
    await alike([
      mirror('cx', 'x'),
      mirror('rz', 'rz', { granularity: 3 }),
      mirror('rz', 'rz', { 'buf-size': -1, sync: 'incremental' }),
      mirror('rz', 'rz', { 'buf-size': -1, speed: -1 }),
      mirror('rz', 'small', { replaces: 'z', speed: -1 }),
      mirror('rz', 'x', { replaces: 'nowhere', sync: 'incremental' }),
      mirror('rz', 'x', { 'job-id': '1j', speed: -1 }),
      mirror('rz', 'locked', { speed: -1 }),
      mirror('rz', 'locked'),
      command('block-commit', { 'job-id': 'j', device: 'disk', top: 'disk.qcow2' }),
    ])
  })

  it('of an export', async () => {
    const more = { writable: true, bitmaps: ['nowhere'] }
    const shown = (id: string, node: string, others: object = more) =>
      command('block-export-add', { type: 'nbd', id, 'node-name': node, ...others })
    const steps = [
      shown('1', 'nowhere'),
      shown('e', 'locked'),
      shown('e', 'busy'),
      shown('e', 'busy', { ...more, name: 'z' }),
      shown('e', 'x'),
      command('nbd-server-add', { device: 'busy', bitmap: 'nowhere', writable: true }),
      command('nbd-server-add', { device: 'z', name: '1x' }),
    ]
    const addr = { type: 'unix', data: { path: 'nbd.sock' } }
    await alike([
      ...steps,
      command('nbd-server-start', { addr }),
      shown('z', 'z', {}),
      ...steps,
      shown('z', 'nowhere'),
      command('nbd-server-stop'),
    ])
  })

  it('of a job that waits to be finalized, and is paused by then', async () => {
    const job = { 'job-id': 'm', 'auto-finalize': false }
    await alike([empty('y')])
    await pair.same([
      command('blockdev-mirror', { ...job, device: 'rz', target: 'y', sync: 'full' }),
      { until: 'ready' },
      command('query-block-jobs'),
      command('block-job-complete', { device: 'm' }),
      { until: 'pending' },
      command('query-block-jobs'),
      command('block-job-set-speed', { device: 'm', speed: 1 }),
      command('block-job-pause', { device: 'm' }),
      command('block-job-resume', { device: 'm' }),
      command('block-job-cancel', { device: 'm' }),
    ])
  })

  it('of an object: limits one by one are looked at when it has its name', async () => {
    const object = (more: object) =>
      command('object-add', { 'qom-type': 'throttle-group', ...more })
    await alike([
      object({ id: 'g' }),
      object({ id: 'g', 'x-bps-total-max': 1000 }),
      object({ id: 'g', 'x-bps-total-max': -1 }),
      object({ id: 'g', limits: { 'bps-total-max': 1000 } }),
      object({ id: 'h', 'x-bps-total-max': 1000 }),
      command('object-del', { id: 'g' }),
    ])
  })

  it('of a window: where it lies, then its size', async () => {
    await alike([
      add('raw', 'part', { file: 'z', size: 100 }),
      add('raw', 'part', { file: 'z', size: 100, offset: 8 * MiB }),
      add('raw', 'part', { file: 'z', size: 5 * MiB + 1 }),
      add('raw', 'written', { file: 'locked' }),
      command('block-export-add', { type: 'nbd', id: 'w', 'node-name': 'written', writable: true }),
    ])
  })

  it('of a new file: its name, then how it is allocated', async () => {
    const make = (id: string, filename: string) =>
      command('blockdev-create', {
        'job-id': id,
        options: { driver: 'file', filename, size: MiB, preallocation: 'metadata' },
      })
    for (const [id, name] of [
      ['c', 'nowhere/x'],
      ['d', 'there'],
    ]) {
      await pair.same([
        make(id, name),
        { until: 'concluded' },
        command('query-jobs'),
        command('job-dismiss', { id }),
      ])
    }
    for (const folder of pair.folders) expect(statSync(join(folder, 'there')).size).toBe(0)
  })

  it('of a new size', async () => {
    const resize = (name: string, size: number) =>
      command('block_resize', { 'node-name': name, size })
    await alike([
      add('raw', 'part', { file: 'small', size: 512 }),
      resize('part', 1024),
      add('copy-on-read', 'over', { file: 'part' }),
      resize('over', 1024),
      resize('small', 1024),
      resize('locked', 1024),
    ])
  })
})
