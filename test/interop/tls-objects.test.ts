/**
 * Credentials and authorizations as objects of the daemon, by the same conversations with Debian's
 * and with ours; and a disk that goes from one daemon to the other over TLS.
 */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { makePki } from '../support/certificates.ts'
import { scratchFolder } from '../support/folder.ts'
import { command, QmpPair } from '../support/qmp-pair.ts'
import { QmpTalk, varveDaemon } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon')
const folder = scratchFolder('tls-objects')

const add = (type: string, id: string, options: object = {}) =>
  command('object-add', { 'qom-type': type, id, ...options })
const remove = (id: string) => command('object-del', { id })
const get = (path: string, property: string) => command('qom-get', { path, property })
const set = (path: string, property: string, value: unknown) =>
  command('qom-set', { path, property, value })
const start = (options: object) =>
  command('nbd-server-start', { addr: { type: 'unix', data: { path: 'nbd.sock' } }, ...options })
const stop = command('nbd-server-stop')
const connect = (options: object) =>
  command('blockdev-add', {
    driver: 'nbd',
    'node-name': 'n',
    server: { type: 'unix', path: 'nowhere' },
    ...options,
  })

const credentials = ['tls-creds-x509', 'tls-creds-psk', 'tls-creds-anon']
const common = ['endpoint', 'dir', 'verify-peer', 'priority', 'loaded', 'no-such']
const own = ['sanity-check', 'passwordid', 'username']

