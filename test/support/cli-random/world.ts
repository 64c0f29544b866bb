/**
 * A folder of images of every kind that both programs know, made by QEMU's own tools: what random
 * command lines are let loose on. `files` says what is in it.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface WorldFile {
  readonly name: string
  /** As `-f` wants it. */
  readonly format: 'raw' | 'qcow2' | 'luks'
  /** Keys that it needs to be opened. */
  readonly secret?: 'own' | 'luks'
  /** Names of its internal snapshots and bitmaps. */
  readonly snapshots?: readonly string[]
  readonly bitmaps?: readonly string[]
}

export const files: readonly WorldFile[] = [
  { name: 'r', format: 'raw' },
  { name: 'odd', format: 'raw' },
  { name: 'empty', format: 'raw' },
  { name: 'big.raw', format: 'raw' },
  { name: 'a', format: 'qcow2' },
  { name: 'b', format: 'qcow2' },
  { name: 'c', format: 'qcow2' },
  { name: 'onraw', format: 'qcow2' },
  { name: 'short', format: 'qcow2' },
  { name: 'long', format: 'qcow2' },
  { name: 'snaps', format: 'qcow2', snapshots: ['one', 'two', '1', 'a name'] },
  { name: 'snapmaps', format: 'qcow2', snapshots: ['s'], bitmaps: ['x'] },
  { name: 'maps', format: 'qcow2', bitmaps: ['b0', 'b1', 'off'] },
  { name: 'maps2', format: 'qcow2', bitmaps: ['b0', 'coarse'] },
  { name: 'ext', format: 'qcow2', snapshots: ['one'] },
  { name: 'small', format: 'qcow2' },
  { name: 'old', format: 'qcow2', snapshots: ['one'] },
  { name: 'zstd', format: 'qcow2' },
  { name: 'comp', format: 'qcow2' },
  { name: 'outside', format: 'qcow2' },
  { name: 'outraw', format: 'qcow2' },
  { name: 'lazy', format: 'qcow2' },
  { name: 'pre', format: 'qcow2' },
  { name: 'orphan', format: 'qcow2' },
  { name: 'unsaid', format: 'qcow2' },
  { name: 'byjson', format: 'qcow2' },
  { name: 'large', format: 'qcow2' },
  { name: 'tiny', format: 'qcow2', snapshots: ['one'] },
  { name: 'extlarge', format: 'qcow2' },
  { name: 'extover', format: 'qcow2' },
  { name: 'onodd', format: 'qcow2' },
  { name: 'oldover', format: 'qcow2' },
  { name: 'top', format: 'qcow2' },
  { name: 'onzstd', format: 'qcow2' },
  { name: 'state', format: 'qcow2', snapshots: ['ram', 'plain'] },
  { name: 'a,b', format: 'qcow2' },
  { name: 'a b', format: 'raw' },
  { name: 'one', format: 'qcow2' },
  { name: 'l', format: 'luks', secret: 'luks' },
  { name: 'enc', format: 'qcow2', secret: 'own' },
  { name: 'aes', format: 'qcow2', secret: 'own' },
  { name: 'leaky', format: 'qcow2' },
  { name: 'broken', format: 'qcow2' },
  { name: 'unknown', format: 'qcow2' },
  { name: 'dirty', format: 'qcow2' },
  { name: 'marked', format: 'qcow2' },
]

/** What is no image, or not there. */
export const strangers = ['nosuch', 'dir', 'dangling', 'nodir/x', '', 'text', 'a:b', 'file:a']

const secret = 'secret,id=k,data=geheim'

