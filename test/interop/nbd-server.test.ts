/** Our server with the clients that people have: libnbd's tools, QEMU's, fio. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, expect, it } from 'vitest'
import { NbdServer } from '../../src/export/nbd/server.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import type { TlsCredentials } from '../../src/tls/credentials.ts'
import { loadX509 } from '../../src/tls/load-x509.ts'
import {
  NBD_OPT_LIST,
  NBD_OPT_STARTTLS,
  NBD_REP_ERR_TLS_REQD,
} from '../../src/wire/nbd/constants.ts'
import { peer } from '../peers.ts'
import { makePki } from '../support/certificates.ts'
import { scratchFolder } from '../support/folder.ts'
import { RawClient } from '../support/nbd-wire.ts'
import { Random, seedNote } from '../support/random.ts'
import { until } from '../support/until.ts'

const nbdinfo = peer('nbdinfo')
const nbdcopy = peer('nbdcopy')
const env = peer('env', 'nbdsh')
const qemuImg = peer('qemu-img', 'qemu-io')
const qemuIo = peer('qemu-io')
const fio = peer('fio')
const folder = scratchFolder('nbd-server')
const MiB = 2 ** 20

interface Served extends AsyncDisposable {
  readonly server: NbdServer
  readonly socket: string
  /** Of the unnamed export. */
  readonly uri: string
  readonly disk: MemoryLayer
}

let count = 0

