/** What clients see of the daemon's exports: the same as of qemu-storage-daemon's. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { StorageDaemon } from '../../src/daemon/storage-daemon.ts'
import { peer } from '../peers.ts'
import { makePki } from '../support/certificates.ts'
import { scratchFolder } from '../support/folder.ts'
import { varveDaemon } from '../support/qmp-talk.ts'

const nbdinfo = peer('nbdinfo', 'qemu-storage-daemon', 'qemu-img', 'qemu-io')
const fio = peer('fio', 'qemu-img')

const folder = scratchFolder('daemon-export')
const overlay = join(folder, 'overlay.qcow2')
const socket = join(folder, 'nbd.sock')
const uri = `nbd+unix:///d?socket=${socket}`

/** Runs `client` while a daemon exports the overlay; checks that the daemon ends well. */
async function exporting(command: readonly string[], client: () => Promise<void>): Promise<void> {
  const [program, ...args] = command
  const options = [
    ...['--nbd-server', `addr.type=unix,addr.path=${socket}`],
    ...['--blockdev', `qcow2,node-name=d,file.driver=file,file.filename=${overlay}`],
    ...['--export', 'nbd,id=e,node-name=d,writable=on,allocation-depth=on'],
    ...['--pidfile', join(folder, 'pid')],
  ]
  const daemon = spawn(program, [...args, ...options], { stdio: 'inherit' })
  const ended = once(daemon, 'exit')
  try {
    while (!existsSync(join(folder, 'pid'))) await sleep(10)
    await client()
  } finally {
    daemon.kill('SIGTERM')
  }
  expect(await ended).toEqual([0, null])
}

function makeOverlay(): void {
  const base = join(folder, 'base.raw')
  const run = (program: string, ...args: string[]) => execFileSync(program, args)
  run('qemu-img', 'create', '-q', '-f', 'raw', base, '4M')
  run('qemu-io', '-f', 'raw', '-c', 'write -q -P 1 1M 1M', base)
  run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', overlay)
  run('qemu-io', '-c', 'write -q -P 2 2M 512k', '-c', 'write -q -z 3M 256k', overlay)
}

nbdinfo.it('shows sizes, flags, holes and depths as QEMU does', async () => {
  makeOverlay()
  const answers: string[] = []
  for (const command of [['qemu-storage-daemon'], varveDaemon]) {
    await exporting(command, async () => {
      const maps = ['base:allocation', 'qemu:allocation-depth'].map((name) => [`--map=${name}`])
      const outputs = [[], ...maps].map((args) => nbdinfo.run(...args, uri))
      answers.push((await Promise.all(outputs)).join('\n'))
    })
  }
  expect(answers[1]).toBe(answers[0])
})

fio.it('keeps what fio writes and checks, and leaves a sound image', async () => {
  makeOverlay()
  await exporting(varveDaemon, async () => {
    const job = ['--name=a', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--bs=4k']
    await fio.run(...job, '--size=4M', '--iodepth=16', '--verify=crc32c', '--do_verify=1')
  })
  execFileSync('qemu-img', ['check', '-q', overlay])
})

nbdinfo.it('asks clients for certificates where that is wanted', async () => {
  const pki = join(folder, 'pki')
  makePki(pki)
  const path = join(folder, 'tls.sock')
  await using daemon = new StorageDaemon()
  await daemon.execute('blockdev-add', { driver: 'null-co', 'node-name': 'd', size: 65536 })
  const credentials = { 'qom-type': 'tls-creds-x509', id: 't', dir: pki, endpoint: 'server' }
  await daemon.execute('object-add', credentials)
  const addr = { type: 'unix', data: { path } }
  await daemon.execute('nbd-server-start', { addr, 'tls-creds': 't' })
  await daemon.execute('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'd' })
  const secure = `nbds+unix://localhost/d?socket=${path}&tls-certificates=${pki}`
  expect(JSON.parse(await nbdinfo.run('--json', secure))).toMatchObject({ TLS: true })
  const plain = await nbdinfo.try(`nbd+unix:///d?socket=${path}`)
  expect(plain.status).toBe(1)
})