/** A line is for qemu-img; one that begins with `io` is for qemu-io, with commands between `|`. */
const recipe = `
create -f raw r 1M
io raw r|write -P 7 0 64k|write -P 8 300k 5k|write -z 512k 64k
create -f raw odd 0
create -f raw empty 0
create -f raw big.raw 3M
io raw big.raw|write -P 9 1M 1M
create -f qcow2 a 1M
io qcow2 a|write -P 1 0 128k|write -P 2 500k 70k|write -z 256k 64k
create -f qcow2 -b a -F qcow2 b
io qcow2 b|write -P 3 64k 3k|write -z 0 64k|discard 512k 64k
create -f qcow2 -b b -F qcow2 -o cluster_size=4k c
io qcow2 c|write -P 4 70k 10k|write -P 5 900k 8k
create -f qcow2 -b r -F raw onraw
io qcow2 onraw|write -P 6 128k 1k
create -f qcow2 -b a -F qcow2 short 600k
create -f qcow2 -b a -F qcow2 long 2M
io qcow2 long|write -P 6 1500k 10k
create -f qcow2 snaps 1M
io qcow2 snaps|write -P 1 0 100k
snapshot -c one snaps
io qcow2 snaps|write -P 2 64k 100k|write -z 0 64k
snapshot -c two snaps
snapshot -c 1 snaps
resize snaps 1536k
snapshot -c a\\ name snaps
io qcow2 snaps|write -P 3 0 4k
create -f qcow2 snapmaps 1M
bitmap --add snapmaps x
io qcow2 snapmaps|write -P 1 0 100k
snapshot -c s snapmaps
create -f qcow2 maps 1M
bitmap --add maps b0
bitmap --add -g 4k maps b1
io qcow2 maps|write -P 1 0 100k
bitmap --add --disable maps off
io qcow2 maps|write -P 2 512k 1k
create -f qcow2 -o cluster_size=4k maps2 1M
bitmap --add maps2 b0
bitmap --add -g 1M maps2 coarse
io qcow2 maps2|write -P 1 700k 10k
create -f qcow2 -o extended_l2=on,cluster_size=16k ext 1M
io qcow2 ext|write -P 1 0 3k|write -P 2 16k 16k|write -z 40k 1k|write -c 64k 16k
snapshot -c one ext
io qcow2 ext|write -P 4 20k 1k
create -f qcow2 -o cluster_size=512 small 100000
io qcow2 small|write -P 1 0 10k|write -z 20k 3k|discard 2k 1k
create -f qcow2 -o compat=0.10 old 1M
io qcow2 old|write -P 1 0 10k
snapshot -c one old
create -f qcow2 -o compression_type=zstd zstd 1M
io qcow2 zstd|write -c -P 1 0 64k|write -P 2 128k 64k
create -f qcow2 -o cluster_size=4k comp 256k
io qcow2 comp|write -c -P 1 0 4k|write -c -P 2 4k 4k|write -c 128k 4k|write -P 7 8k 1k
create -f qcow2 -o data_file=outside.data outside 1M
io qcow2 outside|write -P 1 0 10k|write -P 2 512k 64k|write -z 64k 64k
create -f qcow2 -o data_file=outraw.data,data_file_raw=on outraw 1M
io qcow2 outraw|write -P 1 0 10k|write -z 512k 64k
create -f qcow2 -o lazy_refcounts=on,refcount_bits=8 lazy 1M
io qcow2 lazy|write -P 1 0 10k
create -f qcow2 -o preallocation=metadata,cluster_size=16k pre 1M
create -f qcow2 -u -b gone -F qcow2 orphan 1M
create -f qcow2 -b a -F qcow2 unsaid
rebase -u -b a -F qcow2 unsaid
create -f qcow2 byjson 1M
rebase -u -b json:{"driver":"qcow2","file":{"driver":"file","filename":"a"}} -F qcow2 byjson
create -f qcow2 -o cluster_size=2M large 5M
io qcow2 large|write -P 1 0 3k|write -P 2 1900k 300k|write -z 4M 1M
create -f qcow2 -o cluster_size=512,refcount_bits=2 tiny 70k
io qcow2 tiny|write -P 1 0 3k|write -P 2 60k 1k|write -z 10k 5k
snapshot -c one tiny
io qcow2 tiny|write -P 3 1k 1k
create -f qcow2 -o extended_l2=on,cluster_size=2M extlarge 3M
io qcow2 extlarge|write -P 1 0 3k|write -P 2 1900k 300k|write -z 64k 64k
create -f qcow2 -b a -F qcow2 -o extended_l2=on extover 1500k
io qcow2 extover|write -P 1 3k 3k|write -z 8k 4k|write -c -P 5 64k 64k|discard 128k 6k
create -f qcow2 -b odd -F raw onodd
create -f qcow2 -b r -F raw -o compat=0.10 oldover 900k
io qcow2 oldover|write -P 3 300k 10k|write -P 4 890k 10k
create -f qcow2 -b oldover -F qcow2 -o cluster_size=512 top 700k
io qcow2 top|write -P 5 100k 3k|write -z 20k 3k|write -z 310k 1k
create -f qcow2 -b zstd -F qcow2 -o compression_type=zstd,cluster_size=2M onzstd 3M
io qcow2 onzstd|write -c -P 5 0 2M
create -f qcow2 state 1M
io qcow2 state|write -P 1 0 10k|write -b -P 9 0 200k
snapshot -c ram state
io qcow2 state|write -P 2 64k 10k
snapshot -c plain state
create -f qcow2 a,b 300k
io qcow2 a,b|write -P 1 0 10k
create -f raw a\\ b 100k
create -f qcow2 -o refcount_bits=1 one 1M
io qcow2 one|write -P 1 0 100k
create --object ${secret} -f luks -o key-secret=k,iter-time=10 l 256k
create --object ${secret} -f qcow2 -o encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10 enc 256k
create --object ${secret} -f qcow2 -o encrypt.format=aes,encrypt.key-secret=k aes 256k
create -f qcow2 leaky 1M
io qcow2 leaky|write -P 1 0 200k
create -f qcow2 broken 1M
io qcow2 broken|write -P 1 0 200k
create -f qcow2 unknown 1M
create -f qcow2 dirty 1M
io qcow2 dirty|write -P 1 0 200k
create -f qcow2 marked 1M
io qcow2 marked|write -P 1 0 200k
`

