/** `img convert --bitmaps`: the persistent bitmaps of the source, and what cannot be copied of them. */
import type { DirtyBitmap } from '../../bitmap/dirty-bitmap.ts'
import { BlockError } from '../../errors.ts'
import { addBitmap, enableBitmap, mergeBitmaps, removeBitmap } from '../../graph/bitmap-actions.ts'
import type { BlockNode } from '../../graph/node.ts'
import type { NamedIo } from '../command.ts'
import { CommandFailure, messageOf } from './failure.ts'

/** The source's bitmaps that can be copied; throws where one cannot and is not to be skipped. */
export function bitmapsToCopy(source: BlockNode, skipBroken: boolean, io: NamedIo): DirtyBitmap[] {
  if (!source.layer.bitmaps?.able) throw new CommandFailure('Source lacks bitmap support')
  const persistent = [...source.bitmaps].filter((bitmap) => bitmap.persistent)
  const broken = persistent.filter((bitmap) => bitmap.inconsistent)
  if (broken.length > 0 && !skipBroken) {
    throw new CommandFailure(
      `Cannot copy inconsistent bitmap '${broken[0].name}'\n` +
        "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
    )
  }
  for (const { name } of broken) {
    io.stderr.write(`${io.program}: warning: Skipping inconsistent bitmap '${name}'\n`)
  }
  return persistent.filter((bitmap) => !bitmap.inconsistent)
}

/** Whether bitmaps can be kept in a target. */
export function checkDriver(node: BlockNode): void {
  if (node.layer.bitmaps?.able) return
  throw new CommandFailure(`Format driver '${node.driver}' does not support bitmaps`)
}

export async function copyBitmaps(
  source: BlockNode,
  target: BlockNode,
  bitmaps: readonly DirtyBitmap[],
): Promise<void> {
  for (const { name, granularity, enabled } of bitmaps) {
    attempt(`Failed to create bitmap ${name}`, () =>
      addBitmap(target, { name, granularity, persistent: true, disabled: true }),
    )
    try {
      mergeBitmaps({ node: target, name }, [{ node: source, name }])
    } catch (error) {
      await removeBitmap(target, name)
      attempt(`Failed to populate bitmap ${name}`, () => {
        throw error
      })
    }
    if (enabled) enableBitmap(target, name, true)
  }
}

function attempt(what: string, work: () => void): void {
  try {
    work()
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    throw new CommandFailure(`${what}: ${messageOf(error)}`)
  }
}