async function serve(size: number, tls?: TlsCredentials): Promise<Served> {
  const socket = join(folder, `socket${count++}`)
  const server = await NbdServer.listen({ path: socket, tls })
  const disk = new MemoryLayer({ size })
  server.addExport({ name: '', layer: disk, writable: true })
  return {
    server,
    socket,
    uri: `nbd+unix:///?socket=${socket}`,
    disk,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}

/** Data and holes, from chance. */
function fill(disk: MemoryLayer, random: Random): Buffer {
  const content = Buffer.alloc(disk.size)
  for (let count = 0; count < 20; count++) {
    const [offset, length] = random.range(disk.size, 1, 300_000)
    content.set(random.bytes(length), offset)
  }
  disk.write(0, content, { signal: new AbortController().signal, fua: false, unchanged: false })
  return content
}

function contentOf(disk: MemoryLayer): Buffer {
  const content = Buffer.alloc(disk.size)
  disk.read(0, content, { signal: new AbortController().signal })
  return content
}

nbdinfo.it('nbdinfo tells what is exported, and where data is', async () => {
  await using served = await serve(4 * MiB)
  const other = new MemoryLayer({ size: 1000 })
  const named = { name: 'ünï', description: 'a text', layer: other, writable: false }
  served.server.addExport(named)
  const list = JSON.parse(await nbdinfo.run('--list', '--json', served.uri))
  expect(list.exports).toMatchObject([
    { 'export-name': '', 'export-size': 4 * MiB, is_read_only: false, can_trim: true },
    { 'export-name': 'ünï', 'export-size': 1000, is_read_only: true, description: 'a text' },
  ])
  const signal = new AbortController().signal
  served.disk.write(MiB, new Uint8Array(65536).fill(1), { signal, fua: false, unchanged: false })
  expect(JSON.parse(await nbdinfo.run('--map', '--json', served.uri))).toEqual([
    { offset: 0, length: MiB, type: 3, description: 'hole,zero' },
    { offset: MiB, length: 65536, type: 0, description: 'data' },
    { offset: MiB + 65536, length: 3 * MiB - 65536, type: 3, description: 'hole,zero' },
  ])
})

nbdcopy.it(
  `nbdcopy copies into it and out of it, over several connections (${seedNote})`,
  async () => {
    await using from = await serve(16 * MiB)
    await using to = await serve(16 * MiB)
    const content = fill(from.disk, new Random())
    await nbdcopy.run('--connections=4', '--requests=64', from.uri, to.uri)
    expect(contentOf(to.disk).equals(content)).toBe(true)
    const file = join(folder, 'copy.raw')
    await nbdcopy.run(to.uri, file)
    expect(readFileSync(file).equals(content)).toBe(true)
    await using back = await serve(16 * MiB)
    await nbdcopy.run('--flush', file, back.uri)
    expect(contentOf(back.disk).equals(content)).toBe(true)
  },
)

env.it('nbdsh exercises every command, with and without structured replies', async () => {
  await using served = await serve(2 * MiB)
  const script = join(folder, 'commands.py')
  writeFileSync(script, everyCommand)
  for (const structured of ['True', 'False']) {
    const set = `h.set_request_structured_replies(${structured})`
    const connect = `h.add_meta_context("base:allocation"); h.connect_uri("${served.uri}")`
    const words = ['-c', set, '-c', connect, '-c', `exec(open("${script}").read())`]
    // With the system's Python, whose module it is, whatever other Python there may be.
    expect(await env.run('PATH=/usr/bin:/bin', 'nbdsh', ...words)).toBe('every command done\n')
  }
})

const everyCommand = `
def fails(code, call):
    try:
        call()
    except nbd.Error as error:
        assert error.errno == code, (error.errno, code)
    else:
        assert False, 'it did not fail'
h.set_strict_mode(0)
structured = h.get_structured_replies_negotiated()
M = 1024 * 1024
assert h.get_size() == 2 * M
h.zero(2 * M, 0)
h.pwrite(b'a' * 5000, 100, nbd.CMD_FLAG_FUA)
assert h.pread(5002, 99) == b'\\0' + b'a' * 5000 + b'\\0'
h.zero(1000, 1000, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(1002, 999) == b'a' + b'\\0' * 1000 + b'a'
h.trim(4096, 8192)
h.trim(4096, 8192, nbd.CMD_FLAG_FUA)
h.cache(65536, 0)
h.flush()
h.pwrite(b'b' * M, M)
assert h.pread(2 * M, 0)[M:] == b'b' * M
try:
    h.zero(M, M, nbd.CMD_FLAG_FAST_ZERO)
except nbd.Error as error:
    assert error.errno == 'ENOTSUP'
h.zero(M, M)
assert h.pread(M, M) == b'\\0' * M
fails('EINVAL', lambda: h.pread(512, 2 * M - 511))
fails('ENOSPC', lambda: h.pwrite(b'x' * 512, 2 * M - 511))
fails('ENOSPC', lambda: h.zero(512, 2 * M - 511))
fails('EINVAL', lambda: h.trim(512, 2 * M - 511))
if structured:
    chunks = []
    def chunk(data, offset, status, err):
        chunks.append((offset, len(data), status))
    data = h.pread_structured(2 * M, 0, chunk)
    assert data == h.pread(2 * M, 0)
    assert sum(length for _, length, _ in chunks) == 2 * M
    assert {status for _, _, status in chunks} == {nbd.READ_DATA, nbd.READ_HOLE}, chunks
    chunks.clear()
    h.pread_structured(2 * M, 0, chunk, nbd.CMD_FLAG_DF)
    assert chunks == [(0, 2 * M, nbd.READ_DATA)], chunks
    runs = []
    def extents(context, offset, entries, err):
        assert context == 'base:allocation'
        runs.append((offset, entries))
    h.block_status(2 * M, 0, extents)
    assert runs[0][0] == 0 and sum(runs[0][1][0::2]) == 2 * M, runs
    runs.clear()
    h.block_status(2 * M, 0, extents, nbd.CMD_FLAG_REQ_ONE)
    assert len(runs[0][1]) == 2, runs
    # Sixty-four reads at once, each of its own.
    for index in range(64):
        h.pwrite(bytes([index + 1]) * 700, index * 1000)
    buffers = [nbd.Buffer(700) for _ in range(64)]
    cookies = [h.aio_pread(buffers[index], index * 1000) for index in range(64)]
    while cookies:
        h.poll(-1)
        cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]
    for index in range(64):
        assert buffers[index].to_bytearray() == bytes([index + 1]) * 700
h.shutdown()
print('every command done')
`

qemuImg.it(`qemu-img and qemu-io work with it as a disk (${seedNote})`, async () => {
  await using served = await serve(8 * MiB)
  const content = fill(served.disk, new Random())
  const raw = join(folder, 'from.raw')
  const qcow2 = join(folder, 'from.qcow2')
  await qemuImg.run('convert', '-f', 'raw', '-O', 'raw', served.uri, raw)
  expect(readFileSync(raw).equals(content)).toBe(true)
  await qemuImg.run('convert', '-f', 'raw', '-O', 'qcow2', served.uri, qcow2)
  await using target = await serve(8 * MiB)
  await qemuImg.run('convert', '-n', '-W', '-m', '16', '-O', 'raw', qcow2, target.uri)
  expect(contentOf(target.disk).equals(content)).toBe(true)
  expect(await qemuImg.run('compare', '-f', 'raw', '-F', 'qcow2', target.uri, qcow2)).toBe(
    'Images are identical.\n',
  )
  const commands = [
    'write -P 1 0 100k',
    'write -f -P 2 100k 77',
    'write -z 4k 8k',
    'write -zu 32k 8k',
    'discard 1M 1M',
    'flush',
    'read -P 1 0 4k',
    'read -P 0 4k 8k',
    'read -P 2 100k 77',
  ]
  await qemuIo.run('-f', 'raw', ...commands.flatMap((line) => ['-c', line]), target.uri)
  const map = JSON.parse(await qemuImg.run('map', '--output=json', '-f', 'raw', target.uri))
  expect(map.reduce((sum: number, run: { length: number }) => sum + run.length, 0)).toBe(8 * MiB)
})

fio.it(`fio finds everything that it has written (${seedNote})`, async () => {
  await using served = await serve(16 * MiB)
  const output = await fio.run(
    '--name=verify',
    '--ioengine=nbd',
    `--uri=${served.uri}`,
    '--rw=randrw',
    '--bsrange=512-128k',
    '--blockalign=512',
    '--iodepth=32',
    '--size=16m',
    '--verify=crc32c',
    '--verify_fatal=1',
    '--verify_state_save=0',
    `--randseed=${new Random().below(2 ** 31)}`,
    '--fsync=64',
  )
  expect(output).toContain('err= 0')
})

nbdinfo.describe('TLS', () => {
  const at = (name: string) => join(folder, 'pki', name)
  let credentials: TlsCredentials

  const withVerify = (verifyPeer: boolean) =>
    loadX509({ directory: at(''), endpoint: 'server', verifyPeer })

  beforeAll(() => {
    makePki(at(''))
    mkdirSync(at('bare'))
    writeFileSync(at('bare/ca-cert.pem'), readFileSync(at('ca-cert.pem')))
    credentials = withVerify(true)
  })

  const uriOf = (served: Served, directory: string) =>
    `nbds+unix://localhost/?socket=${served.socket}&tls-certificates=${directory}`

  it('serves a client that has a certificate, and data arrives whole', async () => {
    await using served = await serve(4 * MiB, credentials)
    const content = fill(served.disk, new Random())
    const info = JSON.parse(await nbdinfo.run('--json', uriOf(served, at(''))))
    expect(info).toMatchObject({ TLS: true, structured: true })
    const file = join(folder, 'tls.raw')
    await nbdcopy.run(uriOf(served, at('')), file)
    expect(readFileSync(file).equals(content)).toBe(true)
  })

  it('turns a client away that has none, unless it need not have one', async () => {
    await using strict = await serve(MiB, credentials)
    const outcome = await nbdinfo.try('--size', uriOf(strict, at('bare')))
    expect(outcome.status).not.toBe(0)
    await using lenient = await serve(MiB, withVerify(false))
    expect(await nbdinfo.run('--size', uriOf(lenient, at('bare')))).toBe(`${MiB}\n`)
  })

  it('answers nothing but NBD_OPT_STARTTLS in the clear', async () => {
    await using served = await serve(MiB, credentials)
    await using client = await RawClient.greeted(served.socket)
    expect(await client.option(NBD_OPT_LIST)).toMatchObject([{ type: NBD_REP_ERR_TLS_REQD }])
    const plain = await nbdinfo.try('--size', served.uri)
    expect(plain.status).not.toBe(0)
  })

  it('takes nothing that was slipped in behind NBD_OPT_STARTTLS, and no garbage', async () => {
    await using served = await serve(MiB, credentials)
    await using slipped = await RawClient.greeted(served.socket)
    const option = Buffer.from('49484156454f5054' + '00000005' + '00000000', 'hex')
    slipped.send(Buffer.concat([option, option]))
    await slipped.closed()
    await using garbage = await RawClient.greeted(served.socket)
    await garbage.option(NBD_OPT_STARTTLS)
    garbage.send(Buffer.alloc(1000, 'x'))
    await garbage.closed()
    await until(() => served.server.connections === 0)
  })
})
