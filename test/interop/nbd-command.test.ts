/** `varve nbd` against the real qemu-nbd: the same arguments, the same words, the same status. */

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { beforeAll, describe, expect, it } from 'vitest'
import { run } from '../../src/cli/nbd.ts'
import { type Outcome, peer } from '../peers.ts'
import { runCommand } from '../support/cli.ts'
import { scratchFolder } from '../support/folder.ts'
import { main } from '../support/main.ts'
import { type Started, startVarve } from '../support/programs.ts'

const qemuNbd = peer('qemu-nbd', 'qemu-img', 'qemu-io')
const nbdinfo = peer('nbdinfo', 'python3', 'qemu-io')
const folder = scratchFolder('nbd-command')
const image = join(folder, 'disk.raw')
const tooLong = 'a'.repeat(5000)

beforeAll(() => writeFileSync(image, Buffer.alloc(1024 * 1024, 'x').fill(0, 4, 4096)))

/** qemu-nbd as it answers at once; one that starts to serve is stopped. */
function theirs(args: readonly string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    const options = { cwd: folder, timeout: 20_000 }
    const child = execFile('qemu-nbd', args, options, (_, stdout, stderr) =>
      resolve({ status: child.exitCode ?? -1, stdout, stderr }),
    )
  })
}

async function ours(args: readonly string[]) {
  const before = process.cwd()
  process.chdir(folder)
  try {
    const { status, stdout, stderr } = await runCommand(run, args, { cwd: folder })
    return { status, stdout: stdout.toString(), stderr: stderr.replaceAll('varve-nbd', 'qemu-nbd') }
  } finally {
    process.chdir(before)
  }
}

/** Arguments that end at once, with an error that both word alike. */
const mistakes: readonly string[][] = [
  [],
  ['a', 'b'],
  ['--nonsense'],
  ['-Q'],
  ['-k'],
  ['-p'],
  ['-x'],
  ['--s', 'disk.raw'],
  ['--persistent=5', 'disk.raw'],
  ['-P', '1', 'disk.raw'],
  ['-p', 'abc', 'disk.raw'],
  ['-e', '-1', 'disk.raw'],
  ['-e', 'abc', 'disk.raw'],
  ['-e', '', 'disk.raw'],
  ['-e', '99999999999', 'disk.raw'],
  ['-f', 'nix', 'disk.raw'],
  ['-f', 'qcow2', 'disk.raw'],
  ['/nonexistent'],
  ['-f', 'raw', '-A', 'nonexistent'],
  ['-k', 'relative', '/nonexistent'],
  ['-k', '', 'disk.raw'],
  ['-k', '/nonexistent/socket', '-f', 'raw', 'disk.raw'],
  ['-b', 'nix.invalid', '-f', 'raw', 'disk.raw'],
  ['-o', 'abc', 'disk.raw'],
  ['-o', '2M', 'disk.raw'],
  ['-o', '', 'disk.raw'],
  ['-o', '1048577', '-k', `${folder}/x`, '-f', 'raw', 'disk.raw'],
  ['--cache=foo', 'disk.raw'],
  ['-n', '--cache=none', 'disk.raw'],
  ['--aio=foo', 'disk.raw'],
  ['--aio=native', 'disk.raw'],
  ['--aio=native', '--aio=threads', 'disk.raw'],
  ['--discard=foo', 'disk.raw'],
  ['--discard=unmap', '--discard=ignore', 'disk.raw'],
  ['--detect-zeroes=foo', 'disk.raw'],
  ['--detect-zeroes=unmap', 'disk.raw'],
  ['--image-opts', 'driver=nix'],
  ['--image-opts', 'disk.raw'],
  ['--image-opts', 'driver=raw'],
  ['--image-opts', '-f', 'raw', 'driver=raw'],
  ['--image-opts', 'driver=raw,file.driver=file,file.filename=/nonexistent'],
  ['-x', tooLong, 'disk.raw'],
  ['-D', tooLong, 'disk.raw'],
  ['-L', 'disk.raw'],
  ['-L', '-x', 'a'],
  ['-L', '-r', '-k', '/nonexistent'],
  ['-L', '-f', 'raw'],
  ['-L', '--tls-creds=x'],
  ['-L', '--fork'],
  ['-L', '-k', '/nonexistent'],
  ['--tls-creds=foo', '-f', 'raw', 'disk.raw'],
  ['--object', 'foo', 'disk.raw'],
  ['--object', 'id=x', 'disk.raw'],
  ['--object', 'tls-creds-x509', 'disk.raw'],
  ['--object', 'tls-creds-x509,id=a,endpoint=server', 'disk.raw'],
  ['--object', 'tls-creds-x509,id=a,endpoint=server,dir=/nonexistent', 'disk.raw'],
  ['--object', 'tls-creds-x509,id=a,endpoint=foo,dir=/', 'disk.raw'],
  ['-L', '-l', 'one', '-k', '/nonexistent'],
  ['-L', '-B', 'x', '-k', '/nonexistent'],
  ['-L', '-o', '0', '-k', '/nonexistent'],
  ['-L', '-o', '1', '-k', '/nonexistent'],
  ['-L', '--object', 'foo', 'disk.raw'],
  ['--object', 'foo', '--detect-zeroes=foo', 'disk.raw'],
  ['--aio=native', '/nonexistent'],
  ['--aio=native', '--tls-authz=x', 'disk.raw'],
  ['-k', `${folder}/x`, '-p', 'x', '/nonexistent'],
  ['-o', '+1', '/nonexistent'],
  ['-l', 'snapshot.x=1', '-k', 'relative', 'disk.raw'],
  ['-l', 'snapshot.', '/nonexistent'],
  ['--pid-file=/nonexistent/x', '-k', `${folder}/x`, '-f', 'raw', 'disk.raw'],
]

