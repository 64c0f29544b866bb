/**
 * The same conversations with Debian's qemu-storage-daemon and with ours. What differs is listed
 * in `normalised` and in the tests' names, and nowhere else.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { schemaDifferences } from '../support/qmp-schema.ts'
import { type Message, QmpTalk, varveDaemon } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img')

qsd.describe('QMP', () => {
  const folder = scratchFolder('qmp')
  let theirs: QmpTalk
  let ours: QmpTalk

  beforeAll(async () => {
    for (const name of ['theirs', 'ours']) prepare(join(folder, name))
    theirs = await QmpTalk.start([qsd.path as string], join(folder, 'theirs'))
    ours = await QmpTalk.start(varveDaemon, join(folder, 'ours'))
  })

  afterAll(async () => {
    await theirs?.[Symbol.asyncDispose]()
    await ours?.[Symbol.asyncDispose]()
  })

  async function same(steps: readonly (Message | string | Uint8Array)[]): Promise<void> {
    for (const step of steps) {
      const answers = async (side: QmpTalk) => normalised((await side.say(step)).replies)
      const expected = await answers(theirs).catch((error) => error.message)
      const given = await answers(ours).catch((error) => `${error.message} (ours)`)
      expect(given, `answer to ${describe(step)}`).toEqual(expected)
    }
  }

  it('greets alike, but for the version', () => {
    expect(ours.greeting).toMatchObject({ QMP: { capabilities: ['oob'] } })
    expect(normalised([ours.greeting])).toEqual(normalised([theirs.greeting]))
  })

  it('negotiates alike', async () => {
    await same([
      { execute: 'query-version' },
      { execute: 'no-such', id: 1 },
      { foo: 1, id: 5 },
      '[]',
      { 'exec-oob': 'query-version', id: 5 },
      command('qmp_capabilities', { enable: ['foo'] }),
      command('qmp_capabilities', { enable: [1] }),
      command('qmp_capabilities', { enable: 1 }),
      command('qmp_capabilities', { foo: 1 }),
      { execute: 'qmp_capabilities', arguments: { enable: ['oob'] }, id: [1, { a: null }] },
      { execute: 'qmp_capabilities' },
    ])
  })

  it('refuses requests of a wrong form alike', async () => {
    await same([
      ...['[]', '1 ', '"x"', '{}', 'null ', '{"execute":1}', '{"execute":null}'],
      '{"execute":"query-version","arguments":1}',
      '{"execute":"query-version","arguments":null}',
      '{"execute":"query-version","foo":1,"id":5}',
      '{"execute":"query-version","":1}',
      { execute: 'query-version', 'exec-oob': 'a', id: 5 },
      { 'exec-oob': 'query-version' },
      { 'exec-oob': 'qmp_capabilities' },
      { 'exec-oob': 'no-such' },
      { 'exec-oob': 1 },
      { execute: 'query-version', id: null },
      { execute: 'no-such', id: 'x' },
      `{"execute":"no-such","id":{"b":1,"a":[],"c":{},"d":"\\u0007é😀\\u007f","e":1.5,"f":1e3}}`,
      `{'execute':'a\\'b','id':'"'}`,
      '{"execute":"query-version"}{"execute":"no-such"}[1]',
      '{\n\t"execute" :\r\n "query-version" }',
    ])
  })

  it('reads broken JSON alike', async () => {
    await same([
      ...['garbage ', 'tru ', '[1 2]', '[,]', '{]}', '{"a" 1}', '{"a":}', '{1:2}', '{"a":1,}'],
      ...['[1}]', '{"a":[}]', '{"a":1:2}', '{"a":1,"a":2}', '{"a":tr}', ']', '}', ',', ':', '[]]'],
      ...['"\\q"', '"\\ud800"', '"\\ud83dx"', '"\\u12"', '"\\ufffe"', '"\\u0000"'],
      ...[
        '01 ',
        '-a ',
        '1. ',
        '1.5e{',
        '+1 ',
        '0x10 ',
        'A ',
        '_a ',
        'a-b ',
        '%d ',
        '\u0000 ',
        '// x\n',
      ],
      ...['"a\u0001" foo bar', '"a\nb"c"', '{"a": "x", "b": \\ }'],
      Uint8Array.of(0x7b, 0x22, 0x61, 0xff),
      Uint8Array.of(0x7b, 0x22, 0xfe),
      Uint8Array.of(0x22, 0xc3, 0x28, 0x22),
      Uint8Array.of(0x22, 0xed, 0xa0, 0x80, 0x22),
      `${'['.repeat(1024)}${']'.repeat(1024)}`,
      '[foo]',
    ])
  })

  it('checks arguments alike', async () => {
    const add = (args: Message) => command('blockdev-add', args)
    const start = (addr: unknown) => command('nbd-server-start', { addr })
    await same([
      command('blockdev-del', {}),
      command('blockdev-del', { 'node-name': 1 }),
      command('blockdev-del', { 'node-name': 'a', x: 1 }),
      command('blockdev-del', { 'node-name': 'a' }),
      add({}),
      add({ driver: 'foo' }),
      add({ driver: 1 }),
      add({ driver: 'file' }),
      add({ driver: 'file', filename: '/nonexistent' }),
      add({ driver: 'file', filename: '/nonexistent', 'node-name': 'f' }),
      add({ driver: 'file', filename: 'a.raw', 'node-name': 'f', x: 1 }),
      add({ driver: 'file', filename: 'a.raw', 'node-name': '1a' }),
      add({ driver: 'file', filename: 'a.raw', 'node-name': 'a'.repeat(32) }),
      add({ driver: 'raw', file: 'g', 'node-name': 'r' }),
      add({ driver: 'raw', file: { driver: 'file', filename: 1 }, 'node-name': 'r' }),
      add({ driver: 'raw', file: { driver: 'file', filename: 'a.raw', y: {} }, 'node-name': 'r' }),
      add({ driver: 'raw', file: { driver: 'file' }, 'node-name': 'r' }),
      add({ driver: 'raw', file: [], 'node-name': 'r' }),
      add({ driver: 'raw', file: null, 'node-name': 'r' }),
      add({ driver: 'raw', 'node-name': 'r' }),
      add({ driver: 'null-co', 'node-name': 'm', size: 1.5 }),
      '{"execute":"blockdev-add","arguments":{"driver":"null-co","size":18446744073709551615}}',
      add({ driver: 'null-co', 'node-name': 'm', cache: { direct: 1 } }),
      add({ driver: 'null-co', 'node-name': 'm', cache: 1 }),
      add({ driver: 'null-co', 'node-name': 'm', 'detect-zeroes': 'unmap' }),
      command('nbd-server-start', {}),
      ...[{}, { type: 'foo' }, { type: 'unix' }, { type: 'unix', path: 'x' }].map(start),
      start({ type: 'unix', data: {} }),
      start({ type: 'unix', data: { path: '/nonexistent/x' } }),
      start({ type: 'inet', data: { host: '127.0.0.1' } }),
      start({ type: 'inet', data: { host: '127.0.0.1', port: 1 } }),
      command('nbd-server-start', {
        addr: { type: 'unix', data: { path: 'n.sock' } },
        'max-connections': -2,
      }),
      command('nbd-server-start', {
        addr: { type: 'unix', data: { path: 'n.sock' } },
        'tls-creds': 'foo',
      }),
    ])
  })

  it('opens, describes and closes nodes alike', async () => {
    const file = { driver: 'file', filename: 'a.raw', 'node-name': 'f' }
    await same([
      command('blockdev-add', file),
      command('blockdev-add', file),
      command('blockdev-add', { driver: 'raw', file: 'f', 'node-name': 'r', 'read-only': 'on' }),
      command('blockdev-add', { driver: 'raw', file: 'f', 'node-name': 'r', discard: 'foo' }),
      command('blockdev-add', { driver: 'raw', file: 'f', 'node-name': 'r', offset: -1 }),
      command('blockdev-add', { driver: 'raw', file: 'f', 'node-name': 'r', offset: '1' }),
      command('blockdev-add', { driver: 'raw', file: 'f', 'node-name': 'r' }),
      command('blockdev-add', {
        driver: 'qcow2',
        'node-name': 'q',
        file: { driver: 'file', filename: 'b.qcow2', 'node-name': 'qf' },
      }),
      command('query-named-block-nodes'),
      command('query-named-block-nodes', { flat: true }),
      command('query-block'),
      command('query-blockstats'),
      command('blockdev-del', { 'node-name': 'f' }),
      command('block_resize', { 'node-name': 'zz', size: 1 }),
      command('block_resize', { size: 1 }),
      command('block_resize', { 'node-name': 'r', size: 2 * MiB }),
      command('blockdev-del', { 'node-name': 'q' }),
      command('blockdev-del', { 'node-name': 'r' }),
      command('blockdev-del', { 'node-name': 'f' }),
      command('query-named-block-nodes'),
    ])
  })

  it('exports alike', async () => {
    const node = { driver: 'raw', 'node-name': 'r', file: { driver: 'file', filename: 'a.raw' } }
    const readOnly = { driver: 'null-co', 'node-name': 'ro', 'read-only': true }
    const add = (args: Message) =>
      command('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'r', ...args })
    const remove = (args: Message) => command('block-export-del', args)
    const start = command('nbd-server-start', { addr: { type: 'unix', data: { path: 'n.sock' } } })
    await same([
      command('blockdev-add', node),
      command('blockdev-add', readOnly),
      command('nbd-server-stop'),
      add({}),
      command('nbd-server-add', { device: 'r' }),
      start,
      start,
      command('block-export-add', { id: 'e', 'node-name': 'r' }),
      add({ type: 'foo' }),
      add({ 'node-name': 'q' }),
      add({ id: '1e' }),
      add({ bitmaps: ['b'] }),
      add({ iothread: 'x' }),
      add({ 'node-name': 'ro', writable: true }),
      add({ description: 'd', writable: true }),
      add({ name: 'x' }),
      add({ id: 'f' }),
      add({ id: 'f', name: 'rr', 'allocation-depth': true, writethrough: true }),
      command('query-block-exports'),
      command('blockdev-del', { 'node-name': 'r' }),
      remove({ id: 'zz' }),
      remove({ id: 'e', mode: 'x' }),
      remove({ id: 'e' }),
      remove({ id: 'e' }),
      command('nbd-server-add', { device: 'r' }),
      command('nbd-server-add', { device: 'r' }),
      command('nbd-server-add', { device: 'zz' }),
      command('query-block-exports'),
      command('nbd-server-remove', { name: 'zz' }),
      command('nbd-server-remove', { name: 'r' }),
      command('nbd-server-remove', { name: 'rr' }),
      command('nbd-server-add', { device: 'r' }),
      command('nbd-server-stop'),
      command('query-block-exports'),
      command('blockdev-del', { 'node-name': 'ro' }),
      command('blockdev-del', { 'node-name': 'r' }),
    ])
  })

  it('runs jobs alike, apart from pauses for draining', async () => {
    const node = (name: string) =>
      command('blockdev-add', {
        driver: 'raw',
        'node-name': name,
        file: { driver: 'file', filename: `${name}.raw` },
      })
    const backup = (args: Message) =>
      command('blockdev-backup', { 'job-id': 'j', device: 's', target: 't', sync: 'full', ...args })
    const on = (verb: string) => command(verb, { id: 'j' })
    const onBlockJob = (verb: string, args: Message = {}) => command(verb, { device: 'j', ...args })
    await same([
      ...['s', 't', 'big'].map(node),
      command('blockdev-backup', { 'job-id': 'j', device: 's', target: 't' }),
      backup({ target: 'zz' }),
      backup({ device: 'zz' }),
      backup({ sync: 'foo' }),
      backup({ 'job-id': '1j' }),
      command('blockdev-backup', { device: 's', target: 't', sync: 'full' }),
      backup({ speed: -1 }),
      backup({ target: 's' }),
      backup({ target: 'big' }),
      backup({ sync: 'incremental' }),
      backup({ sync: 'bitmap' }),
      backup({ bitmap: 'x' }),
      ...['pause', 'resume', 'cancel', 'complete', 'finalize', 'dismiss'].map((verb) =>
        command(`job-${verb}`, { id: 'zz' }),
      ),
      ...['pause', 'resume', 'cancel', 'complete'].map((verb) =>
        command(`block-job-${verb}`, { device: 'zz' }),
      ),
      command('block-job-finalize', { id: 'zz' }),
      command('block-job-set-speed', { device: 'zz', speed: 1 }),
      backup({ speed: MiB }),
      ...[on('job-complete'), on('job-dismiss'), on('job-finalize')],
      on('job-resume'),
      onBlockJob('block-job-complete'),
      onBlockJob('block-job-set-speed', { speed: -1 }),
      onBlockJob('block-job-set-speed', { speed: 2 * MiB }),
      onBlockJob('block-job-cancel'),
      command('query-jobs'),
      command('query-block-jobs'),
    ])
  })

  it('finishes jobs alike', async () => {
    const finish = {
      'job-id': 'k',
      device: 's',
      target: 't',
      sync: 'full',
      'auto-finalize': false,
      'auto-dismiss': false,
    }
    const sides = [theirs, ours]
    for (const side of sides) {
      await side.say(command('blockdev-backup', finish))
      await untilStatus(side, 'k', 'pending')
    }
    await same([
      command('query-jobs'),
      command('query-block-jobs'),
      command('job-pause', { id: 'k' }),
      command('job-dismiss', { id: 'k' }),
      command('job-finalize', { id: 'k' }),
    ])
    for (const side of sides) await untilStatus(side, 'k', 'concluded')
    await same([
      command('query-jobs'),
      command('job-cancel', { id: 'k' }),
      command('job-finalize', { id: 'k' }),
      command('job-dismiss', { id: 'k' }),
      command('query-jobs'),
    ])
    for (const side of ['ours', 'theirs']) {
      execFileSync('cmp', [join(folder, side, 's.raw'), join(folder, side, 't.raw')])
    }
  })

  it('tells of a job with the same events, apart from pauses for draining', async () => {
    const sequences = await Promise.all(
      [theirs, ours].map(async (side) => {
        const events: Message[] = []
        const step = async (what: Message) => events.push(...(await side.say(what)).events)
        const args = { 'job-id': 'l', device: 's', target: 't', sync: 'full' }
        await step(command('blockdev-backup', args))
        if (!events.some((event) => isStatus(event, 'l', 'null'))) {
          events.push(...(await side.event((event) => isStatus(event, 'l', 'null'))))
        }
        await step(command('blockdev-backup', { ...args, speed: MiB, 'auto-dismiss': false }))
        await step(command('job-cancel', { id: 'l' }))
        await untilStatus(side, 'l', 'concluded', events)
        await step(command('query-jobs'))
        await step(command('job-dismiss', { id: 'l' }))
        return events.filter((event) => !isDrain(event)).map(withoutTime)
      }),
    )
    expect(sequences[1]).toEqual(sequences[0])
  })

  it('makes images alike', async () => {
    const create = (options: Message) =>
      command('blockdev-create', { 'job-id': 'c', options: { size: MiB, ...options } })
    const data = { driver: 'file', filename: 'new.data' }
    const attempts = [
      create({ driver: 'file', filename: 'new.qcow2', size: 0 }),
      create({ driver: 'file', filename: '/nonexistent/new' }),
      create({ driver: 'qcow2', file: 'zz' }),
      create({ driver: 'qcow2', file: 'new', 'cluster-size': 100 }),
      create({ driver: 'qcow2', file: 'new', 'extended-l2': true, 'cluster-size': 8192 }),
      create({ driver: 'qcow2', file: 'new', 'extended-l2': true }),
      create({ driver: 'qcow2', file: 'new', 'data-file-raw': true }),
      create({ driver: 'file', filename: 'new.data', size: 0 }),
      create({ driver: 'qcow2', file: 'new', 'data-file': data, 'data-file-raw': true }),
      create({ driver: 'qcow2', file: 'new', version: 'v2', 'cluster-size': 4096 }),
    ]
    await same([
      create({ driver: 'raw' }),
      create({ driver: 'qcow2' }),
      command('blockdev-create', { 'job-id': '1', options: { driver: 'raw' } }),
    ])
    for (const [index, attempt] of attempts.entries()) {
      await same([attempt])
      for (const side of [theirs, ours]) await untilStatus(side, 'c', 'concluded')
      await same([attempt, command('query-jobs'), command('query-block-jobs')])
      await same([command('job-dismiss', { id: 'c' })])
      const file = { driver: 'file', filename: 'new.qcow2', 'node-name': 'new' }
      if (index === 0) await same([command('blockdev-add', file)])
    }
    await same([command('blockdev-del', { 'node-name': 'new' })])
    const images = ['theirs', 'ours'].map((side) => join(folder, side, 'new.qcow2'))
    execFileSync('qemu-img', ['compare', '-q', ...images])
    execFileSync('qemu-img', ['check', '-q', images[1]])
  })

  it('keeps objects alike', async () => {
    const socket = { type: 'unix', data: { path: 'tls.sock' } }
    const tls = { 'qom-type': 'tls-creds-x509', id: 't', endpoint: 'server' }
    const secret = { 'qom-type': 'secret', id: 'a', data: 'x' }
    await same([
      command('object-add', secret),
      command('object-add', secret),
      command('object-add', { ...secret, id: '1a' }),
      command('object-add', { ...secret, id: 'b', file: 'y' }),
      command('object-add', { 'qom-type': 'secret', id: 'b' }),
      command('object-add', { 'qom-type': 'secret', id: 'b', file: '/nonexistent' }),
      command('object-add', { ...secret, id: 'b', data: '%%', format: 'base64' }),
      command('object-add', { ...secret, id: 'b', data: 'eA==', format: 'base64' }),
      command('object-add', { 'qom-type': 'iothread', id: 'i' }),
      command('nbd-server-start', { addr: socket, 'tls-creds': 'a' }),
      command('object-add', { ...tls, dir: '/nonexistent' }),
      command('object-add', tls),
      command('object-del', { id: 'i' }),
      command('object-del', { id: 'zz' }),
      command('qom-list-types', { implements: 'secret' }),
      command('query-chardev'),
    ])
  })

  it('describes the same commands and events, down to nested arguments, but for these', async () => {
    const schemas = await Promise.all(
      [theirs, ours].map(async (side) => {
        const { replies } = await side.say(command('query-qmp-schema'))
        return replies[0].return
      }),
    )
    const differences = [
      'blockdev-add.active: ours',
      'blockdev-add.driver: value memory is ours',
      'blockdev-add.driver: value vma is ours',
      'blockdev-add: variant memory is ours',
      'blockdev-add: variant vma is ours',
      'backup: ours',
      'query-backup: ours',
      'backup-cancel: ours',
      'blockdev-set-active: ours',
      // QEMU's daemon has the type, and no way to make one.
      'object-add.qom-type: value authz-list-file is ours',
      'object-add: variant authz-list-file is ours',
    ]
    expect(schemaDifferences(schemas[0], schemas[1]).sort()).toEqual(differences.sort())
  })

  it('ends alike', async () => {
    expect(await ours.quit()).toEqual(await theirs.quit())
  })
})

function prepare(folder: string): void {
  mkdirSync(folder)
  writeFileSync(join(folder, 'a.raw'), '')
  truncateSync(join(folder, 'a.raw'), MiB)
  writeFileSync(join(folder, 's.raw'), Buffer.alloc(8 * MiB, 'varve'))
  writeFileSync(join(folder, 't.raw'), Buffer.alloc(8 * MiB))
  writeFileSync(join(folder, 'big.raw'), Buffer.alloc(9 * MiB))
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', join(folder, 'b.qcow2'), '1M'])
  // Whole clusters; ours makes it so when it opens the image, QEMU when it first writes.
  truncateSync(join(folder, 'b.qcow2'), MiB)
}

function command(execute: string, args?: Message): Message {
  return args ? { execute, arguments: args } : { execute }
}

function describe(step: Message | string | Uint8Array): string {
  if (step instanceof Uint8Array) return Buffer.from(step).toString('hex')
  return (typeof step === 'string' ? step : JSON.stringify(step)).slice(0, 200)
}

/** Replies without what may differ: the version; names that are chosen; how busy a job is. */
function normalised(replies: readonly Message[]): unknown {
  const text = JSON.stringify(replies, (key, value) => {
    if (key === 'qemu' || key === 'package') return 'version'
    // Both are states of a moment, and the job is not at the same place in both daemons.
    if (key === 'busy') return undefined
    return value
  })
  return JSON.parse(text.replaceAll(/#block\d+/g, '#block'))
}

function isStatus(event: Message, id: string, status: string): boolean {
  const data = event.data as Message
  return event.event === 'JOB_STATUS_CHANGE' && data.id === id && data.status === status
}

/** QEMU pauses jobs visibly while it changes the graph. */
function isDrain(event: Message): boolean {
  const { status } = event.data as Message
  return event.event === 'JOB_STATUS_CHANGE' && (status === 'paused' || status === 'running')
}

function withoutTime({ event, data }: Message): Message {
  // How far a cancelled job came is a matter of time.
  const { offset: _, ...rest } = data as Message
  return { event, data: rest }
}

async function untilStatus(
  side: QmpTalk,
  id: string,
  status: string,
  events: Message[] = [],
): Promise<void> {
  for (;;) {
    const answers = await side.say(command('query-jobs'))
    events.push(...answers.events)
    const jobs = answers.replies[0].return as Message[]
    if (jobs.some((job) => job.id === id && job.status === status)) return
  }
}
