/**
 * What is done with encrypted images, by turns by varve and by QEMU: key slots, snapshots, external
 * data files, subclusters, older versions, broken refcounts, keys from descriptors and keys that
 * other keys protect.
 */
import { createCipheriv, randomBytes } from 'node:crypto'
import { openSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it, vi } from 'vitest'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'
import { varveIo } from '../support/io-tools.ts'

/** Each opening tries a password. */
const long = process.env.VARVE_LONG !== undefined

const qemu = peer('qemu-img', 'qemu-io')
const objects = Object.entries({ s: 'open sesame', n: 'new', m: 'another' }).flatMap(
  ([id, data]) => ['--object', `secret,id=${id},data=${data}`],
)

function opened(format: string, path: string, id = 's', more = ''): string[] {
  const name = format === 'qcow2' ? 'encrypt.key-secret' : 'key-secret'
  return ['--image-opts', `driver=${format},${name}=${id},file.filename=${path}${more}`]
}

function created(format: string, path: string, options = ''): string[] {
  const keys =
    format === 'qcow2'
      ? 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10'
      : 'key-secret=s,iter-time=10'
  return ['create', '-q', ...objects, '-f', format, '-o', `${keys}${options}`, path, '4M']
}

type Img = (args: readonly string[]) => Promise<void>
type Io = (image: readonly string[], ...commands: string[]) => Promise<void>

interface Side {
  readonly img: Img
  readonly io: Io
}

/** The two programs, which have to succeed. */
function sides(pair: Pair): { ours: Side; theirs: Side } {
  const io = (image: readonly string[], commands: readonly string[]) => [
    ...objects,
    ...image,
    ...commands.flatMap((command) => ['-c', command]),
  ]
  return {
    ours: {
      async img(args) {
        expect(await runOurs(pair.ours, args), args.join(' ')).toMatchObject({ status: 0 })
      },
      async io(image, ...commands) {
        const outcome = await varveIo(io(image, commands))
        expect(outcome, commands.join('; ')).toMatchObject({ status: 0 })
      },
    },
    theirs: {
      async img(args) {
        // It gives up when the clock did not move while it measured PBKDF2.
        for (let attempt = 0; attempt < 30; attempt++) {
          const outcome = await runTheirs(pair.theirs, args)
          if (outcome.stderr.includes('accurate CPU usage')) continue
          expect(outcome, args.join(' ')).toMatchObject({ status: 0 })
          return
        }
        expect.fail('qemu-img cannot measure the time of PBKDF2')
      },
      async io(image, ...commands) {
        const outcome = await runTheirs(pair.theirs, io(image, commands), 'qemu-io')
        expect(outcome, commands.join('; ')).toMatchObject({ status: 0 })
      },
    },
  }
}

vi.setConfig({ testTimeout: 60_000 })

