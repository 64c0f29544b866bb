/** Nodes that jobs put into the graph or make as targets: what they are called, and who may take them away. */
import { cpSync } from 'node:fs'
import { afterEach, beforeAll, beforeEach, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { command, QmpPair, type Step } from '../support/qmp-pair.ts'
import { makeWorld } from '../support/qmp-random/world.ts'
import type { Message } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img', 'qemu-io')

const nodes = command('query-named-block-nodes', { flat: true })
const remove = (name: string) => command('blockdev-del', { 'node-name': name })
const cancel = command('block-job-cancel', { device: 'j', force: true })
const image = (name: string, more: object = {}) => ({
  driver: 'qcow2',
  'node-name': name,
  file: { driver: 'file', filename: `${name}.qcow2` },
  ...more,
})
const chain = command(
  'blockdev-add',
  image('top', { backing: image('mid', { backing: image('base') }) }),
)
const empty = command('blockdev-add', { driver: 'null-co', size: 4 << 20, 'node-name': 'z' })
const waiting = { 'job-id': 'j', device: 'top', 'auto-finalize': false }
const named = { ...waiting, 'filter-node-name': 'f' }

qsd.describe('nodes of jobs', () => {
  const folder = scratchFolder('qmp-job-nodes')
  let count = 0
  let pair: QmpPair

  beforeAll(() => makeWorld(`${folder}/world`))

  beforeEach(async () => {
    pair = await QmpPair.start(`${folder}/${count++}`, qsd.path as string, (each) =>
      cpSync(`${folder}/world`, each, { recursive: true }),
    )
    await pair.same([chain, empty])
  })

  afterEach(async () => {
    await pair?.[Symbol.asyncDispose]()
  })

  const same = (steps: readonly Step[]) => pair.same(steps, ['dirty-bitmaps', 'offset', 'len'])
  const end: readonly Step[] = [cancel, { until: 'gone' }]

  it('are called alike, and stay while the job is there', async () => {
    const del = ['f', 'top', 'z'].map(remove)
    await same([
      command('block-stream', named),
      { until: 'pending' },
      ...[nodes, remove('f'), remove('top'), ...end],
      command('blockdev-mirror', { ...named, target: 'z', sync: 'full' }),
      { until: 'ready' },
      ...[nodes, ...del, ...end],
      command('blockdev-backup', { ...named, target: 'z', sync: 'none' }),
      ...[nodes, ...del, ...end],
      command('block-stream', waiting),
      { until: 'pending' },
      ...[nodes, ...end],
    ])
  })

  it('are called alike in commits, whose top shows no disk meanwhile', async () => {
    await same([
      command('block-commit', { ...named, 'top-node': 'mid' }),
      { until: 'pending' },
      ...[nodes, remove('f'), remove('top'), ...end],
      command('block-commit', named),
      { until: 'ready' },
      ...[remove('f'), remove('top'), ...end],
    ])
  })

  it('of targets that the job makes itself', async () => {
    const onto = (verb: string, sync: string, more: object = {}) =>
      command(verb, { ...waiting, target: 'over0.qcow2', sync, ...more })
    await same([
      ...['full', 'top', 'none'].flatMap((sync) => [
        onto('drive-backup', sync),
        ...(sync === 'none' ? [] : [{ until: 'pending' }]),
        ...[nodes, ...end],
        onto('drive-mirror', sync),
        { until: 'ready' },
        ...[nodes, ...end],
      ]),
      onto('drive-mirror', 'full', { mode: 'existing' }),
      { until: 'ready' },
      ...[nodes, ...end],
    ])
  })

  it('of a disk that ends within a sector, and of plain storage', async () => {
    const odd = { driver: 'file', filename: 'odd.raw' }
    const backup = (device: string, more: object) =>
      command('drive-backup', { 'job-id': 'j', device, target: 'over0', sync: 'full', ...more })
    await same([
      command('blockdev-add', {
        driver: 'raw',
        'node-name': 'odd',
        file: { ...odd, 'node-name': 'f' },
      }),
      backup('odd', { format: 'qcow2', sync: 'none' }),
      ...[nodes, ...end],
      backup('f', { 'auto-finalize': false }),
      { until: 'pending' },
      ...[nodes, ...end],
    ])
  })

  it('refuse formats without backing files where they need one', async () => {
    const steps: readonly Message[] = ['drive-backup', 'drive-mirror'].map((verb) =>
      command(verb, { ...waiting, target: 'over0', sync: 'none', format: 'raw' }),
    )
    expect(await pair.differences(steps)).toEqual([])
    await same([
      command('blockdev-mirror', { ...waiting, target: 'z', sync: 'full' }),
      { until: 'ready' },
    ])
    const busy = command('drive-backup', {
      ...named,
      'job-id': 'k',
      target: 'x',
      sync: 'full',
      format: 'y',
    })
    expect(await pair.differences([busy])).toEqual([])
  })
})