/**
 * Makes the world in `folder`, which is there and empty. Without `encrypted` images, whose keys take
 * seconds to derive, lines that name them meet nothing.
 */
export function makeWorld(folder: string, { encrypted = true } = {}): void {
  for (const line of recipe.trim().split('\n')) {
    if (!encrypted && line.includes(secret)) continue
    const [words, ...commands] = line.split('|')
    const [program, ...rest] = words.replaceAll('\\ ', '\0').split(' ')
    const plain = rest.map((word) => word.replaceAll('\0', ' '))
    const args =
      program === 'io'
        ? ['-f', plain[0], ...commands.flatMap((command) => ['-c', command]), plain[1]]
        : [program, ...(program === 'create' ? ['-q'] : []), ...plain]
    const tool = program === 'io' ? 'qemu-io' : 'qemu-img'
    patiently(() => execFileSync(tool, args, { cwd: folder, stdio: 'pipe' }))
  }
  const path = (name: string) => join(folder, name)
  writeFileSync(path('odd'), Buffer.alloc(1000, 0x41))
  writeFileSync(path('text'), 'no image at all\n')
  writeFileSync(path('key'), 'geheim')
  writeFileSync(path('key64'), 'Z2VoZWlt\n')
  mkdirSync(path('dir'))
  symlinkSync('nowhere', path('dangling'))
  symlinkSync('a', path('link'))
  spoil(path)
}

/** Keys are derived by the clock of a thread, and it gives up where that stood still. */
function patiently(work: () => void): void {
  for (let tries = 1; ; tries++) {
    try {
      work()
      return
    } catch (error) {
      if (tries === 5 || !String(error).includes(stoodStill)) throw error
    }
  }
}

export const stoodStill = 'Unable to get accurate CPU usage'

/** Places in the header, as specified. */
const incompatibleFeatures = 72
const refcountTableOffset = 48
const snapshotsOffset = 64

/** Places in an entry of the snapshot table. */
const vmClock = 24
const vmStateSize = 32
const snapshotHead = 40

function spoil(path: (name: string) => string): void {
  const change = (name: string, edit: (bytes: Buffer) => void) => {
    const bytes = readFileSync(path(name))
    edit(bytes)
    writeFileSync(path(name), bytes)
  }
  const refcounts = (bytes: Buffer) =>
    Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(refcountTableOffset))))
  // The clusters are the header, refcount table, refcount block, L1, L2, and four of data.
  change('leaky', (bytes) => bytes.writeUInt16BE(3, refcounts(bytes) + 2 * 6))
  change('broken', (bytes) => bytes.writeUInt16BE(0, refcounts(bytes) + 2 * 6))
  // As savevm leaves it: 3 KiB of a machine's state, and half a second of its clock.
  change('state', (bytes) => {
    const entry = Number(bytes.readBigUInt64BE(snapshotsOffset))
    bytes.writeBigUInt64BE(500_000_000n, entry + vmClock)
    bytes.writeUInt32BE(3072, entry + vmStateSize)
    bytes.writeBigUInt64BE(3072n, entry + snapshotHead)
  })
  change('unknown', (bytes) => bytes.writeUInt8(0x80, incompatibleFeatures))
  change('dirty', (bytes) => bytes.writeUInt8(1, incompatibleFeatures + 7))
  change('marked', (bytes) => bytes.writeUInt8(2, incompatibleFeatures + 7))
}
