/** Opening and using images that nobody can vouch for. */
import { readdirSync } from 'node:fs'
import { plainIo } from '../../src/block/layer.ts'
import { openDisk } from '../../src/disk.ts'
import { BlockError, firstFailure } from '../../src/errors.ts'

/** What became of an image: its content, or the error that says what is wrong with it. */
export type Fate = { readonly content: Buffer } | { readonly error: unknown }

/** Guests of damaged images may claim any size; a test reads no more than this. */
const readAtMost = 2 * 1024 * 1024

/** What becomes of these disks is seen at once; nobody needs them on stable storage. */
const unsafe = { cache: { 'no-flush': true } }

/** Opens an image for reading, reads its beginning, looks at every extent of that. */
export async function readImage(path: string): Promise<Fate> {
  return await fateOf(async () => {
    await using disk = await openDisk(path, { format: 'qcow2', readOnly: true })
    const content = Buffer.alloc(Math.min(disk.size, readAtMost))
    for await (const run of disk.extents({ length: content.length })) void run
    await disk.read(0, content)
    return content
  })
}

/** Opens an image for writing and changes it in every way that there is. */
export async function writeImage(path: string): Promise<Fate> {
  return await fateOf(async () => {
    await using disk = await openDisk(path, { format: 'qcow2', options: unsafe })
    const size = Math.min(disk.size, readAtMost)
    const steps = [
      () => disk.write(0, Buffer.alloc(Math.min(size, 5000), 0xa5)),
      () => disk.write(Math.floor(size / 2), Buffer.alloc(Math.min(100, size / 2), 0x5a)),
      () => disk.writeZeroes(Math.floor(size / 3), Math.floor(size / 3), { mayUnmap: true }),
      () => disk.discard(0, Math.floor(size / 4)),
      () => disk.flush(),
    ]
    let first: { error: unknown } | undefined
    // One refusal does not end it: the image stays in use, as it would under a guest.
    for (const step of steps) {
      await fateOf(async () => {
        await step()
        return Buffer.alloc(0)
      }).then((fate) => {
        if ('error' in fate) first ??= fate
      })
    }
    if (first) throw first.error
    return Buffer.alloc(0)
  })
}

export async function checkImage(path: string): Promise<Fate> {
  return await fateOf(async () => {
    await using disk = await openDisk(path, { format: 'qcow2', readOnly: true })
    const result = await disk.node.layer.check?.run({ ...plainIo, repair: 'none' })
    return Buffer.from(JSON.stringify(result ?? {}))
  })
}

async function fateOf(work: () => Promise<Buffer>): Promise<Fate> {
  try {
    return { content: await work() }
  } catch (error) {
    return { error: firstFailure(error) }
  }
}

/** Whether an error says what happened, and where, in a sentence; locks have a line more. */
export function isClear(error: unknown): error is BlockError {
  if (!(error instanceof BlockError)) return false
  const { message, code, path, node, offset } = error
  const placed = path !== undefined || node !== undefined || offset !== undefined
  const lines = message.split('\n').length
  return code.length > 0 && message.length > 5 && lines <= (code === 'BUSY' ? 2 : 1) && placed
}

/** Descriptors that this process has open. */
export function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length
}
