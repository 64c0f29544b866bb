/** Devices of this machine by name and by driver, as qemu-io and qemu-img have them. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import { sys } from '../../src/sys/current.ts'
import { peer } from '../peers.ts'
import { runOurs, runTheirs } from '../support/img.ts'
import { qemuIo, realIo, varveIo } from '../support/io-tools.ts'
import { type Message, QmpTalk, varveDaemon } from '../support/qmp-talk.ts'
import { loopDevice } from './mounts.ts'

const folder = mkdtempSync(join(tmpdir(), 'varve-devices-'))
const loop = loopDevice(join(folder, 'loop.raw'), 2 * MiB, 4096)
afterAll(() => {
  loop.down()
  rmSync(folder, { recursive: true })
})
const plain = join(folder, 'plain.raw')
writeFileSync(plain, new Uint8Array(MiB))
const link = join(folder, 'link:to')
symlinkSync(loop.path ?? '/dev/zero', link)

const paths = [plain, '/dev/null', '/dev/zero', folder, join(folder, 'none'), loop.path ?? plain]
const asked = ['-c', 'read 0 512', '-c', 'length', '-c', 'write 0 512', '-c', 'discard 0 4k']

qemuIo.describe('qemu-io', () => {
  const cases = ['host_device', 'host_cdrom', 'file'].flatMap((driver) =>
    paths.map((filename) => [driver, filename]),
  )

  it.each(cases)('driver %s of %s', async (driver, filename) => {
    const options = ['--image-opts', `driver=${driver},filename=${filename}`]
    for (const mode of [['-r'], []]) {
      const resizing = driver === 'file' ? [] : ['-c', 'truncate 4M']
      const args = [...mode, ...asked, ...resizing, ...options]
      expect(await varveIo(args)).toEqual(await realIo(args))
    }
  })

  it.each([link, '/dev/zero', plain])('%s by its name alone', async (filename) => {
    const args = ['-r', '-f', 'raw', ...asked, filename]
    expect(await varveIo(args)).toEqual(await realIo(args))
  })
})

/** linux/fs.h */
const BLKSSZGET = 0x1268

describe.skipIf(loop.path === undefined || !sys().supported.ioctl)('ioctl', () => {
  it('reaches the device through raw, and is refused elsewhere', async () => {
    await using graph = new Graph({ drivers })
    const node = await graph.openFile(loop.path as string, { driver: 'raw' }, { readOnly: true })
    const edge = graph.attach(node, { description: 'test', uses: ['consistentRead'] })
    const blockSize = new Int32Array(1)
    expect(await edge.ioctl?.(BLKSSZGET, new Uint8Array(blockSize.buffer))).toBe(0)
    expect(blockSize[0]).toBe(4096)
    await expect(edge.ioctl?.(0x7fff, 0)).rejects.toMatchObject({ code: 'IO' })
    const other = await graph.openFile(plain, { driver: 'raw' }, { readOnly: true })
    expect(graph.attach(other, { description: 'test', uses: ['consistentRead'] }).ioctl).toBe(
      undefined,
    )
    await expect(other.ioctl(BLKSSZGET, 0)).rejects.toMatchObject({ code: 'UNSUPPORTED' })
  })
})

/** One for each side, as large. */
const growing = ['qemu', 'varve'].map((side) => ({
  side,
  file: join(folder, `${side}.raw`),
  ...loopDevice(join(folder, `${side}.raw`), 2 * MiB),
}))
afterAll(() => {
  for (const device of growing) device.down()
})

const storageDaemon = peer('qemu-storage-daemon')
const canGrow = growing.every(({ path }) => path !== undefined)

describe.skipIf(!canGrow)('the size of a device', () => {
  function grow(size: number): void {
    for (const { file, path } of growing) {
      truncateSync(file, size)
      execFileSync('losetup', ['--set-capacity', path as string])
    }
  }

  storageDaemon.it('is taken notice of by block_resize, and not changed', async () => {
    const [theirs, ours] = await Promise.all([
      QmpTalk.start([storageDaemon.path as string], mkdtempSync(join(folder, 'q'))),
      QmpTalk.start(varveDaemon, mkdtempSync(join(folder, 'v'))),
    ])
    const sides = [theirs, ours] as const
    const say = async (execute: string, args: (device: string) => object = () => ({})) => {
      const answers = await Promise.all(
        sides.map((side, index) =>
          side.say({ execute, arguments: args(growing[index].path as string) }),
        ),
      )
      const [their, our] = answers.map(({ replies }) => replies.map(sizesOf))
      expect(our).toEqual(their)
      return our
    }
    await say('qmp_capabilities')
    const file = (filename: string) => ({ driver: 'host_device', filename, 'node-name': 'f' })
    await say('blockdev-add', (path) => ({ driver: 'raw', 'node-name': 'd', file: file(path) }))
    const resize = (size: number) => say('block_resize', () => ({ 'node-name': 'd', size }))
    await resize(3 * MiB)
    grow(3 * MiB)
    await say('query-named-block-nodes')
    await resize(3 * MiB)
    expect(await say('query-named-block-nodes')).toEqual([[3 * MiB, 3 * MiB]])
    await resize(MiB)
    expect(await say('query-named-block-nodes')).toEqual([[3 * MiB, 3 * MiB]])
    for (const side of sides) await side[Symbol.asyncDispose]()
  })

  qemuIo.it('is what img resize asks for, or else refused', async () => {
    grow(3 * MiB)
    const [theirs, ours] = growing.map(({ path }) => path as string)
    for (const size of ['1M', '3M', '4M']) {
      for (const options of [[], ['--shrink']]) {
        const words = (device: string) => ['resize', '-f', 'raw', ...options, device, size]
        const expected = await runTheirs(folder, words(theirs))
        expect(await runOurs(folder, words(ours)), size).toEqual(expected)
      }
    }
  })

  qemuIo.it('holds new images, as far as they fit', async () => {
    const [theirs, ours] = growing.map(({ path }) => path as string)
    const source = join(folder, 'source.qcow2')
    await qemuIo.run('-f', 'raw', '-c', 'write -P 7 0 1M', growing[0].file)
    await runTheirs(folder, ['convert', '-f', 'raw', '-O', 'qcow2', growing[0].file, source])
    const lines = [
      (device: string) => ['create', '-f', 'qcow2', device, '100M'],
      (device: string) => ['create', '-f', 'raw', device, '9M'],
      (device: string) => ['create', '-f', 'raw', '-o', 'preallocation=full', device, '1M'],
      (device: string) => ['convert', '-O', 'qcow2', source, device],
      (device: string) => ['compare', '-F', 'qcow2', source, device],
      (device: string) => ['convert', '-O', 'raw', source, device],
      (device: string) => ['compare', '-F', 'raw', source, device],
    ]
    for (const words of lines) {
      const told = async (device: string, run: typeof runOurs) => {
        const { status, stdout, stderr } = await run(folder, words(device))
        const plain = (text: string) => text.replaceAll(device, 'DEVICE')
        return { status, stdout: plain(stdout), stderr: plain(stderr) }
      }
      expect(await told(ours, runOurs), words('').join(' ')).toEqual(await told(theirs, runTheirs))
    }
  })
})

/** Of the answer to a query; any other as it is. */
function sizesOf({ return: value, ...rest }: Message): unknown {
  if (!Array.isArray(value)) return { value, ...rest }
  return value.map(({ image }: Message) => (image as Message)['virtual-size'])
}
