/**
 * varve's main job on real input: a disk with a file system of real files is served over NBD,
 * backed up while a guest writes to it without a pause, verified, restored, and compared byte for
 * byte with what it was in the moment the backup began.
 *
 * Run with `npm run demo`. Needs about 3 GB below the temporary folder (TMPDIR), e2fsprogs, and no
 * privileges. Ends with status 1 when a check fails.
 */
import { mkdtemp, open, readFile, rm, stat, statfs, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { SeededRandom } from '../src/bytes/seeded-random.ts'
import { drivers } from '../src/drivers.ts'
import type { Edge } from '../src/graph/edge.ts'
import { Graph } from '../src/graph/graph.ts'
import { QmpClient } from '../src/wire/qmp/client.ts'
import { copyDisk, firstDifference, inParallel, pieceSize } from './compare.ts'
import { daemonListens, nodeNames, startDaemon } from './daemon.ts'
import { checkFileSystem, type FileSystem, findTool, makeFileSystem } from './file-system.ts'
import { Guest } from './guest.ts'
import { endAll, repository, run, start } from './programs.ts'
import { faint, mebibytes, seconds, strong } from './report.ts'
import { guestWorkers, print, type Story } from './story.ts'

const MiB = 1024 ** 2
const fileSystemSize = 512 * MiB
/** Behind the file system there is room where the guest writes before the backup. */
const diskSize = 640 * MiB
const amount = { files: 12_000, bytes: 300 * MiB }
const spaceNeeded = 3000 * MiB
const loadInFlight = 8
const seed = 20_261_121
/** Status of `img check` for formats that have no check. */
const cannotCheck = 63

async function demo(story: Story): Promise<void> {
  const { folder, signal } = story
  const at = (name: string) => join(folder, name)
  const files = await prepare(story)
  const daemon = startDaemon(at('overlay.qcow2'), at('nbd.sock'), at('qmp.sock'))
  try {
    await daemonListens(at('qmp.sock'), daemon.ended, signal)
    await workOnDisk(story, files)
  } catch (error) {
    // When it is the daemon that ended, its own words say more.
    const ended = await Promise.race([daemon.ended, sleep(200)])
    if (!ended) throw error
    const what = `the daemon ended with ${ended.status}: ${ended.stderr.trim()}`
    throw new Error(what, { cause: error })
  }
  await endDaemon(story, at('qmp.sock'), daemon)
}

async function workOnDisk(story: Story, files: FileSystem): Promise<void> {
  const { folder, checks } = story
  const at = (name: string) => join(folder, name)
  await using graph = new Graph({ drivers })
  const disk = await connectGuest(graph, at('nbd.sock'))
  await load(story, at('fs.raw'), at('base.raw'), disk)
  await rm(at('fs.raw'))
  const guest = new Guest(disk, guestWorkers, randomOf(seed))
  await beforeBackup(story, guest)
  const nodes = await nodeNames(at('qmp.sock'))
  await backUpAndRestore(story, disk, guest, {
    archive: at('disk.vma.zst'),
    reference: at('reference.raw'),
    format: 'raw',
  })
  await proveFileSystem(story, at('restored-raw/disk-disk0.raw'), disk, files)
  await rm(at('restored-raw'), { recursive: true })
  await backUpAndRestore(story, disk, guest, {
    archive: at('disk.vma'),
    reference: at('reference.raw'),
    format: 'qcow2',
  })
  const lost = await guest.firstLost()
  checks.push({
    passed: lost === undefined,
    what: 'the guest reads everything that it wrote, before, during and after the backups',
    why: `not at offset ${lost}`,
  })
  const left = await nodeNames(at('qmp.sock'))
  checks.push({
    passed: left === nodes,
    what: 'the daemon has the nodes that it had before: no filter is left',
    why: left,
  })
}

/** The file system, the raw base with an older state of it, and the overlay. */
async function prepare({ folder, signal, steps }: Story): Promise<FileSystem> {
  const at = (name: string) => join(folder, name)
  const sources = [join(repository, 'node_modules'), '/usr/share', '/usr/lib']
  say('making a file system of real files, and an older state of it')
  const begin = performance.now()
  const half = { files: amount.files / 2, bytes: amount.bytes / 2 }
  const make = (image: string, limit: typeof amount) =>
    makeFileSystem(at(image), fileSystemSize, sources, limit, at('staging'), signal)
  await make('base.raw', half)
  await truncate(at('base.raw'), diskSize)
  const files = await make('fs.raw', amount)
  steps.push({
    what: `ext4 of ${files.files} files`,
    bytes: files.bytes,
    seconds: since(begin),
    result: 'twice: base and new state',
  })
  await run([
    'img',
    'create',
    '-q',
    '-f',
    'qcow2',
    '-b',
    'base.raw',
    '-F',
    'raw',
    at('overlay.qcow2'),
  ])
  await writeFile(at('vm.conf'), 'cores: 2\nscsi0: disk0\n')
  return files
}

async function connectGuest(graph: Graph, socket: string): Promise<Edge> {
  const node = await graph.open({
    driver: 'nbd',
    server: { type: 'unix', path: socket },
    export: 'disk0',
    'node-name': 'guest',
  })
  return graph.attach(node, { description: 'the guest', uses: ['consistentRead', 'write'] })
}

/** The guest writes the new state over NBD, as far as it differs from the base. */
async function load({ steps, signal }: Story, image: string, base: string, disk: Edge) {
  say('the guest writes the new state to its disk')
  const begin = performance.now()
  await using source = await open(image)
  await using former = await open(base)
  let bytes = 0
  await inParallel(fileSystemSize / pieceSize, loadInFlight, async (index) => {
    signal.throwIfAborted()
    const offset = index * pieceSize
    const [now, before] = [Buffer.alloc(pieceSize), Buffer.alloc(pieceSize)]
    await source.read(now, 0, pieceSize, offset)
    await former.read(before, 0, pieceSize, offset)
    for (let at = 0; at < pieceSize; at += 65_536) {
      const part = now.subarray(at, at + 65_536)
      if (part.equals(before.subarray(at, at + 65_536))) continue
      await disk.write(offset + at, part)
      bytes += part.length
    }
  })
  await disk.flush()
  steps.push({
    what: 'guest writes over NBD',
    bytes,
    seconds: since(begin),
    result: 'into the overlay',
  })
}

/** Many writes behind the file system, so that the backup begins in the midst of work. */
async function beforeBackup({ spans, signal }: Story, guest: Guest): Promise<void> {
  guest.start(fileSystemSize, diskSize)
  await sleep(2000, undefined, { signal })
  spans.push({ when: 'without a backup', span: await guest.pause() })
}

interface BackupPlan {
  readonly archive: string
  readonly reference: string
  readonly format: 'raw' | 'qcow2'
}

async function backUpAndRestore(
  story: Story,
  disk: Edge,
  guest: Guest,
  plan: BackupPlan,
): Promise<void> {
  const { folder, checks } = story
  const name = plan.archive.slice(folder.length + 1)
  // The guest holds still while its disk is copied to compare with, until the backup has begun.
  await copyDisk(disk, plan.reference)
  await backUp(story, guest, plan.archive, name)
  await verify(story, plan.archive, name)
  const restored = await restore(story, plan, name)
  const differs = await firstDifference(plan.reference, restored, plan.format)
  checks.push({
    passed: differs === undefined,
    what: `${name}: the disk restored as ${plan.format} is byte for byte that of the moment it began`,
    why: `they differ at offset ${differs}`,
  })
  const config = await readFile(join(folder, `restored-${plan.format}`, 'vm.conf'), 'utf8')
  checks.push({
    passed: config === 'cores: 2\nscsi0: disk0\n',
    what: `${name}: the configuration file is there`,
  })
}

async function backUp(story: Story, guest: Guest, archive: string, name: string) {
  const { folder, steps, spans, checks } = story
  say(`varve backup to ${name}, the guest writing all the time`)
  const begin = performance.now()
  let writing: Promise<void> | undefined
  // The first sign of progress: the moment is preserved, and the guest may do what it likes.
  const goOn = async () => {
    await guest.strike()
    guest.start(0, diskSize)
  }
  const monitor = ['--monitor', join(folder, 'qmp.sock'), '--config', join(folder, 'vm.conf')]
  const ended = await run(['backup', ...monitor, '--progress', 'json', archive], () => {
    writing ??= goOn()
  })
  const taken = since(begin)
  await writing
  const span = await guest.pause()
  spans.push({ when: `during ${name}`, span })
  const { archiveSize } = JSON.parse(ended.stdout.trim().split('\n').at(-1)!)
  steps.push({
    what: `backup to ${name}`,
    bytes: diskSize,
    seconds: taken,
    result: `${mebibytes(archiveSize)} stored`,
  })
  checks.push({
    passed: span.writes > 100,
    what: `${name}: the guest wrote ${mebibytes(span.bytes)} during the backup, to all of the disk`,
    why: `only ${span.writes} writes`,
  })
}

async function verify({ steps, checks }: Story, archive: string, name: string): Promise<void> {
  say(`varve vma verify ${name}`)
  const begin = performance.now()
  const { status, stderr } = await start(['vma', 'verify', archive]).ended
  const result = status === 0 ? 'whole' : 'damaged'
  steps.push({ what: `verify ${name}`, bytes: diskSize, seconds: since(begin), result })
  const what = `${name}: the archive is whole and all checksums are right`
  checks.push({ passed: status === 0, what, why: stderr.trim() })
}

async function restore({ folder, steps }: Story, plan: BackupPlan, name: string): Promise<string> {
  say(`varve restore ${name}`)
  const begin = performance.now()
  const target = join(folder, `restored-${plan.format}`)
  await run(['restore', '--format', plan.format, plan.archive, target])
  const path = join(target, `disk-disk0.${plan.format}`)
  const { blocks } = await stat(path)
  steps.push({
    what: `restore ${name}`,
    bytes: diskSize,
    seconds: since(begin),
    result: `${mebibytes(blocks * 512)} of ${plan.format}`,
  })
  return path
}

/** The restored file system is whole, though the guest has destroyed the one on its disk. */
async function proveFileSystem(
  { signal, checks }: Story,
  image: string,
  disk: Edge,
  files: FileSystem,
): Promise<void> {
  say('e2fsck on the restored disk')
  const problems = await checkFileSystem(image, signal)
  checks.push({
    passed: problems === '',
    what: `e2fsck finds the restored file system of ${files.files} files clean`,
    why: problems.split('\n').slice(-3).join('; '),
  })
  const magic = Buffer.alloc(2)
  await disk.read(1024 + 56, magic)
  checks.push({
    passed: magic.readUInt16LE(0) !== 0xef53,
    what: 'while on the running disk the guest has overwritten it, superblock first',
    why: 'its superblock is still there',
  })
}

async function endDaemon(
  { folder, checks }: Story,
  monitor: string,
  daemon: ReturnType<typeof start>,
): Promise<void> {
  {
    await using client = await QmpClient.connect(monitor)
    await client.execute('quit')
  }
  const { status, stderr } = await daemon.ended
  checks.push({
    passed: status === 0 && stderr === '',
    what: 'the daemon ends well',
    why: `status ${status}: ${stderr.trim()}`,
  })
  const checked = await start(['img', 'check', join(folder, 'overlay.qcow2')]).ended
  if (checked.status === cannotCheck) return
  checks.push({
    passed: checked.status === 0,
    what: 'varve img check finds no fault in the overlay',
    why: `${checked.stdout} ${checked.stderr}`.trim().replaceAll('\n', '; '),
  })
}

function randomOf(from: number): () => number {
  const random = new SeededRandom(from)
  return () => random.next()
}

function since(begin: number): number {
  return (performance.now() - begin) / 1000
}

function say(what: string): void {
  console.log(faint(`  ${what} …`))
}

/** The first of the errors, not the one that closing what had failed gave. */
function messageOf(error: unknown): string {
  if (error instanceof SuppressedError) return messageOf(error.suppressed)
  return error instanceof Error ? error.message : String(error)
}

async function checkMachine(): Promise<void> {
  for (const tool of ['mke2fs', 'e2fsck']) findTool(tool)
  await stat(join(repository, 'dist/tools/main.cjs')).catch(() => {
    throw new Error("varve is not built: run 'npm ci' or 'npm run build' first")
  })
  const { bavail, bsize } = await statfs(tmpdir())
  if (bavail * bsize >= spaceNeeded) return
  throw new Error(
    `${tmpdir()} has ${mebibytes(bavail * bsize)} left and ${mebibytes(spaceNeeded)} are needed; ` +
      'set TMPDIR to a folder with more room',
  )
}

async function main(): Promise<number> {
  await checkMachine()
  const interrupt = new AbortController()
  const stop = () => {
    interrupt.abort(new Error('interrupted'))
    void endAll()
  }
  process.once('SIGINT', stop).once('SIGTERM', stop)
  const folder = await mkdtemp(join(tmpdir(), 'varve-demo-'))
  const story: Story = { folder, signal: interrupt.signal, steps: [], spans: [], checks: [] }
  const begin = performance.now()
  console.log(strong('varve: a live backup of a disk that is being written, and back'))
  try {
    await demo(story)
    print(story)
    const failed = story.checks.filter(({ passed }) => !passed).length
    const all = story.checks.length
    console.log(
      strong(`${all - failed} of ${all} checks passed, in ${seconds(since(begin))}`),
      faint(`seed ${seed}`),
    )
    return failed === 0 ? 0 : 1
  } catch (error) {
    if (interrupt.signal.aborted) {
      console.error('demo: interrupted; everything is removed')
      return 130
    }
    throw error
  } finally {
    await endAll()
    await rm(folder, { recursive: true, force: true })
  }
}

try {
  process.exitCode = await main()
} catch (error) {
  console.error(`demo: ${messageOf(error)}`)
  process.exitCode = 1
}
