/**
 * A QMP client that was not written here (npm's `qemu-qmp`) drives the daemon: the same session with
 * Debian's storage daemon and with ours gives the same answers, and the same images.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { expect } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { QmpTalk, varveDaemon } from '../support/qmp-talk.ts'
import { Random, seedNote } from '../support/random.ts'

/** As far as it is used; the package has no types. */
interface ForeignClient extends Socket {
  execute(
    command: string,
    options: object | null,
    callback: (error: Error | null, value: unknown) => void,
  ): void
  readonly version: { readonly qemu: object }
}

const Foreign = createRequire(import.meta.url)('qemu-qmp') as new () => ForeignClient

const peers = peer('qemu-storage-daemon', 'qemu-img')
const folder = scratchFolder('qmp-foreign')

peers.it(`drives it as it drives qemu-storage-daemon (${seedNote})`, async () => {
  const content = new Random().bytes(1024 * 1024)
  const theirs = await drive(['qemu-storage-daemon'], join(folder, 'theirs'), content)
  const ours = await drive(varveDaemon, join(folder, 'ours'), content)
  expect(ours).toEqual(theirs)
  for (const side of ['theirs', 'ours']) {
    const at = (name: string) => join(folder, side, name)
    const compare = ['compare', '-f', 'raw', '-F', 'qcow2']
    execFileSync('qemu-img', [...compare, at('disk.raw'), at('mirrored.qcow2')])
    execFileSync('qemu-img', [...compare, at('disk.raw'), at('backup.qcow2')])
    execFileSync('qemu-img', ['check', '-q', at('mirrored.qcow2')])
  }
})

async function drive(command: readonly string[], home: string, content: Uint8Array) {
  mkdirSync(home, { recursive: true })
  writeFileSync(join(home, 'disk.raw'), content)
  const monitor = 'socket,path=foreign.sock,server=on,wait=off,id=foreign'
  await using _daemon = await QmpTalk.start(command, home, [
    '--chardev',
    monitor,
    '--monitor',
    'foreign',
  ])
  const client = await connected(join(home, 'foreign.sock'))
  const told: unknown[] = [Object.keys(client.version.qemu)]
  const say = async (name: string, options: object | null = null) => {
    const answer = await new Promise((resolve) => {
      client.execute(name, options, (error, value) => resolve(error?.message ?? value))
    })
    told.push([name, answer])
  }
  const event = (name: string) => new Promise((resolve) => client.once(name, resolve))
  const file = (filename: string) => ({ driver: 'file', filename: join(home, filename) })
  const qcow2 = async (name: string) => {
    const size = content.length
    writeFileSync(join(home, `${name}.qcow2`), '')
    await say('blockdev-add', { ...file(`${name}.qcow2`), 'node-name': `${name}-file` })
    const options = { driver: 'qcow2', file: `${name}-file`, size }
    await say('blockdev-create', { 'job-id': `make-${name}`, options })
    await finished(say, `make-${name}`, told)
    await say('job-dismiss', { id: `make-${name}` })
    await say('blockdev-add', { driver: 'qcow2', file: `${name}-file`, 'node-name': name })
  }

  await say('blockdev-add', { driver: 'raw', 'node-name': 'disk', file: file('disk.raw') })
  await say('blockdev-add', { driver: 'raw', 'node-name': 'disk', file: file('disk.raw') })
  await say('no-such-command')
  await qcow2('mirrored')
  await qcow2('backup')
  const mirrorReady = event('block_job_ready')
  await say('blockdev-mirror', { 'job-id': 'm', device: 'disk', target: 'mirrored', sync: 'full' })
  told.push(await mirrorReady)
  const completed = event('block_job_completed')
  await say('block-job-cancel', { device: 'm' })
  told.push(await completed)
  const done = event('block_job_completed')
  await say('transaction', {
    actions: [
      {
        type: 'blockdev-backup',
        data: { 'job-id': 'b', device: 'disk', target: 'backup', sync: 'full' },
      },
      { type: 'block-dirty-bitmap-add', data: { node: 'disk', name: 'since' } },
    ],
  })
  told.push(await done)
  await say('nbd-server-start', {
    addr: { type: 'unix', data: { path: join(home, 'nbd.sock') } },
  })
  await say('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'disk', name: 'disk' })
  await say('query-block-exports')
  await say('block-export-del', { id: 'e' })
  await say('nbd-server-stop')
  await say('query-jobs')
  await say('blockdev-del', { 'node-name': 'disk-not' })
  const ended = new Promise((resolve) => client.once('close', resolve))
  await say('quit')
  await ended
  return told
}

/** Waits until a job has concluded. */
async function finished(
  say: (name: string) => Promise<void>,
  id: string,
  told: unknown[],
): Promise<void> {
  for (;;) {
    await say('query-jobs')
    const [, jobs] = told.pop() as [string, { id: string; status: string }[]]
    if (jobs.find((job) => job.id === id)?.status === 'concluded') return
  }
}

async function connected(socket: string): Promise<ForeignClient> {
  const client = new Foreign()
  await new Promise<void>((resolve, reject) => {
    // Its own signature: one callback, for success and failure.
    const connect = client.connect as unknown as (
      path: string,
      callback: (error: Error | null) => void,
    ) => void
    connect.call(client, socket, (error) => (error ? reject(error) : resolve()))
  })
  return client
}
