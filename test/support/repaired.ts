/** What repair promises of any image, however broken. */
import { expect } from 'vitest'
import type { BlockLayer } from '../../src/block/layer.ts'
import { openImage } from './qcow2.ts'

/** Repairs the image; when that says all is well, a second look finds nothing. */
export async function repair(file: BlockLayer): Promise<void> {
  const { image } = await openImage(file, { check: true })
  try {
    const { corruptions } = await image.check('all')
    if (corruptions > 0) return
    const again = await image.check('none')
    expect([again.corruptions, again.leaks], again.messages.join('; ')).toEqual([0, 0])
  } finally {
    await image.close()
  }
}
