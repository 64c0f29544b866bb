/** The one list of drivers. Probing asks the formats in this order. */
import { vma } from './archive/vma/driver.ts'
import type { BlockDriver } from './block/driver.ts'
import { blkdebug } from './filter/blkdebug/blkdebug.ts'
import { blklogwrites } from './filter/blklogwrites.ts'
import { blkverify } from './filter/blkverify.ts'
import { compress } from './filter/compress.ts'
import { copyBeforeWrite } from './filter/copy-before-write.ts'
import { copyOnRead } from './filter/copy-on-read.ts'
import { preallocate } from './filter/preallocate.ts'
import { quorum } from './filter/quorum.ts'
import { snapshotAccess } from './filter/snapshot-access.ts'
import { throttle } from './filter/throttle.ts'
import { luks } from './format/luks/luks.ts'
import { qcow2 } from './format/qcow2/qcow2.ts'
import { raw } from './format/raw.ts'
import { file, hostCdrom, hostDevice } from './protocol/file/driver.ts'
import { memory } from './protocol/memory.ts'
import { nbd } from './protocol/nbd/driver.ts'
import { nullAio, nullCo } from './protocol/null.ts'

const all = [
  // protocols
  file,
  hostCdrom,
  hostDevice,
  memory,
  nbd,
  nullAio,
  nullCo,
  // formats
  luks,
  qcow2,
  raw,
  vma,
  // filters
  blkdebug,
  blklogwrites,
  blkverify,
  compress,
  copyBeforeWrite,
  copyOnRead,
  preallocate,
  quorum,
  snapshotAccess,
  throttle,
]

/** Each driver takes the options that its own `parse` returned, whatever their type. */
export const drivers = all as readonly BlockDriver[]
