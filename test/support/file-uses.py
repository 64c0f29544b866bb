"""Uses a file in every way that a disk shown as a file may be used, and tells what came of it, a line each.

The first argument is the file, the second whether it is written (`read`, `write`), the third what the length of
writes at its end is a multiple of.
"""

import ctypes
import errno
import os
import sys

path, uses, unit = sys.argv[1], sys.argv[2], int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)


def attempt(work):
    try:
        return work()
    except OSError as error:
        return errno.errorcode[error.errno]


def fallocate(fd, mode, offset, length):
    result = libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length))
    return result if result == 0 else errno.errorcode[ctypes.get_errno()]


def tell(name, *results):
    facts = os.stat(path)
    print(name, *results, oct(facts.st_mode), facts.st_size, facts.st_uid, facts.st_gid)


def seek(fd, *offsets):
    whences = (os.SEEK_DATA, os.SEEK_HOLE)
    return [attempt(lambda: os.lseek(fd, at, whence)) for whence in whences for at in offsets]


MiB = 1 << 20
size = os.stat(path).st_size
tell("size")
tell("listxattr", attempt(lambda: os.listxattr(path)))
tell("unlink", attempt(lambda: os.unlink(path)), attempt(lambda: os.rename(path, path + "2")))
tell("utime", attempt(lambda: os.utime(path, (1, 2))))
for mode in (0o400, 0o600, 0o640, 0o444, 0o4500):
    tell("chmod", oct(mode), attempt(lambda: os.chmod(path, mode)))
tell("chown", attempt(lambda: os.chown(path, 1, -1)), attempt(lambda: os.chown(path, -1, 5)))
space = os.statvfs(path)
print("statvfs", space.f_bsize, space.f_blocks, space.f_bfree, space.f_namemax)

if uses == "read":
    tell("truncate", attempt(lambda: os.truncate(path, 2 * size)))
    fd = os.open(path, os.O_RDONLY)
    tell("short", len(os.pread(fd, 10000, size - 100)), len(os.pread(fd, 10000, size)))
    tell("seek", seek(fd, 0, size // 2, size, size + 1))
    writer = os.open(path, os.O_RDWR)
    tell("write", attempt(lambda: os.pwrite(writer, b"x", 0)), fallocate(writer, 3, 0, 4096))
    sys.exit()

fd = os.open(path, os.O_RDWR)
for at, length in ((100, 70000), (size - unit, 2 * unit), (size, unit), (size + MiB, unit)):
    tell("write", at - size, attempt(lambda: os.pwrite(fd, b"x" * length, at)))
tell("seek", seek(fd, 0, 65536, MiB, os.stat(path).st_size))
size = os.stat(path).st_size
calls = (
    (0, 0, 65536),
    (0, size - 4096, 8192),
    (0, size + MiB, MiB),
    (1, 0, 65536),
    (1, size + 2 * MiB, 65536),
    (2, 0, 4096),
    (3, 65536, 65536),
    (16, MiB, 65536),
    (17, MiB, 65536),
    (16, size + 3 * MiB, 65536),
    (17, size + 8 * MiB, 65536),
    (3, size + 8 * MiB, 65536),
    (3, size - MiB, 2 * MiB),
    (8, 0, 65536),
)
for call in calls:
    tell("fallocate", call[0], call[1] - size, call[2], fallocate(fd, *call))
tell("seek", seek(fd, 0, 65536, MiB, size))
for length in (8 * MiB, 4 * MiB + 512, 4 * MiB + 100, 4 * MiB):
    tell("truncate", length, attempt(lambda: os.ftruncate(fd, length)))
tell("sync", attempt(lambda: os.fsync(fd)))
tell("again", attempt(lambda: os.open(path, os.O_RDWR | os.O_TRUNC)) != "EIO")
end = os.open(path, os.O_WRONLY | os.O_APPEND)
tell("append", attempt(lambda: os.write(end, b"a" * unit)))
tell("large", attempt(lambda: os.pwrite(fd, b"y" * 3 * MiB, 12345)), len(os.pread(fd, 4 * MiB, 0)))
