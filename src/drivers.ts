/** The one list of drivers. Probing asks the formats in this order. */
import { vma } from './archive/vma/layer.ts'
import type { BlockDriver } from './block/driver.ts'
import { raw } from './format/raw.ts'
import { file, hostDevice } from './protocol/file/driver.ts'
import { memory } from './protocol/memory.ts'
import { nullAio, nullCo } from './protocol/null.ts'

export const drivers: readonly BlockDriver[] = [
  file,
  hostDevice,
  memory,
  nullCo,
  nullAio,
  raw,
  vma,
] as readonly BlockDriver[]
