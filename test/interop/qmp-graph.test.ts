/** The graph as `x-debug-query-block-graph` tells it, and its threads: Debian's daemon and ours. */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { command, QmpPair } from '../support/qmp-pair.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img')

const graph = command('x-debug-query-block-graph')
const file = (name: string) => ({ driver: 'file', filename: name, 'node-name': `file-${name}` })
const add = (name: string, options: object) =>
  command('blockdev-add', { 'node-name': name, ...options })
const remove = (name: string) => command('blockdev-del', { 'node-name': name })
const move = (args: object) => command('x-blockdev-set-iothread', { ...args })
const share = (id: string, node: string, more: object = {}) =>
  command('block-export-add', { type: 'nbd', id, name: id, 'node-name': node, ...more })

qsd.describe('the graph', () => {
  let pair: QmpPair

  beforeAll(async () => {
    pair = await QmpPair.start(scratchFolder('qmp-graph'), qsd.path as string, (folder) => {
      writeFileSync(join(folder, 'raw'), Buffer.alloc(MiB))
      const create = ['create', '-q', '-f', 'qcow2']
      execFileSync('qemu-img', [...create, join(folder, 'base'), '1M'])
      execFileSync('qemu-img', [...create, '-b', 'base', '-F', 'qcow2', join(folder, 'top')])
    })
  })

  afterAll(async () => {
    await pair?.[Symbol.asyncDispose]()
  })

  it('is described alike, with permissions, but for jobs', async () => {
    const base = { driver: 'qcow2', 'node-name': 'base', file: file('base') }
    await pair.same([
      graph,
      add('raw', { driver: 'raw', file: file('raw') }),
      add('top', { driver: 'qcow2', file: file('top'), backing: base }),
      graph,
      command('object-add', { 'qom-type': 'throttle-group', id: 'group' }),
      add('slow', { driver: 'throttle', file: 'raw', 'throttle-group': 'group' }),
      add('null', { driver: 'null-co' }),
      graph,
      command('nbd-server-start', { addr: { type: 'unix', data: { path: 'nbd.sock' } } }),
      share('read', 'slow'),
      share('write', 'top', { writable: true }),
      graph,
      command('nbd-server-stop'),
      remove('slow'),
      remove('top'),
      graph,
      remove('raw'),
      remove('null'),
      command('object-del', { id: 'group' }),
    ])
  })

  it('is put on threads alike, as far as answers tell', async () => {
    const object = (type: string, id: string, more: object = {}) =>
      command('object-add', { 'qom-type': type, id, ...more })
    await pair.same([
      add('raw', { driver: 'raw', file: file('raw') }),
      object('iothread', 'io'),
      object('secret', 'secret', { data: 'x' }),
      ...['secret', 'no-such', 3, undefined].map((iothread) =>
        move({ 'node-name': 'raw', iothread }),
      ),
      move({ 'node-name': 'no-such', iothread: 'io' }),
      move({ iothread: null }),
      command('nbd-server-start', { addr: { type: 'unix', data: { path: 'nbd.sock' } } }),
      share('e', 'raw', { iothread: 'no-such' }),
      share('e', 'raw', { iothread: 'secret' }),
      share('e', 'raw'),
      move({ 'node-name': 'raw', iothread: 'io' }),
      move({ 'node-name': 'raw', iothread: 'no-such' }),
      move({ 'node-name': 'raw', iothread: null, force: true }),
      command('nbd-server-stop'),
      move({ 'node-name': 'raw', iothread: null }),
      remove('raw'),
      command('object-del', { id: 'io' }),
    ])
  })
})
