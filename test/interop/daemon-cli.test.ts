/** Command lines of qemu-storage-daemon and of ours: what is refused, and in which words. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { run } from '../../src/cli/daemon.ts'
import { QmpClient } from '../../src/wire/qmp/client.ts'
import { peer } from '../peers.ts'
import { runCommand } from '../support/cli.ts'
import { scratchFolder } from '../support/folder.ts'
import { QmpTalk, varveDaemon } from '../support/qmp-talk.ts'

const qsd = peer('qemu-storage-daemon')
const folder = scratchFolder('daemon-cli')

async function ours(args: readonly string[]) {
  const { status, stdout, stderr } = await runCommand(run, args)
  return { status, stdout: String(stdout), stderr }
}

qsd.describe('command lines are refused alike', () => {
  const file = join(folder, 'a.raw')
  writeFileSync(file, Buffer.alloc(65536))
  const socket = join(folder, 'x.sock')
  const nbd = `addr.type=unix,addr.path=${socket}`

  it.each([
    ['--blockdev', 'driver=file,node-name=a,filename=/nonexistent'],
    ['--blockdev', 'driver=foo,node-name=a'],
    ['--blockdev', 'node-name=a'],
    ['--blockdev', 'file,node-name=a'],
    ['--blockdev', '{"driver":"file"'],
    ['--blockdev', '{"driver":"file","node-name":"a","filename":1}'],
    ['--blockdev', `{"driver":"file","node-name":"a","filename":"${file}","x":1}`],
    ['--blockdev', `driver=file,node-name=a,filename=${file},read-only=x`],
    ['--blockdev', `driver=file,node-name=a,filename=${file},foo=x`],
    ['--blockdev', `driver=file,node-name=a,filename=${file},read-only`],
    ['--blockdev', `driver=raw,node-name=a,file.driver=file,file.filename=${file},offset=x`],
    ['--blockdev'],
    ['--nbd-server', 'addr.type=unix'],
    ['--nbd-server', 'addr.type=foo'],
    ['--nbd-server', 'addr.type=unix,addr.path=/nonexistent/x'],
    ['--nbd-server', 'foo=1'],
    ['--nbd-server', `${nbd},max-connections=x`],
    ['--nbd-server', nbd, '--export', 'nbd,id=a,node-name=b'],
    ['--export', 'type=foo'],
    ['--export', 'id=1'],
    ['--monitor', 'chardev=x'],
    ['--monitor', 'x'],
    ['--monitor', 'foo=x'],
    ['--chardev', 'socket'],
    ['--chardev', 'foo,id=x'],
    ['--chardev', 'socket,path=/nonexistent/x,server=on,wait=off,id=x'],
    ['--chardev', 'socket,path=/nonexistent/x,id=x'],
    ['--chardev', 'socket,path=/nonexistent/x,server=on,wait=off,id=1x'],
    ['--chardev', 'socket,path=/nonexistent/x,server=on,wait=off,id=x,foo=1'],
    ['--chardev', 'socket,host=127.0.0.1,server=on,wait=off,id=x'],
    ['--chardev', `socket,path=${socket},server=on,wait=foo,id=x`],
    ['--chardev', 'null,id=x', '--chardev', 'null,id=x'],
    ['--chardev', 'null,id=x', '--monitor', 'chardev=x,mode=control', '--monitor', 'chardev=x'],
    ['--object', 'foo,id=a'],
    ['--object', 'secret'],
    ['--object', 'secret,id=a'],
    ['--object', 'secret,id=a,data=b,foo=1'],
    ['--object', 'secret,id=a,file=/nonexistent'],
    ['--pidfile', '/nonexistent/a'],
    ['--pidfile', folder],
    ['--object', 'iothread,id=a,poll-max-ns=x'],
    ['--object', 'iothread,id=a,poll-max-ns=-1'],
    ['--object', 'iothread,id=a', '--object', '{"qom-type":"iothread","id":"a"}'],
    ['--object', '{"qom-type":"iothread"}'],
    ['--object', 'secret_keyring,id=a,serial=1'],
    ['--object', 'throttle-group,id=a,limits.iops-total=x'],
    ['--object', 'throttle-group,id=a,x-iops-total=-5'],
    ...['iothread', 'main-loop', 'secret', 'secret_keyring', 'throttle-group'].map((type) => [
      '--object',
      `${type},help`,
    ]),
    ['--object', 'iothread,id=1,?'],
    ['--object', 'iothread,help=x'],
    ['--object', 'help,foo'],
    ['--object', '{"qom-type":"help"}'],
    ['--blockdev', 'help'],
    ['--blockdev', 'null-co,node-name=a,help'],
    ['--export', 'help,foo=1'],
    ['--monitor', 'x,help'],
    ['--nbd-server', '?'],
    ['--nbd-server', 'help,x'],
    ['--nbd-server', nbd, '--nbd-server', nbd],
    ['--chardev', 'null,id=a,help'],
    ['--chardev', 'null,id=a', '--monitor', 'chardev=a,mode=readline'],
    ['--chardev', 'null,id=a', '--monitor', '{"chardev":"a","mode":"control","foo":1}'],
    ['--export', '{"type":"nbd","id":"e"}'],
    ['--export', 'nbd,id=e,node-name=x,foo=1'],
    ['--export', 'nbd,id=e,node-name=x,writable=maybe'],
    ['--daemonize', '--chardev', 'stdio,id=a'],
    ['--daemonize=1'],
    ['--pidfile'],
    ['--foo'],
    ['foo'],
    ['-x'],
    // Booleans have four words for either, messages repeat what was typed.
    ...['yes', 'true', 'y', 'n', 'On', '1'].map((word) => [
      `--blockdev=null-co,node-name=a,read-only=${word},size=x`,
    ]),
    ['--blockd=null-co,node-name=a,size=x'],
    ['--object=secret,id=1a'],
    ['--export', 'nbd,id=e,node-name=x,iothread=y'],
    ['--export', 'nbd,id=e,node-name=x,bitmaps.0.node=y'],
    ['--nbd-server', 'addr.type=fd,addr.str=-1'],
    ['--nbd-server', 'addr.type=fd,addr.str=x'],
    ...['no-such', 'enable=x,events=/no-such', 'foo=1', 'x,help', 'x,foo'].map((trace) => [
      '-T',
      trace,
      '--monitor',
      'x',
    ]),
  ])('%s %s', async (...args) => {
    const given = args.filter((each) => each !== undefined)
    const expected = await qsd.try(...given)
    const stderr = expected.stderr.replaceAll(/\S*qemu-storage-daemon/g, 'varve-storage-daemon')
    expect(await ours(given)).toEqual({ ...expected, stderr })
  })
})

qsd.describe('character devices of command lines are taken and refused alike', () => {
  const path = (name: string) => join(folder, name)
  const local = 'host=127.0.0.1,port=0,server=on,wait=off'
  const listening = `path=${path('c.sock')},server=on,wait=off`

  it.each([
    ...['null', 'id=a', 'null,id=1a', 'null,id=a,foo=1', 'null,id=a,mux=on', 'null,id=a,mux=x'],
    ...['null,id=a,logfile=/no-such/x', `null,id=a,logfile=${path('l')},logappend=on`],
    ...['null,id=a,logappend=x', ',id=a', 'backend=null,id=a', 'null,id=a,path=x,size=1'],
    ...['file,id=a', `file,id=a,path=${path('o')},append=on`, 'file,id=a,path=o,append=x'],
    ...['file,id=a,path=/no-such/o', 'file,id=a,path=o,in=x', 'file,id=a,out=o'],
    ...['pipe,id=a', 'pipe,id=a,path=/no-such', 'serial,id=a', 'tty,id=a,path=/no-such'],
    ...['serial,id=a,path=/no-such', 'parallel,id=a', 'parport,id=a,path=/dev/null'],
    ...['ringbuf,id=a', 'ringbuf,id=a,size=3', 'ringbuf,id=a,size=x', 'ringbuf,id=a,size=1K'],
    ...['memory,id=a,size=4k', 'ringbuf,id=a,size=0', 'ringbuf,id=a,size=-1'],
    ...['udp,id=a', 'udp,id=a,host=127.0.0.1', 'udp,id=a,port=9', 'udp,id=a,port=9,ipv4=x'],
    ...['udp,id=a,host=127.0.0.1,port=x', 'udp,id=a,port=9,localaddr=127.0.0.1,localport=0'],
    ...['mux,id=a', 'mux,id=a,chardev=x', 'stdio,id=a,signal=x', 'pty,id=1a'],
    ...['socket,id=a', 'socket,id=a,path=x,host=y', 'socket,id=a,port=5', 'socket,id=a,fd=x'],
    ...['socket,id=a,host=127.0.0.1', `socket,id=a,${local}`, `socket,id=a,${local},to=5`],
    ...['socket,id=a,host=127.0.0.1,port=x,server=on,wait=off', `socket,id=a,${local},ipv4=off`],
    ...['socket,id=a,fd=99,server=on,wait=off', `socket,id=a,${listening},reconnect=1`],
    ...[
      'socket,id=a,path=x,wait=off',
      'socket,id=a,path=x,websocket=on',
      'socket,id=a,path=/no-such/x',
    ],
    ...['telnet=on', 'telnet=on,tn3270=on', 'tls-authz=x', 'nodelay=on', 'delay=off'].map(
      (more) => `socket,id=a,${listening},${more}`,
    ),
    ...['nodelay=off,delay=on', 'reconnect=x', 'to=x'].map(
      (more) => `socket,id=a,${listening},${more}`,
    ),
    ...[`socket,id=a,path=${path('d.sock')},server,nowait`, 'socket,id=a,host=127.0.0.1,port=1'],
    ...[
      'foo,id=a',
      'vc,id=a',
      'msmouse,id=a',
      '{"id":"a"}',
      'file:/tmp/x,id=a',
      'spicevmc,id=a,name=x',
      'null,id=a,mux=true',
      'mux,id=a,chardev=a',
      ...[-1, 0, 5].map((number) => `socket,id=a,${listening},reconnect=${number}`),
    ],
  ])('%s', async (chardev) => {
    // What is taken is followed by what is refused.
    const args = ['--chardev', chardev, '--monitor', 'no-such']
    const expected = await qsd.try(...args)
    const stderr = expected.stderr.replaceAll(/\S*qemu-storage-daemon/g, 'varve-storage-daemon')
    expect(await ours(args)).toEqual({ ...expected, stderr })
  })
})

qsd.describe('a file with a process id', () => {
  it.each(['theirs', 'ours'])('is left to the daemon that has it: %s', async (whose) => {
    const home = join(folder, `pid-${whose}`)
    mkdirSync(home)
    const pidfile = join(home, 'pid')
    const command = whose === 'ours' ? varveDaemon : [qsd.path as string]
    await using talk = await QmpTalk.start(command, home, ['--pidfile', pidfile])
    // It is written after the monitor listens.
    while (!existsSync(pidfile)) await sleep(5)
    const text = `${talk.process.pid}\n`
    while (readFileSync(pidfile, 'utf8') !== text) await sleep(5)
    const refused = 'cannot create PID file: Cannot lock pid file: Resource temporarily unavailable'
    expect((await ours(['--pidfile', pidfile])).stderr).toBe(`varve-storage-daemon: ${refused}\n`)
    expect((await qsd.try('--pidfile', pidfile)).stderr).toContain(refused)
    expect(readFileSync(pidfile, 'utf8')).toBe(text)
  })
})

describe('varve daemon', () => {
  it('answers -h and -V', async () => {
    expect((await ours(['-h'])).stdout).toMatch(/^Usage: varve-storage-daemon \[options\]/)
    expect((await ours(['-V'])).stdout).toMatch(/^varve-storage-daemon version \d/)
    expect((await ours(['--object', 'help'])).stdout).toContain('  secret\n')
  })

  it('makes what its options say, writes its process id, and ends cleanly on SIGTERM', async () => {
    const home = join(folder, 'term')
    mkdirSync(home)
    const talk = await QmpTalk.start(varveDaemon, home, [
      ...['--object', 'iothread,id=io', '--blockdev', 'null-co,node-name=n,size=1048576'],
      ...['--nbd-server', 'addr.type=unix,addr.path=n.sock', '--pidfile', 'pid'],
      ...['--export', 'nbd,id=e,node-name=n,writable=on,iothread=io'],
    ])
    const { replies } = await talk.say(
      '{"execute":"qmp_capabilities"}{"execute":"query-block-exports"}',
    )
    expect(replies[1].return).toMatchObject([{ id: 'e', 'node-name': 'n' }])
    // It is written after the monitor listens.
    const pid = join(home, 'pid')
    while (!existsSync(pid) || readFileSync(pid, 'utf8') === '') await sleep(5)
    expect(readFileSync(pid, 'utf8')).toBe(`${talk.process.pid}\n`)
    expect(statSync(join(home, 'qmp.sock')).mode % 0o1000).toBe(0o600)
    const ended = once(talk.process, 'exit')
    talk.process.kill('SIGTERM')
    expect(await ended).toEqual([0, null])
    expect(['pid', 'n.sock', 'qmp.sock'].filter((name) => existsSync(join(home, name)))).toEqual([])
  })

  it('holds its images until it is told to end, though nobody can reach it', async () => {
    const [program, ...args] = varveDaemon
    const pid = join(folder, 'alone.pid')
    const blockdev = ['--blockdev', 'null-co,node-name=n', '--pidfile', pid]
    const child = spawn(program, [...args, ...blockdev])
    const ended = once(child, 'exit')
    while (!existsSync(pid) && child.exitCode === null) await sleep(5)
    await sleep(100)
    expect(child.exitCode).toBe(null)
    child.kill('SIGTERM')
    expect(await ended).toEqual([0, null])
    expect(existsSync(pid)).toBe(false)
  })

  it('waits for the first client where that is asked for', async () => {
    const path = join(folder, 'wait.sock')
    const later = join(folder, 'later')
    const daemon = run(
      [
        ...['--chardev', `socket,path=${path},server=on,id=c`, '--monitor', 'c'],
        ...['--pidfile', later],
      ],
      { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr, env: {}, cwd: '/' },
    )
    while (!existsSync(path)) await sleep(2)
    await sleep(20)
    expect(existsSync(later)).toBe(false)
    const client = await QmpClient.connect(path)
    while (!existsSync(later)) await sleep(2)
    await client.execute('quit')
    expect(await daemon).toBe(0)
    await client[Symbol.asyncDispose]()
  })

  it('goes to the background once it is up, and tells when it cannot', async () => {
    const path = join(folder, 'background.sock')
    const [program, ...args] = varveDaemon
    const start = async (...options: string[]) => {
      const child = spawn(program, [...args, '--daemonize', ...options])
      let stderr = ''
      child.stderr.on('data', (text) => {
        stderr += text
      })
      const [status] = await once(child, 'close')
      return { status, stderr }
    }
    const chardev = `socket,path=${path},server=on,wait=off,id=c`
    expect(await start('--chardev', chardev, '--monitor', 'c')).toEqual({ status: 0, stderr: '' })
    await using client = await QmpClient.connect(path)
    await client.execute('quit')
    const refused = await start('--blockdev', 'driver=foo,node-name=a')
    expect(refused).toMatchObject({ status: 1, stderr: expect.stringContaining("value 'foo'") })
  })
})