qemuNbd.describe('mistakes', () => {
  it.each(mistakes.map((args) => [args.map((arg) => arg.slice(0, 40)).join(' '), args] as const))(
    'are told in the same words: %s',
    async (_, args) => {
      expect(await ours(args)).toEqual(await theirs(args))
    },
  )
})

describe('what we do not do', () => {
  it.each([
    ['-c', '/dev/nbd0', 'disk.raw'],
    ['-d', '/dev/nbd0'],
    ['--selinux-label=x', 'disk.raw'],
  ])('is refused by name: %s %s', async (...args) => {
    const { status, stderr } = await ours(args)
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: expect.stringMatching(/^qemu-nbd: .* not supported.*\n$/),
    })
  })
})

describe('help and version', () => {
  it('are printed whatever follows', async () => {
    const help = await ours(['-h', 'a', 'b'])
    expect(help).toMatchObject({ status: 0, stderr: '' })
    expect(help.stdout).toMatch(/^Usage: varve-nbd \[OPTIONS\] FILE\n/)
    expect((await ours(['-V', '--foo'])).stdout).toMatch(/^varve-nbd \d+\.\d+\.\d+/)
  })
})

/** A server that is there when this resolves. */
async function serving(args: readonly string[], socket: string): Promise<Started> {
  const started = startVarve(['nbd', '-k', socket, ...args], { cwd: folder })
  while (!existsSync(socket)) {
    if (started.child.exitCode !== null) throw new Error((await started.ended).stderr)
    await sleep(10)
  }
  return started
}

const uri = (socket: string, name = '') => `nbd+unix:///${name}?socket=${socket}`

