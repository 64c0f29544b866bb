/** Wishes to the file system that it may not know; then they are without effect. */
import { viewOf } from '../../bytes/view.ts'
import type { OpenFile } from './open-file.ts'

/** ioctl_iflags(2), 64-bit Linux */
const FS_IOC_GETFLAGS = 0x80086601
const FS_IOC_SETFLAGS = 0x40086602
const FS_NOCOW_FL = 0x00800000

/** ioctl_xfs_fsgetxattr(2) */
const FS_IOC_FSGETXATTR = 0x801c581f
const FS_IOC_FSSETXATTR = 0x401c5820
const FS_XFLAG_EXTSIZE = 0x00000800
const fsxattrSize = 28

const littleEndian = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1

/** Only an empty file can change. */
export function setNoCow(file: OpenFile): Promise<void> {
  const flags = new Uint8Array(8)
  return change(file, flags, FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, () => {
    setBit(flags, FS_NOCOW_FL)
  })
}

export function setExtentSizeHint(file: OpenFile, bytes: number): Promise<void> {
  const attributes = new Uint8Array(fsxattrSize)
  return change(file, attributes, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR, () => {
    setBit(attributes, FS_XFLAG_EXTSIZE)
    viewOf(attributes).setUint32(4, bytes, littleEndian)
  })
}

/** In the first 32 bits, in the order of this machine. */
function setBit(bytes: Uint8Array, mask: number): void {
  const view = viewOf(bytes)
  view.setUint32(0, (view.getUint32(0, littleEndian) | mask) >>> 0, littleEndian)
}

/** Reads, edits and writes back. The image is as good where that fails. */
async function change(
  file: OpenFile,
  attributes: Uint8Array,
  get: number,
  set: number,
  edit: () => void,
): Promise<void> {
  if (!file.sys.supported.ioctl) return
  try {
    await file.during((fd) => file.sys.ioctl(fd, get, attributes))
    edit()
    await file.during((fd) => file.sys.ioctl(fd, set, attributes))
  } catch {
    // Not a file system that knows the attribute, or not a value that it takes.
  }
}
