/**
 * Clients of a vhost-user-blk export that do what they should not, or go at the wrong moment. They are Python
 * programs, since Node hands no descriptors over.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { StorageDaemon } from '../../src/daemon/storage-daemon.ts'
import { sys } from '../../src/sys/current.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { until } from '../support/until.ts'

const scenes = fileURLToPath(new URL('../support/vhost-user-scenes.py', import.meta.url))
const folder = scratchFolder('vhost-user-scenes')
const python = peer('python3')
let number = 0

/** A daemon with a disk of 64 MiB that is exported; `below` is its only child, if it is throttled. */
async function start(options: { slow?: boolean } = {}) {
  const daemon = new StorageDaemon()
  const name = options.slow ? 'below' : 'disk'
  await daemon.execute('blockdev-add', { driver: 'memory', 'node-name': name, size: 64 * MiB })
  if (options.slow) {
    const limits = { 'iops-total': 20 }
    await daemon.execute('object-add', { 'qom-type': 'throttle-group', id: 'slow', limits })
    const slow = { driver: 'throttle', 'throttle-group': 'slow', file: name }
    await daemon.execute('blockdev-add', { ...slow, 'node-name': 'disk' })
  }
  const path = join(folder, `${number++}.sock`)
  const addr = { type: 'unix', path }
  const own = { type: 'vhost-user-blk', id: 'e', 'node-name': 'disk', writable: true, addr }
  await daemon.execute('block-export-add', own)
  return { daemon, path }
}

class Scene {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>
  readonly #ended: Promise<unknown>

  constructor(path: string, name: string) {
    this.#child = spawn('timeout', ['60', 'python3', scenes, path, name])
    this.#child.stderr.pipe(process.stderr)
    this.#lines = createInterface(this.#child.stdout)[Symbol.asyncIterator]()
    this.#ended = once(this.#child, 'close')
  }

  async line(): Promise<string> {
    const { value } = await this.#lines.next()
    return value
  }

  goOn(): void {
    this.#child.stdin.write('\n')
  }

  async rest(): Promise<string[]> {
    const lines: string[] = []
    for (let next = await this.#lines.next(); !next.done; next = await this.#lines.next()) {
      lines.push(next.value)
    }
    await this.#ended
    return lines
  }
}

async function play(name: string): Promise<string[]> {
  const { daemon, path } = await start()
  await using _ = daemon
  return await new Scene(path, name).rest()
}

const served = 'next 0 True'

it.skipIf(!sys().sharedMemory)('needs nothing but a file of memory that stays', async () => {
  expect(await play('cut_off')).toEqual([
    ...['before 0', '0 0 gone', 'before 0', '1 0 gone', 'before 0', '0 65536 gone'],
    ...['before 0', '1 4096 gone', served],
  ])
})

python.describe('a client of a vhost-user-blk export', () => {
  it('takes memory back, and gives more', async () => {
    expect(await play('removed')).toEqual(['0', 'without it gone', 'shared anew 0 1', served])
  })

  it('gives descriptors that are none to kick or call, or too many', async () => {
    expect(await play('descriptors')).toEqual([
      ...['pipe gone', 'pipe gone', 'full 1 alive', 'many 1', 'crumbs 1', 'long gone'],
      ...[expect.stringMatching('unread'), served],
    ])
  })

  it('waits for the one before it', async () => {
    expect(await play('waiting')).toEqual(['second waits', 'first 0', 'second 1', served])
  })

  it('has its requests finished when it goes, before the next one is served', async () => {
    const { daemon, path } = await start({ slow: true })
    await using _ = daemon
    const scene = new Scene(path, 'vanishing')
    expect(await scene.line()).toBe('begun')
    await until(() => daemon.graph.node('below').statistics.write.operations > 0)
    scene.goOn()
    expect(await scene.line()).toBe('gone')
    scene.goOn()
    expect(await scene.rest()).toEqual([served])
    expect(daemon.graph.node('below').statistics.write.operations).toBe(9)
  })

  it('is answered when the export ends', async () => {
    const { daemon, path } = await start({ slow: true })
    await using _ = daemon
    const scene = new Scene(path, 'ended')
    expect(await scene.line()).toBe('begun')
    await until(() => daemon.graph.node('below').statistics.write.operations > 0)
    const ending = daemon.execute('block-export-del', { id: 'e', mode: 'hard' })
    scene.goOn()
    await ending
    expect(await scene.rest()).toEqual(['8 gone'])
    await until(() => daemon.exports.list().length === 0)
  })

  it('is told of another size', async () => {
    const { daemon, path } = await start()
    await using _ = daemon
    const scene = new Scene(path, 'resized')
    expect(await scene.line()).toBe('131072')
    await daemon.execute('block_resize', { 'node-name': 'disk', size: MiB })
    scene.goOn()
    expect(await scene.rest()).toEqual(['(2, 1, 0) 2048', '1'])
  })

  it('finds the pages logged that the device has written to', async () => {
    expect(await play('logged')).toEqual([
      ...['not sealed gone', 'sealed True', 'not yet 0 []'],
      ...[
        'wrong length 6001 1',
        "status and used ring ['0x30000000', '0x40000000']",
        'right 8193 True',
      ],
      'no more 0 []',
    ])
  })

  it('keeps nobody waiting with the longest chains', async () => {
    expect(await play('tangled')).toEqual(['1024 asked meanwhile True'])
  })

  it('makes requests of any length, more than there may be under way', async () => {
    expect(await play('long')).toEqual(['(0, 1)', 'True', '40'])
  })
})

it('of vhost-user-blk replaces no file by its socket', async () => {
  await using daemon = new StorageDaemon()
  await daemon.execute('blockdev-add', { driver: 'null-co', 'node-name': 'disk', size: 512 })
  const path = join(folder, 'file')
  writeFileSync(path, 'a file')
  const addr = { type: 'unix', path }
  const own = { type: 'vhost-user-blk', id: 'e', 'node-name': 'disk', addr }
  await expect(daemon.execute('block-export-add', own)).rejects.toThrow('Address already in use')
  expect(readFileSync(path, 'utf8')).toBe('a file')
})