nbdinfo.describe('serving', () => {
  it('ends after the last client, one that only looked at the list not counting', async () => {
    const socket = join(folder, 'once')
    const server = await serving(['-f', 'raw', image], socket)
    await nbdinfo.run('--list', uri(socket, 'nonexistent'))
    expect(server.child.exitCode).toBe(null)
    expect(await nbdinfo.run('--size', uri(socket))).toBe('1048576\n')
    expect(await server.ended).toMatchObject({ status: 0, stderr: '' })
    expect(existsSync(socket)).toBe(false)
  })

  it.each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)(
    'with -t ends with %s, cleanly',
    async (signal) => {
      const socket = join(folder, signal)
      const server = await serving(['-t', '-f', 'raw', image], socket)
      expect(await nbdinfo.run('--size', uri(socket))).toBe('1048576\n')
      server.child.kill(signal)
      expect(await server.ended).toMatchObject({ status: 0, stderr: '' })
      expect(existsSync(socket)).toBe(false)
    },
  )

  it('shows a part of the image, under a name, read-only', async () => {
    const socket = join(folder, 'part')
    const args = ['-t', '-r', '-o', '0x1000', '-x', 'a b', '-D', 'some text', '-f', 'raw', image]
    const server = await serving(args, socket)
    const info = JSON.parse(await nbdinfo.run('--json', uri(socket, 'a%20b')))
    expect(info.exports[0]).toMatchObject({
      'export-name': 'a b',
      description: 'some text',
      'export-size': 1048576 - 4096,
      is_read_only: true,
      can_multi_conn: false,
    })
    server.child.kill()
    await server.ended
  })

  it('keeps writes apart with -s, and forgets them', async () => {
    const socket = join(folder, 'snapshot')
    const before = readFileSync(image)
    const server = await serving(['-s', '-t', '-o', '4096', '-f', 'raw', image], socket)
    const qemuIo = peer('qemu-io')
    await qemuIo.run('-f', 'raw', '-c', 'write -P 7 1000 70000', uri(socket))
    await qemuIo.run(
      '-f',
      'raw',
      '-c',
      'read -P 7 1000 70000',
      '-c',
      'read -P 120 0 1000',
      uri(socket),
    )
    server.child.kill()
    expect(await server.ended).toMatchObject({ status: 0, stderr: '' })
    expect(readFileSync(image).equals(before)).toBe(true)
  })

  it('lets several clients in with -e, and says so', async () => {
    const socket = join(folder, 'several')
    const server = await serving(['-t', '-e', '2', '-f', 'raw', image], socket)
    const info = JSON.parse(await nbdinfo.run('--json', uri(socket)))
    expect(info.exports[0].can_multi_conn).toBe(true)
    server.child.kill()
    await server.ended
  })

  it('goes into the background with --fork, and writes its process id', async () => {
    const socket = join(folder, 'fork')
    const pidFile = join(folder, 'fork.pid')
    const args = ['nbd', '--fork', '--pid-file', pidFile, '-t', '-k', socket, '-f', 'raw', image]
    const parent = startVarve(args)
    expect(await parent.ended).toMatchObject({ status: 0, stderr: '' })
    const pid = Number(readFileSync(pidFile, 'utf8'))
    expect(pid).not.toBe(parent.child.pid)
    expect(await nbdinfo.run('--size', uri(socket))).toBe('1048576\n')
    process.kill(pid)
    while (existsSync(socket)) await sleep(10)
  })

  it('reports from --fork what went wrong in the background', async () => {
    const args = ['nbd', '--fork', '-k', join(folder, 'failed'), '-f', 'raw', '/nonexistent']
    expect(await startVarve(args).ended).toMatchObject({
      status: 1,
      stderr: expect.stringContaining("Failed to blk_new_open '/nonexistent'"),
    })
  })

  it('tells of clients with -v', async () => {
    const socket = join(folder, 'verbose')
    const server = await serving(['-v', '-f', 'raw', image], socket)
    await nbdinfo.run('--size', uri(socket))
    expect((await server.ended).stderr).toContain("varve-nbd: a client of '' left\n")
  })

  it('takes a socket over from whoever activates it', async () => {
    const socket = join(folder, 'activated')
    // What systemd does: a listening socket as descriptor 3, and the process that may have it.
    const script = `
import os, socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
if listening.fileno() != 3: os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])`
    const words = [process.execPath, main, 'nbd', '-f', 'raw', image]
    const child = spawn('python3', ['-c', script, socket, ...words], { stdio: 'inherit' })
    const ended = once(child, 'exit')
    while (!existsSync(socket)) await sleep(10)
    expect(await nbdinfo.run('--size', uri(socket))).toBe('1048576\n')
    expect((await ended)[0]).toBe(0)
  })
})

qemuNbd.describe('--list', () => {
  it('prints what qemu-nbd prints, of either server', async () => {
    const socket = join(folder, 'listed')
    const server = await serving(['-t', '-A', '-x', 'x', '-D', 'text', '-f', 'raw', image], socket)
    const args = ['-L', '-k', socket]
    expect(await ours(args)).toEqual(await theirs(args))
    server.child.kill()
    await server.ended
    const other = join(folder, 'listed-qemu')
    const qemu = spawn('qemu-nbd', ['-t', '-r', '-k', other, '-f', 'raw', image])
    while (!existsSync(other)) await sleep(10)
    // The socket is there a moment before it is listened on.
    let listed = await theirs(['-L', '-k', other])
    while (listed.status !== 0) listed = await theirs(['-L', '-k', other])
    expect(await ours(['-L', '-k', other])).toEqual(listed)
    qemu.kill()
    await once(qemu, 'exit')
  })
})

describe('--list', () => {
  it('says what is wrong with a server that is none', async () => {
    const path = join(folder, 'ssh')
    const server = createServer((socket) => socket.end('SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n'))
    await new Promise<void>((resolve) => server.listen(path, resolve))
    const { status, stderr } = await ours(['-L', '-k', path])
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: 'qemu-nbd: Bad initial magic received: it is no NBD server\n',
    })
    server.close()
  })
})

