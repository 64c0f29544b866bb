/**
 * Image locks between varve and QEMU. Whatever two qemu-io processes do to each other, varve and
 * qemu-io do too, either way round and in the same words.
 */
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { Permission } from '../../src/block/permission.ts'
import { BlockError } from '../../src/errors.ts'
import { file, openFileLayer } from '../../src/protocol/file/driver.ts'
import { openKoffiSys } from '../../src/sys/koffi-sys.ts'
import { peer } from '../peers.ts'
import { openContext } from '../support/context.ts'
import { scratchFolder } from '../support/folder.ts'
import { QemuIoSession } from '../support/qemu-session.ts'

const folder = scratchFolder('locks')
const qemuImg = peer('qemu-img', 'qemu-io')
const qemuIo = peer('qemu-io')
const koffi = openKoffiSys()

/** A way to use an image: what qemu-io does, and the permissions that come to the same. */
interface User {
  readonly name: string
  readonly qemuIo: (path: string) => string[]
  readonly readOnly: boolean
  readonly uses: readonly Permission[]
  readonly shares: readonly Permission[]
}

const everything: Permission[] = ['consistentRead', 'write', 'writeUnchanged', 'resize']
const readOnlySharing: Permission[] = ['consistentRead', 'writeUnchanged']

/** As strace showed them: see docs/drivers/file.md. */
const users: readonly User[] = [
  {
    name: 'raw reader',
    qemuIo: (path) => ['-r', '-f', 'raw', path],
    readOnly: true,
    uses: ['consistentRead'],
    shares: everything,
  },
  {
    name: 'raw writer',
    qemuIo: (path) => ['-f', 'raw', path],
    readOnly: false,
    uses: ['consistentRead', 'write'],
    shares: everything,
  },
  {
    name: 'qcow2 reader',
    qemuIo: (path) => ['-r', '-f', 'qcow2', path],
    readOnly: true,
    uses: ['consistentRead'],
    shares: readOnlySharing,
  },
  {
    name: 'qcow2 writer',
    qemuIo: (path) => ['-f', 'qcow2', path],
    readOnly: false,
    uses: ['consistentRead', 'write', 'resize'],
    shares: readOnlySharing,
  },
]

/** `undefined` when it got the image, otherwise the message without its beginning. */
async function tryQemuIo(user: User, path: string): Promise<string | undefined> {
  const { status, stderr } = await qemuIo.try(...user.qemuIo(path), '-c', 'quit')
  if (status === 0) return undefined
  return stderr.slice(stderr.indexOf('Failed to')).trim()
}

async function openVarve(user: User, path: string) {
  const context = openContext({ readOnly: user.readOnly })
  const layer = await openFileLayer('file', file.parse({ filename: path }), context, koffi!)
  try {
    layer.locks!.update(new Set(user.uses), new Set(user.shares))
    return layer
  } catch (error) {
    await layer[Symbol.asyncDispose]()
    throw error
  }
}

async function tryVarve(user: User, path: string): Promise<string | undefined> {
  try {
    await (await openVarve(user, path))[Symbol.asyncDispose]()
    return undefined
  } catch (error) {
    expect(error).toBeInstanceOf(BlockError)
    expect(error).toMatchObject({ code: 'BUSY', path })
    return (error as BlockError).message
  }
}

describe.skipIf(!koffi)('image locks', () => {
  for (const first of users) {
    for (const second of users) {
      qemuIo.it(`${second.name} beside ${first.name}, as between two qemu-io`, async () => {
        const path = join(folder, `${first.name}-${second.name}.qcow2`.replaceAll(' ', '-'))
        await qemuImg.run('create', '-q', '-f', 'qcow2', path, '1M')
        let expected: string | undefined
        {
          await using _holder = await QemuIoSession.open(...first.qemuIo(path))
          expected = await tryQemuIo(second, path)
          // A raw reader lets others write, so it may come in as well.
          if (first.name === 'qcow2 writer' && second.name !== 'raw reader')
            expect(expected).toMatch(/^Failed to get/)
          if (first.readOnly && second.readOnly) expect(expected).toBeUndefined()
          expect(await tryVarve(second, path)).toBe(expected)
        }
        await using _holder = await openVarve(first, path)
        expect(await tryQemuIo(second, path)).toBe(expected)
        expect(await tryVarve(second, path)).toBe(expected)
      })
    }
  }

  qemuImg.it('keep qemu-img out of an image that is being written, unless it insists', async () => {
    const path = join(folder, 'in-use.qcow2')
    await qemuImg.run('create', '-q', '-f', 'qcow2', path, '1M')
    await using _writer = await openVarve(users[3], path)
    for (const args of [
      ['info', path],
      ['check', path],
      ['resize', path, '2M'],
    ]) {
      const { status, stderr } = await qemuImg.try(...args)
      expect(status).toBe(1)
      expect(stderr).toContain(`lock\nIs another process using the image [${path}]?`)
    }
    expect((await qemuImg.try('create', '-f', 'raw', path, '1M')).stderr).toContain('"write" lock')
    expect((await qemuImg.try('info', '-U', path)).status).toBe(0)
  })

  qemuImg.it('go when the image is closed', async () => {
    const path = join(folder, 'closed.qcow2')
    await qemuImg.run('create', '-q', '-f', 'qcow2', path, '1M')
    await (await openVarve(users[3], path))[Symbol.asyncDispose]()
    expect(await tryQemuIo(users[3], path)).toBeUndefined()
  })

  it('refuse nothing to two readers of varve', async () => {
    const path = join(folder, 'readers')
    await file.creator!.create(file.creator!.parse({ filename: path, size: 4096 }), openContext())
    await using _one = await openVarve(users[2], path)
    expect(await tryVarve(users[2], path)).toBeUndefined()
  })
})
