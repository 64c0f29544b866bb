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
export function setNoCow(file: OpenFile): void {
  const flags = new Uint8Array(8)
  const view = viewOf(flags)
  attempt(file, () => {
    file.sys.ioctl(file.fd, FS_IOC_GETFLAGS, flags)
    view.setUint32(0, (view.getUint32(0, littleEndian) | FS_NOCOW_FL) >>> 0, littleEndian)
    file.sys.ioctl(file.fd, FS_IOC_SETFLAGS, flags)
  })
}

export function setExtentSizeHint(file: OpenFile, bytes: number): void {
  const attributes = new Uint8Array(fsxattrSize)
  const view = viewOf(attributes)
  attempt(file, () => {
    file.sys.ioctl(file.fd, FS_IOC_FSGETXATTR, attributes)
    view.setUint32(0, (view.getUint32(0, littleEndian) | FS_XFLAG_EXTSIZE) >>> 0, littleEndian)
    view.setUint32(4, bytes, littleEndian)
    file.sys.ioctl(file.fd, FS_IOC_FSSETXATTR, attributes)
  })
}

/** The image is as good without. */
function attempt(file: OpenFile, work: () => void): void {
  if (!file.sys.supported.ioctl) return
  try {
    work()
  } catch {
    // Not a file system that knows the attribute, or not a value that it takes.
  }
}
