/** A header at the beginning of a file. */
import { type BlockLayer, plainIo, plainWriteIo } from '../../block/layer.ts'
import type { HeaderStorage } from '../../crypto/luks/storage.ts'
import { BlockError } from '../../errors.ts'

export function fileStorage(file: BlockLayer): HeaderStorage {
  return {
    async read(offset, target) {
      if (offset + target.length > file.size) {
        // A file that is too short to hold a header is none; see `decodeHeader`.
        if (offset === 0) return
        throw new BlockError(
          'CORRUPT_IMAGE',
          `key material at ${offset} lies behind the end of the file of ${file.size} bytes`,
          { offset, errno: 'EIO' },
        )
      }
      await file.read(offset, target, plainIo)
    },
    async write(offset, source) {
      await file.write(offset, source, plainWriteIo)
    },
    async flush() {
      await file.flush(plainIo)
    },
  }
}