qemu.describe('encrypted images, used by turns', () => {
  for (const format of ['luks', 'qcow2']) {
    it(`${format}: key slots come and go`, async () => {
      using pair = new Pair()
      const { ours, theirs } = sides(pair)
      const path = join(pair.ours, 'image')
      const dot = format === 'qcow2' ? 'encrypt.' : ''
      const amend = (options: string, id: string, ...more: string[]) => {
        const list = options.split(',').map((option) => dot + option)
        return ['amend', ...more, ...objects, '-o', list.join(','), ...opened(format, path, id)]
      }
      await ours.img(created(format, path))
      await theirs.io(opened(format, path), 'write -P 1 0 1M')
      const turns = [
        [ours, theirs],
        [theirs, ours],
      ]
      for (const [one, other] of long
        ? turns
        : turns.slice(format === 'luks' ? 1 : 0, format === 'luks' ? 2 : 1)) {
        await one.img(amend('state=active,new-secret=n,iter-time=10', 's'))
        await other.io(opened(format, path, 'n'), 'read -P 1 0 1M')
        await other.img(amend('state=active,new-secret=m,keyslot=6,iter-time=10', 'n'))
        await one.io(opened(format, path, 'm'), 'read -P 1 0 1M')
        await one.img(amend('state=inactive,old-secret=n', 's'))
        await other.img(amend('state=inactive,keyslot=6', 's'))
        const gone = ['map', ...objects, ...opened(format, path, 'n')]
        for (const run of [runOurs, runTheirs]) {
          expect((await run(pair.ours, gone)).stderr).toContain('cannot unlock any keyslot')
        }
      }
      await ours.img(amend('state=active,new-secret=n,keyslot=0,iter-time=10', 's', '--force'))
      await theirs.io(opened(format, path, 'n'), 'read -P 1 0 1M')
      await ours.img(amend('state=inactive,keyslot=0', 'n', '--force'))
      expect((await runTheirs(pair.ours, ['info', path])).stdout).not.toContain('active: true')
    })
  }

  const kinds = [',data_file=DATA', ',extended_l2=on,preallocation=metadata']
  const moreKinds = ['', ',extended_l2=on', ',cluster_size=512', ',compat=0.10']
  for (const kind of long ? [...kinds, ...moreKinds] : kinds) {
    it(`qcow2${kind}: written by turns`, async () => {
      using pair = new Pair()
      const { ours, theirs } = sides(pair)
      const path = join(pair.ours, 'image')
      const options = kind.replace('DATA', join(pair.ours, 'data'))
      for (const maker of long ? [ours, theirs] : [ours]) {
        await maker.img(created('qcow2', path, options))
        await ours.io(opened('qcow2', path), 'write -P 3 100k 1M')
        await theirs.io(opened('qcow2', path), 'read -P 3 100k 1M', 'write -P 4 2000k 1M')
        await ours.io(opened('qcow2', path), 'read -P 4 2000k 1M', 'write -z 2M 64k')
        await theirs.io(opened('qcow2', path), 'read -P 0 2M 64k', 'read -P 3 100k 1M')
        const check = ['check', '-q', ...objects, ...opened('qcow2', path)]
        await theirs.img(check)
        await ours.img(check)
      }
    })
  }

  it('snapshots have their clusters enciphered where they lie', async () => {
    using pair = new Pair()
    const { ours, theirs } = sides(pair)
    const path = join(pair.ours, 'image')
    const image = opened('qcow2', path)
    await ours.img(created('qcow2', path))
    await theirs.io(image, 'write -P 1 0 1M')
    await ours.img(['snapshot', '-q', ...objects, '-c', 'one', ...image])
    await ours.io(image, 'write -P 2 100k 300k')
    await theirs.io(image, 'read -P 1 0 100k', 'read -P 2 100k 300k', 'write -P 3 500k 300k')
    await ours.io(image, 'read -P 3 500k 300k')
    await theirs.img(['snapshot', '-q', ...objects, '-a', 'one', ...image])
    await ours.io(image, 'read -P 1 0 1M')
    await ours.img(['snapshot', '-q', ...objects, '-d', 'one', ...image])
    await theirs.img(['check', '-q', ...objects, ...image])
  })

  it('zeroes are stored enciphered when version 2 has no marks for them', async () => {
    using pair = new Pair()
    const { ours, theirs } = sides(pair)
    const path = join(pair.ours, 'image')
    const base = join(pair.ours, 'base')
    const image = opened('qcow2', path)
    writeFileSync(base, new Uint8Array(4 * 1024 * 1024).fill(9))
    await ours.img(created('qcow2', path, `,backing_file=${base},backing_fmt=raw`))
    await theirs.io(image, 'write -P 3 100k 100k', 'write -z 1M 300k')
    await ours.img(['amend', ...objects, '-o', 'compat=0.10', ...image])
    await theirs.io(image, 'read -P 3 100k 100k', 'read -P 0 1M 300k', 'read -P 9 2M 1M')
    await theirs.img(['check', '-q', ...objects, ...image])
  })

  it('rebuilding refcounts leaves the key material alone', async () => {
    using pair = new Pair()
    const { ours, theirs } = sides(pair)
    const path = join(pair.ours, 'image')
    const image = opened('qcow2', path)
    await ours.img(created('qcow2', path))
    await theirs.io(image, 'write -P 3 100k 1M')
    const bytes = readFileSync(path)
    const table = Number(bytes.readBigUInt64BE(48))
    writeFileSync(path, bytes.fill(0, table, table + 8))
    await ours.img(['check', '-q', '-r', 'all', ...objects, ...image])
    await theirs.img(['check', '-q', ...objects, ...image])
    await theirs.io(image, 'read -P 3 100k 1M', 'write -P 5 0 100k')
    await ours.io(image, 'read -P 5 0 100k')
  })

  it('keys come from descriptors, and protected by other keys', async () => {
    using pair = new Pair()
    const { ours } = sides(pair)
    const path = join(pair.ours, 'image')
    await ours.img(created('luks', path))
    const keyFile = join(pair.ours, 'key')
    writeFileSync(keyFile, 'open sesame')
    const fd = openSync(keyFile, 'r')
    const [, imageOpts] = opened('luks', path, 'd')
    const own = ['--object', `secret,id=d,file=/dev/fd/${fd}`, '--image-opts', imageOpts]
    expect(await varveIo([...own, '-c', 'read 0 512'])).toMatchObject({ status: 0 })

    const key = randomBytes(32)
    const iv = randomBytes(16)
    const cipher = createCipheriv('aes-256-cbc', key, iv)
    const hidden = Buffer.concat([cipher.update('open sesame'), cipher.final()])
    const raw = openSync(join(pair.ours, 'raw'), 'w')
    writeSync(raw, hidden)
    const secrets = [
      `secret,id=k,format=base64,data=${key.toString('base64')}`,
      `secret,id=d,keyid=k,file=${join(pair.ours, 'raw')},iv=${iv.toString('base64')}`,
    ]
    const both = [...secrets.flatMap((one) => ['--object', one]), '--image-opts', imageOpts]
    expect(await varveIo([...both, '-c', 'read 0 512'])).toMatchObject({ status: 0 })
    expect(await runTheirs(pair.ours, [...both, '-c', 'read 0 512'], 'qemu-io')).toMatchObject({
      status: 0,
    })
  })
})