qsd.describe('objects of TLS', () => {
  let pair: QmpPair
  const pki = makePki(join(folder, 'pki'))
  writeFileSync(pki.at('keys.psk'), 'qemu:00112233445566778899aabbccddeeff\n')

  beforeAll(async () => {
    pair = await QmpPair.start(join(folder, 'pair'), qsd.path as string, (each) => {
      cpSync(pki.folder, join(each, 'pki'), { recursive: true })
      mkdirSync(join(each, 'empty'))
    })
  })

  afterAll(async () => {
    await pair?.[Symbol.asyncDispose]()
  })

  it.each(credentials)('%s is made, looked at and removed alike', async (type) => {
    await pair.same([
      add(type, 'a'),
      add(type, 'b', { dir: 'empty' }),
      add(type, 'c', { dir: 'nowhere', endpoint: 'server' }),
      add(type, 'd', { dir: 'pki', endpoint: 'both' }),
      add(type, 'd', { dir: 1 }),
      add(type, 'd', { dir: 'pki', bogus: 1 }),
      add(type, 'd', { dir: 'pki', loaded: true }),
      add(type, 's', { dir: 'pki', endpoint: 'server', priority: 'NORMAL' }),
      add(type, 'c', { dir: 'pki', endpoint: 'client', 'verify-peer': false }),
      add(type, 'c', { dir: 'pki', endpoint: 'client' }),
      command('qom-list', { path: 's' }),
      ...['s', 'c'].flatMap((id) => [...common, ...own].map((name) => get(id, name))),
      set('c', 'dir', 'elsewhere'),
      // QEMU's daemon dies of what it frees when the endpoint of the other kinds was changed.
      ...(type === 'tls-creds-x509' ? [set('c', 'endpoint', 'server')] : []),
      set('c', 'endpoint', 'x'),
      set('c', 'loaded', true),
      get('c', 'endpoint'),
      ...['a', 'b', 'c', 'd', 's'].map(remove),
    ])
  })

  it('authorizations are made, looked at and removed alike', async () => {
    const rule = { match: 'a', policy: 'allow' }
    await pair.same([
      add('authz-simple', 'a'),
      add('authz-simple', 'a', { identity: 'x' }),
      get('a', 'identity'),
      add('authz-list', 'b', { policy: 'maybe' }),
      add('authz-list', 'b', { rules: [{ match: 'a' }] }),
      add('authz-list', 'b', { rules: [{ policy: 'deny' }] }),
      add('authz-list', 'b', { rules: [{ ...rule, format: 'regex' }] }),
      add('authz-list', 'b', { rules: rule }),
      add('authz-list', 'b', { rules: [rule, { ...rule, format: 'glob' }] }),
      get('b', 'rules'),
      get('b', 'policy'),
      add('authz-listfile', 'c', { filename: 'x' }),
      add('authz-pam', 'c', { service: 'x' }),
      command('qom-list', { path: '/objects' }),
      ...['a', 'b', 'c'].map(remove),
    ])
  })

  it('the server takes the credentials that are for it, and lets go of their names', async () => {
    await pair.same([
      add('tls-creds-x509', 's', { dir: 'pki', endpoint: 'server' }),
      add('tls-creds-x509', 'c', { dir: 'pki', endpoint: 'client' }),
      add('authz-simple', 'z', { identity: 'x' }),
      start({ 'tls-creds': 'nix' }),
      start({ 'tls-creds': 'z' }),
      start({ 'tls-creds': 'c' }),
      start({ 'tls-creds': 's', 'tls-authz': 'z' }),
      start({ 'tls-creds': 's' }),
      remove('s'),
      remove('z'),
      stop,
      start({ 'tls-authz': 'nix' }),
      stop,
      start({ 'tls-creds': 's' }),
      remove('c'),
    ])
  })

  it('the client takes the credentials that are for it', async () => {
    await pair.same([
      add('tls-creds-x509', 's', { dir: 'pki', endpoint: 'server' }),
      add('tls-creds-x509', 'c', { dir: 'pki', endpoint: 'client' }),
      add('authz-simple', 'z', { identity: 'x' }),
      connect({ 'tls-creds': 'nix' }),
      connect({ 'tls-creds': 'z' }),
      connect({ 'tls-creds': 's' }),
      connect({ 'tls-creds': 'c' }),
      connect({ 'tls-creds': 'c', 'tls-hostname': 'localhost' }),
      connect({ 'tls-hostname': 'localhost' }),
      ...['s', 'c', 'z'].map(remove),
    ])
  })

  it.each([
    ['ours', 'theirs'],
    ['theirs', 'ours'],
  ])('a disk of %s is written over TLS by %s', async (server, client) => {
    const programs = { ours: varveDaemon, theirs: [qsd.path as string] } as const
    const name = server === 'ours' ? 'a' : 'b'
    const each = ['serving', 'using'].map((role) => join(folder, `${name}-${role}`))
    for (const path of each) mkdirSync(path)
    const socket = join(folder, `${name}.sock`)
    const dir = pki.folder
    await using serving = await QmpTalk.start([...programs[server as 'ours']], each[0])
    await using consumer = await QmpTalk.start([...programs[client as 'ours']], each[1])
    const identity = 'C=CH,O=varve,CN=the client'
    await good(serving, [
      command('qmp_capabilities'),
      add('tls-creds-x509', 's', { dir, endpoint: 'server' }),
      add('authz-simple', 'z', { identity }),
      command('nbd-server-start', {
        addr: { type: 'unix', data: { path: socket } },
        'tls-creds': 's',
        'tls-authz': 'z',
      }),
      command('blockdev-add', { driver: 'null-co', 'node-name': 'd', size: 65536 }),
      command('block-export-add', { type: 'nbd', id: 'd', 'node-name': 'd', writable: true }),
    ])
    const options = {
      driver: 'nbd',
      server: { type: 'unix', path: socket },
      export: 'd',
      'tls-creds': 'c',
    }
    await good(consumer, [
      command('qmp_capabilities'),
      add('tls-creds-x509', 'c', { dir, endpoint: 'client' }),
      command('blockdev-add', { ...options, 'node-name': 'n', 'tls-hostname': 'localhost' }),
    ])
    // The name of the object is looked up when a client comes.
    await good(serving, [remove('z')])
    const late = { ...options, 'node-name': 'm', 'tls-hostname': 'localhost' }
    const { replies } = await consumer.say(command('blockdev-add', late))
    expect(replies[0]).toMatchObject({ error: { class: 'GenericError' } })
  })
})

async function good(talk: QmpTalk, steps: readonly ReturnType<typeof command>[]): Promise<void> {
  for (const step of steps) {
    const { replies } = await talk.say(step)
    expect(replies, JSON.stringify(step)).toEqual([{ return: {} }])
  }
}
