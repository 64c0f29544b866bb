import { describe, expect, it } from 'vitest'
import type { Permission } from '../../block/permission.ts'
import { drivers } from '../../drivers.ts'
import { Graph } from '../../graph/graph.ts'
import { fallocateMode, seekWhence, setFlag } from '../../wire/fuse/protocol.ts'
import { DiskFile } from './disk-file.ts'

const KiB = 1024

async function make({ growable = false, writable = true, allowOther = true } = {}) {
  const graph = new Graph({ drivers })
  const node = await graph.open({ driver: 'memory', 'node-name': 'disk', size: 64 * KiB })
  const attach = (uses: Permission[]) => graph.attach(node, { description: 'a file', uses })
  const uses: Permission[] = ['consistentRead']
  if (writable) uses.push('write')
  if (growable) uses.push('resize')
  const edge = attach(uses)
  const attachForResize = () => attach(['resize'])
  const writethrough = false
  const file = new DiskFile({ edge, writable, growable, allowOther, writethrough, attachForResize })
  return { graph, node, file }
}

const no = { valid: 0, size: 0, mode: 0, uid: 0, gid: 0 }

describe('DiskFile', () => {
  it('reads and writes up to its end', async () => {
    const { graph, file } = await make()
    await using _ = graph
    expect(await file.write(64 * KiB - 100, new Uint8Array(300).fill(7))).toBe(100)
    const target = new Uint8Array(300)
    expect(await file.read(64 * KiB - 200, target)).toBe(200)
    expect([target[99], target[100], target[199]]).toEqual([0, 7, 7])
    expect(await file.read(64 * KiB, target)).toBe(0)
    expect(() => file.write(64 * KiB, target)).toThrow('EIO')
  })

  it('grows by whole sectors, several writes at a time', async () => {
    const { graph, file, node } = await make({ growable: true })
    await using _ = graph
    const ends = [70_000, 66_000, 69_000]
    await Promise.all(ends.map((end) => file.write(end - 100, new Uint8Array(100).fill(1))))
    expect([file.size, node.size]).toEqual([70_144, 70_144])
    const last = new Uint8Array(100)
    for (const end of ends) {
      await file.read(end - 100, last)
      expect(last.every((byte) => byte === 1)).toBe(true)
    }
  })

  it('shows a size of whole sectors; what is missing reads as zeroes', async () => {
    const { graph, file } = await make()
    await using _ = graph
    await file.change({ ...no, valid: setFlag.size, size: 1000 })
    expect(file.size).toBe(1024)
    const target = new Uint8Array(100).fill(9)
    expect(await file.read(980, target)).toBe(44)
    expect(target.subarray(0, 44).every((byte) => byte === 0)).toBe(true)
  })

  it('is not changed where it may not be', async () => {
    const { graph, file } = await make({ writable: false, allowOther: false })
    await using _ = graph
    expect(() => file.write(0, new Uint8Array(1))).toThrow('EACCES')
    const change = (what: object) => file.change({ ...no, ...what })
    await expect(change({ valid: setFlag.size })).rejects.toMatchObject({ errno: 'EACCES' })
    await expect(change({ valid: setFlag.uid })).rejects.toMatchObject({ errno: 'ENOTSUP' })
    const mode = (bits: number) => change({ valid: setFlag.mode, mode: bits })
    await expect(mode(0o600)).rejects.toMatchObject({ errno: 'EROFS' })
    await expect(mode(0o440)).rejects.toMatchObject({ errno: 'EPERM' })
    await mode(0o500)
    expect((await file.attributes()).mode & 0o777).toBe(0o500)
  })

  it('zeroes, and finds data and holes', async () => {
    const { graph, file } = await make()
    await using _ = graph
    await file.write(0, new Uint8Array(64 * KiB).fill(5))
    const { punchHole, keepSize } = fallocateMode
    await file.allocate(4096, 8192, punchHole | keepSize)
    const target = new Uint8Array(16 * KiB)
    await file.read(0, target)
    expect([target[4095], target[4096], target[12_287], target[12_288]]).toEqual([5, 0, 0, 5])
    expect(await file.seek(64 * KiB, seekWhence.hole)).toBe(64 * KiB)
    await expect(file.seek(64 * KiB, seekWhence.data)).rejects.toMatchObject({ errno: 'ENXIO' })
    await expect(file.allocate(0, 4096, 0)).rejects.toMatchObject({ errno: 'ENOTSUP' })
    await expect(file.allocate(0, 4096, 8)).rejects.toMatchObject({ errno: 'ENOTSUP' })
    await expect(file.allocate(80 * KiB, 4096, punchHole | keepSize)).rejects.toMatchObject({
      errno: 'EIO',
    })
  })
})
