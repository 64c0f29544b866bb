/** Our NBD client and servers of another make that want TLS: nbdkit, which uses GnuTLS as QEMU does. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { makePki } from '../support/certificates.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs } from '../support/img.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const nbdkit = peer('nbdkit')
const folder = scratchFolder('tls-nbdkit')
const at = (name: string) => join(folder, name)
const content = new Random(runSeed).bytes(1024 * 1024)
let count = 0

/** Serves `content`, while `work` runs; gives the socket's path. */
async function serving(
  options: readonly string[],
  work: (socket: string) => Promise<void>,
): Promise<void> {
  const socket = at(`${count++}.sock`)
  const args = ['-f', '-U', socket, ...options, 'file', at('disk.raw')]
  const child = spawn('nbdkit', args, { stdio: 'ignore' })
  const ended = once(child, 'close')
  try {
    for (let tries = 0; !existsSync(socket); tries++) {
      if (tries > 500 || child.exitCode !== null) throw new Error('nbdkit did not start')
      await sleep(10)
    }
    await work(socket)
  } finally {
    child.kill()
    await ended
  }
}

const x509 = (more = '') => [
  ...['--object', `tls-creds-x509,id=t,endpoint=client,dir=${at('pki')}${more}`],
]
const psk = (more = '') => [
  ...['--object', `tls-creds-psk,id=t,endpoint=client,dir=${at('psk')}${more}`],
]

function copy(objects: readonly string[], socket: string, more = '') {
  const nbd = `driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=${socket}`
  const source = `${nbd},file.tls-creds=t${more}`
  return runOurs(folder, ['convert', ...objects, '--image-opts', '-O', 'raw', source, 'copy.raw'])
}

nbdkit.describe('a disk of nbdkit behind TLS', () => {
  beforeAll(() => {
    writeFileSync(at('disk.raw'), content)
    makePki(at('pki'))
    const key = '0123456789abcdef'.repeat(4)
    mkdirSync(at('psk'))
    writeFileSync(at('psk/keys.psk'), `qemu:${key}\nalice:${key}\n`, { mode: 0o600 })
  })

  const certificates = ['--tls=require', `--tls-certificates=${at('pki')}`, '--tls-verify-peer']
  const keys = ['--tls=require', `--tls-psk=${at('psk/keys.psk')}`]

  it.each([
    ['certificates', certificates, x509(), ',file.tls-hostname=localhost'],
    [
      'TLS 1.2',
      certificates,
      x509(',priority=NORMAL:-VERS-TLS1.3'),
      ',file.tls-hostname=localhost',
    ],
    ['a shared key', keys, psk(), ''],
    ["another user's key", keys, psk(',username=alice'), ''],
  ])(`is read whole with %s (${seedNote})`, async (_, options, objects, more) => {
    await serving(options, async (socket) => {
      expect(await copy(objects, socket, more)).toEqual({ status: 0, stdout: '', stderr: '' })
      expect(readFileSync(at('copy.raw')).equals(content)).toBe(true)
    })
  })

  it.each([
    ['a name that is not the server', certificates, x509(), ',file.tls-hostname=elsewhere'],
    ['a key of nobody', keys, psk(',username=bob'), ''],
    ['certificates where it wants keys', keys, x509(), ',file.tls-hostname=localhost'],
  ])('is not read with %s', async (_, options, objects, more) => {
    await serving(options, async (socket) => {
      const { status, stderr } = await copy(objects, socket, more)
      expect([status, stderr.trim().split('\n').length]).toEqual([1, 1])
    })
  })

  it('is not read in the clear', async () => {
    await serving(certificates, async (socket) => {
      const { status, stderr } = await runOurs(folder, ['info', `nbd+unix:///?socket=${socket}`])
      expect(stderr).toContain('TLS')
      expect(status).toBe(1)
    })
  })
})
