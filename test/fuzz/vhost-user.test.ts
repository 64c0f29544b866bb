/**
 * Wild clients of a vhost-user-blk export: messages with any numbers and descriptors, rings and chains of anything, memory that
 * is cut off. The daemon lives, keeps none of what they gave it, and serves the next client.
 */
import { execFile } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { StorageDaemon } from '../../src/daemon/storage-daemon.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random, seedNote } from '../support/random.ts'

const scenes = fileURLToPath(new URL('../support/vhost-user-scenes.py', import.meta.url))
const folder = scratchFolder('vhost-user-wild')
const rounds = process.env.VARVE_LONG ? 2000 : 200

peer('python3').it(`wild clients leave nothing behind (${seedNote})`, async () => {
  await using daemon = new StorageDaemon()
  await daemon.execute('blockdev-add', { driver: 'memory', 'node-name': 'disk', size: 64 * MiB })
  const path = join(folder, 'v.sock')
  const addr = { type: 'unix', path }
  const own = { type: 'vhost-user-blk', id: 'e', 'node-name': 'disk', writable: true, addr }
  await daemon.execute('block-export-add', own)
  const play = async (count: number) => {
    const args = ['100', 'python3', scenes, path, 'wild', `${new Random().below(2 ** 31)}`]
    return (await promisify(execFile)('timeout', [...args, `${count}`])).stdout
  }
  const served = 'next 0 True\n'
  expect(await play(1)).toBe(served)
  const descriptors = readdirSync('/proc/self/fd').length
  expect(await play(rounds)).toBe(served)
  // The last client may be going still.
  expect(readdirSync('/proc/self/fd').length).toBeLessThan(descriptors + 10)
})
