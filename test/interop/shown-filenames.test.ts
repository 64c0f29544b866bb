/** The file names that nodes and images are shown with: the same as QEMU's, for every driver. */
import { execFileSync } from 'node:child_process'
import { beforeAll, expect, it } from 'vitest'
import { KiB } from '../../src/bytes/range.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs } from '../support/img.ts'
import { QmpTalk, varveDaemon } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img')

const file = { driver: 'file', filename: 'a.raw' }
const own = { driver: 'file', filename: 'a.qcow2' }
const overlay = { driver: 'file', filename: 'b.qcow2' }
const empty = { driver: 'null-co', size: 512 * KiB }
const throttled = { driver: 'throttle', 'throttle-group': 'g', file: overlay }

const trees: Readonly<Record<string, object>> = {
  file,
  'file with what makes no difference': { ...file, aio: 'threads', 'read-only': true },
  null: { driver: 'null-co' },
  'null of a size': { driver: 'null-co', size: 4096, 'latency-ns': 5 },
  'null-aio with zeroes': { driver: 'null-aio', 'read-zeroes': true },
  raw: { driver: 'raw', file },
  'part of raw': { driver: 'raw', file, offset: 512, size: 1024 },
  'raw on null': { driver: 'raw', file: empty },
  qcow2: { driver: 'qcow2', file: own, 'lazy-refcounts': true, 'l2-cache-size': 65536 },
  'qcow2 with a backing file that it does not name': { driver: 'qcow2', file: own, backing: empty },
  'qcow2 with the one it names': { driver: 'qcow2', file: overlay },
  'qcow2 without the one it names': { driver: 'qcow2', file: overlay, backing: null },
  'qcow2 throttled below': { driver: 'qcow2', file: throttled },
  throttle: throttled,
  blkdebug: { driver: 'blkdebug', image: file },
  'blkdebug with a file': { driver: 'blkdebug', image: file, config: '/dev/null' },
  'blkdebug on null': { driver: 'blkdebug', image: empty, config: '/dev/null' },
  'blkdebug with rules': {
    driver: 'blkdebug',
    image: { driver: 'raw', file },
    'inject-error': [
      { event: 'read_aio', errno: 5, once: true },
      { event: 'write_aio', state: 2 },
    ],
    'set-state': [{ event: 'read_aio', new_state: 2 }],
    align: 512,
    'max-transfer': 4096,
    'opt-write-zero': 4096,
    'max-write-zero': 4096,
    'opt-discard': 4096,
    'max-discard': 4096,
  },
  blkverify: { driver: 'blkverify', raw: { driver: 'null-co' }, test: { driver: 'null-co' } },
  'blkverify on null of a size': { driver: 'blkverify', raw: empty, test: empty },
  blklogwrites: { driver: 'blklogwrites', file, log: empty, 'log-sector-size': 4096 },
  quorum: {
    driver: 'quorum',
    children: [empty, empty, { driver: 'raw', file: empty }],
    'vote-threshold': 2,
    'rewrite-corrupted': true,
    'read-pattern': 'quorum',
  },
  'copy-on-read': { driver: 'copy-on-read', file: { driver: 'qcow2', file: overlay } },
  preallocate: { driver: 'preallocate', file, 'prealloc-size': 65536 },
  compress: { driver: 'compress', file: { driver: 'qcow2', file: own } },
  'copy-before-write': { driver: 'copy-before-write', file: empty, target: empty },
  'snapshot-access': {
    driver: 'snapshot-access',
    file: { driver: 'copy-before-write', file, target: { driver: 'null-co' } },
  },
}

const names = [
  'json:{"driver":"raw","offset":"512","file":{"driver":"file","filename":"a.raw"}}',
  'json:{"driver":"raw","offset":512,"file":{"driver":"file","filename":"a.raw"}}',
  'json:{"driver":"throttle","throttle-group":"g","file":{"driver":"raw","file.filename":"a.raw"}}',
  'json:{"file.driver":"file","file.filename":"b.qcow2","driver":"qcow2"}',
  'json:{"file":{"filename":"b.qcow2"}}',
  'json:{"driver":"null-co","size":"1M"}',
  'json:{"driver":"quorum","vote-threshold":1,"children":[{"driver":"raw","file.filename":"a.raw"}]}',
  'blkdebug::a.raw',
  'blkverify:a.raw:a.raw',
]

qsd.describe('file names as they are shown', () => {
  const folder = scratchFolder('shown-filenames')

  beforeAll(() => {
    const img = (...args: string[]) => execFileSync('qemu-img', args, { cwd: folder })
    img('create', '-q', '-f', 'raw', 'a.raw', '512k')
    img('create', '-q', '-f', 'qcow2', 'a.qcow2', '512k')
    img('create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', 'a.qcow2', 'b.qcow2')
  })

  /** What each tree's top node is called, in the order given. */
  async function namesBy(program: readonly string[]): Promise<unknown[]> {
    await using talk = await QmpTalk.start(program, folder)
    const say = async (execute: string, args: object = {}) => {
      const { replies } = await talk.say({ execute, arguments: args })
      return replies[0] as { return?: Node[]; error?: unknown }
    }
    await say('qmp_capabilities')
    await say('object-add', { 'qom-type': 'throttle-group', id: 'g' })
    const found: unknown[] = []
    for (const tree of Object.values(trees)) {
      const { error } = await say('blockdev-add', { 'node-name': 'n', ...tree })
      const nodes = (await say('query-named-block-nodes', { flat: true })).return ?? []
      const node = nodes.find((each) => each['node-name'] === 'n')
      found.push([error, node?.file, node?.image.filename, node?.backing_file])
      await say('blockdev-del', { 'node-name': 'n' })
    }
    return found
  }

  it('by query-named-block-nodes', async () => {
    // One after the other: they lock the images.
    const theirs = await namesBy([qsd.path as string])
    const ours = await namesBy(varveDaemon)
    const labelled = (found: unknown[]) => Object.keys(trees).map((name, at) => [name, found[at]])
    expect(labelled(ours)).toEqual(labelled(theirs))
  })

  it.each(names)('by info: %s', async (name) => {
    const args = ['info', '--object', 'throttle-group,id=g', name]
    const theirs = execFileSync('qemu-img', args, { cwd: folder, encoding: 'utf8' })
    const { stdout } = await runOurs(folder, args)
    expect(stdout.split('\n')[0]).toBe(theirs.split('\n')[0])
  })
})

interface Node {
  readonly 'node-name': string
  readonly file: string
  readonly image: { readonly filename: string }
  readonly backing_file?: string
}