qemuNbd.describe('a chain of images', () => {
  it('has the same extents and depths as with qemu-nbd', async () => {
    const at = (name: string) => join(folder, name)
    const qemuImg = peer('qemu-img')
    const qemuIo = peer('qemu-io')
    await qemuImg.run('create', '-q', '-f', 'qcow2', at('a'), '1M')
    const base = ['write 0 64k', 'write -z 64k 64k', 'write 640k 64k']
    await qemuIo.run(...base.flatMap((line) => ['-c', line]), at('a'))
    await qemuImg.run('create', '-q', '-f', 'qcow2', '-b', at('a'), '-F', 'qcow2', at('b'))
    const middle = [
      'write 256k 64k',
      'write -zu 320k 64k',
      'write -z 384k 64k',
      'write -c 512k 64k',
    ]
    await qemuIo.run(...middle.flatMap((line) => ['-c', line]), at('b'))
    await qemuImg.run('create', '-q', '-f', 'qcow2', '-b', at('b'), '-F', 'qcow2', at('c'), '2M')
    const maps = async (socket: string) => [
      await nbdinfo.run('--map=base:allocation', uri(socket)),
      await nbdinfo.run('--map=qemu:allocation-depth', uri(socket)),
    ]
    const args = ['-r', '-t', '-A', '-f', 'qcow2', at('c')]
    const server = await serving(args, at('ours'))
    const qemu = spawn('qemu-nbd', ['-k', at('theirs'), ...args])
    while (!existsSync(at('theirs'))) await sleep(10)
    expect(await maps(at('ours'))).toEqual(await maps(at('theirs')))
    server.child.kill()
    qemu.kill()
    await Promise.all([server.ended, once(qemu, 'exit')])
  })
})

qemuNbd.describe('clients are told the same of', () => {
  beforeAll(async () => {
    writeFileSync(join(folder, 'odd'), Buffer.alloc(1000, 'x'))
    await peer('qemu-img').run('create', '-q', '-f', 'qcow2', join(folder, 'maps'), '1M')
    for (const name of ['one', 'two', 'three']) {
      await peer('qemu-img').run('bitmap', '--add', join(folder, 'maps'), name)
    }
  })

  it.each([
    [['disk.raw']],
    [['-r', 'disk.raw']],
    [['-s', 'disk.raw']],
    [['-o', '512', 'disk.raw']],
    [['-f', 'raw', 'disk.raw']],
    [['--image-opts', 'file.filename=disk.raw']],
    [['--image-opts', 'driver=raw,file.filename=disk.raw']],
    [['-n', 'odd']],
    [['-f', 'raw', 'odd']],
    [['-f', 'qcow2', '-B', 'two', '-B', 'three', '-B', 'one', 'maps']],
  ])('%j', async (args) => {
    const list = async (socket: string) => (await theirs(['-L', '-k', socket])).stdout
    const socket = join(folder, 'told')
    const server = await serving(['-t', ...args], socket)
    const told = await list(socket)
    server.child.kill()
    await server.ended
    const other = join(folder, 'told-by-qemu')
    const qemu = spawn('qemu-nbd', ['-t', '-k', other, ...args], { cwd: folder, stdio: 'ignore' })
    let wanted = ''
    // The socket is there a moment before it is listened on.
    while (!wanted) wanted = existsSync(other) ? await list(other) : await sleep(5, '')
    expect(told).toBe(wanted)
    qemu.kill()
    await once(qemu, 'exit')
  })
})

qemuNbd.describe('an image that somebody else writes to', () => {
  it('is not served', async () => {
    const socket = join(folder, 'first')
    await peer('qemu-img').run('create', '-q', '-f', 'qcow2', join(folder, 'locked'), '1M')
    const server = await serving(['-t', '-f', 'qcow2', 'locked'], socket)
    const args = ['-k', join(folder, 'second'), '-f', 'qcow2', 'locked']
    const refused = await ours(args)
    expect(refused).toEqual(await theirs(args))
    expect(refused.stderr).toContain('Failed to get "write" lock')
    server.child.kill()
    await server.ended
  })

  it('is not there in the end in part: what was flushed by nobody is', async () => {
    const socket = join(folder, 'flush')
    const path = join(folder, 'flush.qcow2')
    await peer('qemu-img').run('create', '-q', '-f', 'qcow2', path, '16M')
    const server = await serving(['-t', '-f', 'qcow2', path], socket)
    await peer('qemu-io').run('-f', 'raw', '-c', 'write -P 7 1M 3M', uri(socket))
    server.child.kill()
    expect(await server.ended).toMatchObject({ status: 0 })
    await peer('qemu-img').run('check', path)
    await peer('qemu-io').run('-r', '-c', 'read -P 7 1M 3M', path)
    expect(statSync(path).size).toBeGreaterThan(3 * 2 ** 20)
  })
})
