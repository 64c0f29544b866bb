/** blkdebug beside QEMU's: the same rules make the same requests fail and wait. */
import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ioTypes } from '../../src/filter/blkdebug/rule-options.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { qemuIo, realIo, varveIo } from '../support/io-tools.ts'
import { Random, seedNote } from '../support/random.ts'

const folder = scratchFolder('blkdebug')
const qemuImg = peer('qemu-img', 'qemu-io')
let runs = 0

interface Conversation {
  readonly config?: string
  /** Of the image; `{}` stands for its name. */
  readonly args: readonly string[]
  readonly format?: 'raw' | 'qcow2'
}

/** The two programs work on the same name, one after the other, each on a new image. */
async function sameOfBoth({ config = '', args, format = 'raw' }: Conversation): Promise<string> {
  const image = join(folder, `image${runs++}`)
  const rules = `${image}.conf`
  writeFileSync(rules, config)
  const make = async () => {
    writeFileSync(image, '')
    if (format === 'raw') truncateSync(image, 1024 * 1024)
    else await qemuImg.run('create', '-q', '-f', format, image, '1M')
  }
  const own = args.map((arg) => arg.replaceAll('{}', image).replaceAll('CONF', rules))
  await make()
  const expected = await realIo(own)
  await make()
  const found = await varveIo(own)
  expect(found, `${own.join(' ')}\n${config}`).toEqual(expected)
  return found.stdout + found.stderr
}

const commands = (...lines: readonly string[]) => lines.flatMap((line) => ['-c', line])
const image = (options: string) => ['--image-opts', `driver=blkdebug,image.filename={},${options}`]

qemuIo.describe('blkdebug is opened as QEMU opens it', () => {
  test.each([
    'blkdebug::{}',
    'blkdebug:CONF:{}',
    'blkdebug:/nonexistent:{}',
    'blkdebug:{}',
    'blkdebug:',
    'json:{"driver":"blkdebug","image":{"filename":"{}"},"align":4096}',
    'json:{"driver":"raw","file":{"driver":"blkdebug","image":{"filename":"{}"}}}',
    'json:{"driver":"blkdebug","image":{"filename":"{}"},"inject-error":[{"event":"pwritev"}]}',
    'json:{"driver":"blkdebug","image":{"filename":"{}"},"set-state":[{"event":"x"}]}',
  ])('%s', async (name) => {
    const format = name.startsWith('json:') ? [] : ['-f', 'raw']
    await sameOfBoth({ args: [...commands('length', 'write 0 1k', 'read 0 1k'), ...format, name] })
  })

  test.each([
    'foo=1',
    'align=3',
    'align=4096,max-transfer=1000',
    'max-write-zero=1000,opt-write-zero=2048',
    'max-discard=100,opt-discard=64',
    'align=1024,opt-discard=512',
    'align=4k',
    'inject-error.0.event=foo',
    'inject-error.0.errno=5',
    'inject-error.0.event=read_aio,inject-error.0.iotype=x',
    'inject-error.0.event=read_aio,inject-error.0.errno=x',
    'inject-error.0.event=read_aio,inject-error.0.foo=1',
    'inject-error.0.event=none,inject-error.0.once=x',
    'inject-error.0.event=none,inject-error.0.errno=0x1c,inject-error.0.once=on',
    'inject-error.0.event=none,inject-error.0.errno=034,inject-error.0.once=on',
    'inject-error.1.event=none',
    'inject-error.a.b.c=4',
    'inject-error=3',
    'set-state.0.event=read_aio',
    'set-state.0.event=read_aio,set-state.0.sector=3',
    'take-child-perms.0=foo',
    'take-child-perms.0=write',
    'unshare-child-perms.0=resize,unshare-child-perms.1=write',
  ])('with %s', async (options) => {
    await sameOfBoth({ args: [...commands('write 0 4k', 'read 0 4k'), ...image(options)] })
  })

  test.each([
    '',
    '# nothing\n\n',
    '[inject-error]\nevent = "read_aio"\n',
    '[inject-error "name"]\nevent = "read_aio"\nerrno = "28"\n',
    '[inject-error]\nevent = "read_aix"\n',
    '[inject-error]\nerrno = "5"\n',
    '[inject-error]\nevent = "read_aio"\nerrno = 5\n',
    '[inject-error]\nevent = "read_aio"\nerrno="5"\n',
    '[inject-error]\nevent = "read_aio"\niotype = "x"\n',
    '[inject-error]\nevent = "read_aio"\niotype = "flush"\n',
    '[inject-error]\nevent\n',
    '[inject-errors]\nevent = "read_aio"\n',
    'errno = "5"\n',
    '[set-state]\nevent = "read_aio"\nstate = "1"\nnew_state = "2"\n',
  ])('with the rules %j', async (config) => {
    const args = [...commands('write 0 4k', 'read 0 4k'), '-f', 'raw', 'blkdebug:CONF:{}']
    await sameOfBoth({ config, args })
  })
})

