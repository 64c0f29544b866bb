/** Naming dirty bitmaps. */
import { alternate, object, required, str } from './types.ts'

export const bitmapRef = object('BlockDirtyBitmap', {
  node: required(str, 'The node that the bitmap belongs to.'),
  name: required(str, 'Its name.'),
})

/** By name, or by name and the node it belongs to. */
export const bitmapOrName = alternate<string | { readonly node: string; readonly name: string }>(
  'BlockDirtyBitmapOrStr',
  () => [str, bitmapRef],
)
