/** Objects and their properties, by the same conversations with Debian's daemon and with ours. */

import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { command, QmpPair } from '../support/qmp-pair.ts'

const qsd = peer('qemu-storage-daemon')

const add = (type: string, id: string, options: object = {}) =>
  command('object-add', { 'qom-type': type, id, ...options })
const remove = (id: string) => command('object-del', { id })
const get = (path: string, property: string) => command('qom-get', { path, property })
const set = (path: string, property: string, value: unknown) =>
  command('qom-set', { path, property, value })
const list = (path: string) => command('qom-list', { path })

const pool = ['aio-max-batch', 'thread-pool-min', 'thread-pool-max']
const settings = ['poll-max-ns', 'poll-grow', 'poll-shrink', ...pool]

qsd.describe('objects', () => {
  let pair: QmpPair

  beforeAll(async () => {
    pair = await QmpPair.start(scratchFolder('qmp-objects'), qsd.path as string, (folder) => {
      writeFileSync(join(folder, 'secret'), 'from a file')
    })
  })

  afterAll(async () => {
    await pair?.[Symbol.asyncDispose]()
  })

  it('lists types alike', async () => {
    const types = (args: object) => command('qom-list-types', { ...args })
    const kinds = ['object', 'user-creatable', 'secret_common', 'iothread', 'chardev', 'no-such']
    await pair.same([
      types({}),
      types({ abstract: true }),
      ...kinds.map((kind) => types({ implements: kind })),
      ...kinds.map((kind) => types({ implements: kind, abstract: true })),
      types({ implements: 1 }),
    ])
  })

  it('lists the properties of types alike', async () => {
    // qemu-storage-daemon 7.2 dies of `qio-net-listener`.
    const types = [
      ...['iothread', 'main-loop', 'thread-context', 'secret', 'secret_keyring', 'throttle-group'],
      ...['tls-creds-x509', 'tls-creds-psk', 'tls-creds-anon', 'tls-cipher-suites', 'tls-creds'],
      ...['authz-simple', 'authz-list', 'authz-list-file', 'authz', 'pr-manager-helper'],
      ...['object', 'container', 'chardev', 'chardev-socket', 'chardev-null', 'event-loop-base'],
      ...['secret_common', 'interface', 'user-creatable', 'no-such', ''],
    ]
    await pair.same(types.map((typename) => command('qom-list-properties', { typename })))
  })

  it('takes the settings of threads alike', async () => {
    const values = [-1, 0, 7, 2 ** 40, 'x', 1.5, true, null]
    await pair.same([
      ...settings.flatMap((name) =>
        values.flatMap((value) => [add('iothread', 'i', { [name]: value }), remove('i')]),
      ),
      add('iothread', 'i', { 'thread-pool-min': 9, 'thread-pool-max': 3 }),
      add('iothread', 'i', { 'poll-max-ns': 5, 'thread-pool-min': 9, 'thread-pool-max': 9 }),
      add('iothread', 'j'),
      ...['i', 'j'].flatMap((id) => [...settings, 'type', 'no-such'].map((name) => get(id, name))),
      ...settings.flatMap((name) =>
        values.flatMap((value) => [set('j', name, value), get('j', name)]),
      ),
      set('j', 'type', 'x'),
      set('j', 'no-such', 1),
      add('main-loop', 'm', { 'aio-max-batch': -3 }),
      add('main-loop', 'm', { 'aio-max-batch': 3 }),
      add('main-loop', 'n'),
      list('m'),
      get('m', 'aio-max-batch'),
      set('m', 'thread-pool-max', 5),
      remove('m'),
      ...['i', 'j', 'j'].map(remove),
    ])
  })

  it('finds paths alike', async () => {
    await pair.same([
      add('iothread', 'i'),
      ...['/', '/objects', 'objects', '/objects/i', 'i', '//objects//i/', 'objects/i'].map(list),
      ...['', '/no-such', 'i/x', '/objects/i/type', '/chardevs/i', '/i'].map(list),
      get('/objects', 'i'),
      get('/', 'objects'),
      get('', 'type'),
      set('/objects', 'i', 1),
      remove('i'),
    ])
  })

  it('keeps secrets alike', async () => {
    const properties = ['data', 'file', 'format', 'loaded', 'keyid', 'iv', 'type']
    await pair.same([
      add('secret', 's', { data: 'YWJj', format: 'base64', loaded: true }),
      add('secret', 's', { data: 'YWJj', format: 'base64' }),
      add('secret', 'f', { file: 'secret' }),
      ...['s', 'f'].flatMap((id) => properties.map((name) => get(id, name))),
      ...properties.flatMap((name) => ['zz', 'raw', 1].map((value) => set('s', name, value))),
      ...properties.map((name) => get('s', name)),
      list('s'),
      ...['s', 'f'].map(remove),
    ])
  })

  it('reads keys of the kernel alike', async () => {
    const serials = await keys('varve', 'YWJj')
    const odd = [1, -1, 2 ** 31, '1', undefined]
    await pair.same([
      ...odd.map((serial) => add('secret_keyring', 'k', { serial })),
      ...serials.flatMap((serial) => [
        add('secret_keyring', 'k', { serial }),
        ...['serial', 'loaded', 'format', 'iv', 'keyid'].map((name) => get('k', name)),
        // What is in it shows by its length.
        add('secret', 'x', { data: 'x', keyid: 'k' }),
        set('k', 'serial', 5),
        get('k', 'serial'),
        list('k'),
        remove('k'),
      ]),
      add('secret_keyring', 'k', { serial: serials[1], format: 'base64' }),
    ])
  })

  it('limits throttle groups alike', async () => {
    const limits = (value: unknown) => set('t', 'limits', value)
    await pair.same([
      add('throttle-group', 't', { limits: { 'iops-total': 5 } }),
      add('throttle-group', 'u', { 'x-iops-total': -5 }),
      add('throttle-group', 'u', { 'x-bps-read': 7, 'x-bps-read-max': 9 }),
      ...['limits', 'x-iops-total', 'x-bps-read-max-length', 'x'].map((name) => get('t', name)),
      ...['limits', 'x-bps-read', 'x-bps-read-max'].map((name) => get('u', name)),
      list('t'),
      ...[{ 'iops-read': 5 }, { 'iops-total': 0, 'iops-read': 5 }, 5, { z: 5 }, []].map(limits),
      ...[{ 'iops-total': -1 }, { 'iops-read': 'x' }, { 'iops-read-max-length': 0 }].map(limits),
      get('t', 'limits'),
      set('t', 'x-bps-read', 5),
      set('t', 'x-bps-read', 'x'),
      ...['t', 'u'].map(remove),
    ])
  })
})

/** Keys of the session that this process and its children are in, holding the texts given. */
async function keys(...texts: readonly string[]): Promise<number[]> {
  const koffi = createRequire(import.meta.url)('koffi')
  const types = ['long', 'str', 'str', 'str', 'size_t', 'int']
  const call = koffi.load(null).func('syscall', 'long', types)
  const addKey = process.arch === 'x64' ? 248 : 217
  const sessionKeyring = -3
  return texts.map((text) => {
    const serial = call(addKey, 'user', `varve-test-${text}`, text, text.length, sessionKeyring)
    expect(serial).toBeGreaterThan(0)
    return serial
  })
}