qemuIo.describe('breakpoints', () => {
  test.each([
    [['break pwritev A', 'aio_write 0 512', 'wait_break A', 'resume A', 'aio_flush', 'read 0 512']],
    [['break x A', 'remove_break A', 'resume A']],
    [
      [
        'break read_aio A',
        'break read_aio B',
        'aio_read 0 512',
        'wait_break A',
        'resume A',
        'resume B',
      ],
    ],
    [['break write_aio A', 'aio_write 0 512', 'wait_break A', 'remove_break A', 'aio_flush']],
    [['break read_aio A', 'remove_break A', 'read 0 512']],
  ])('%j', async (lines) => {
    await sameOfBoth({ args: [...commands(...lines, 'aio_flush'), '-f', 'raw', 'blkdebug::{}'] })
  })

  test('there are none without blkdebug', async () => {
    await sameOfBoth({ args: [...commands('break pwritev A', 'resume A'), '-f', 'raw', '{}'] })
  })
})

// No `align` beyond a sector: QEMU aborts on discards that are not aligned to it, and goes on when
// it cannot read the surroundings of a write, which varve does not.
qemuIo.it('rules of all kinds make the same requests fail', async () => {
  const random = new Random()
  for (let round = 0; round < 20; round++) {
    const config = randomRules(random, rawEvents)
    const lines = Array.from({ length: 12 }, () => randomCommand(random, allVerbs.slice(0, 6)))
    const options = 'config=CONF'
    await sameOfBoth({
      config,
      args: ['-t', 'writeback', ...commands(...lines), ...image(options)],
    })
  }
})

qemuIo.it('a raw disk above tells of its requests', async () => {
  const random = new Random()
  for (let round = 0; round < 20; round++) {
    const config = randomRules(random, [...rawEvents, 'read_aio', 'write_aio'])
    const lines = Array.from({ length: 12 }, () => randomCommand(random, allVerbs))
    await sameOfBoth({ config, args: [...commands(...lines), '-f', 'raw', 'blkdebug:CONF:{}'] })
  }
})

const noted = ` (${seedNote})`

qemuImg.describe(`qcow2 tells what it is about to do${noted}`, () => {
  const fill = ['write -P 1 0 192k', 'flush']
  const once = (event: string, more = '') =>
    `[inject-error]\nevent = "${event}"\nonce = "on"\n${more}\n`

  test.each([
    ['read_aio', ['write 0 64k', 'read 0 64k', 'read 0 64k']],
    ['write_aio', ['write 0 64k', 'write 0 64k', 'read 0 64k']],
    ['cluster_alloc', ['write 0 64k', 'write 0 64k', 'read 0 64k']],
    ['read_compressed', ['write -c 0 64k', 'read 0 64k', 'read 0 64k']],
    // QEMU cannot repeat such a write; varve can.
    ['cluster_alloc_bytes', ['write -c 0 64k']],
    ['write_compressed', ['write -c 0 64k']],
    ['l2_update', ['write 0 64k', 'flush', 'flush', 'read 0 64k']],
  ])('%s', async (event, lines) => {
    const config = once(event)
    const args = [...commands(...lines), '-f', 'qcow2', 'blkdebug:CONF:{}']
    const said = await sameOfBoth({ config, args, format: 'qcow2' })
    expect(said).toContain('failed: Input/output error')
  })

  test('l2_load, by the first read after opening', async () => {
    const image = join(folder, `loaded${runs++}`)
    const rules = `${image}.conf`
    writeFileSync(rules, once('l2_load'))
    await qemuImg.run('create', '-q', '-f', 'qcow2', image, '1M')
    await realIo([...commands(...fill), image])
    const args = [
      ...commands('read 0 64k', 'read 0 64k'),
      '-f',
      'qcow2',
      `blkdebug:${rules}:${image}`,
    ]
    expect(await varveIo(args)).toEqual(await realIo(args))
  })
})

/** Events that blkdebug and its parent meet whatever the format. */
const rawEvents = [
  'pwritev',
  'pwritev_done',
  'pwritev_zero',
  'none',
  'flush_to_disk',
  'flush_to_os',
]

function randomRules(random: Random, events: readonly string[]): string {
  const rules = Array.from({ length: 1 + random.below(5) }, () => {
    const state = random.chance(0.5) ? `state = "${1 + random.below(3)}"\n` : ''
    const head = `event = "${random.pick(events)}"\n${state}`
    if (random.chance(0.4)) return `[set-state]\n${head}new_state = "${1 + random.below(3)}"\n`
    const more = [
      `errno = "${random.pick([5, 28, 1, 22, 12])}"\n`,
      random.chance(0.4) ? `iotype = "${random.pick(ioTypes.slice(0, 5))}"\n` : '',
      random.chance(0.3) ? `sector = "${random.below(64)}"\n` : '',
      random.chance(0.5) ? 'once = "on"\n' : '',
      random.chance(0.3) ? 'immediately = "on"\n' : '',
    ]
    return `[inject-error]\n${head}${more.join('')}`
  })
  return rules.join('\n')
}

const allVerbs = ['read', 'write', 'write -P 7', 'write -z', 'discard', 'flush', 'write -f']

function randomCommand(random: Random, verbs: readonly string[]): string {
  const offset = random.below(60) * 512
  const length = (1 + random.below(24)) * 512
  const verb = random.pick(verbs)
  return verb === 'flush' ? verb : `${verb} ${offset} ${length}`
}
