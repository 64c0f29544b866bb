"""A guest's load on a vhost-user-blk device: so many requests at a time, of one length, at random sectors.

Arguments: socket, depth, `read` or `write`, bytes of a request, seconds. Prints requests a second. What the device is asked
for is made ready before, so that little is measured of this program.
"""

import os
import random
import select
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "test", "support"))
from vhost_user import *

path, kind = sys.argv[1], sys.argv[3]
depth, length = int(sys.argv[2]), int(sys.argv[4])
seconds = float(sys.argv[5])
disk = Disk(path, memory=(depth * (length + 4096)) + (1 << 20), size=256, event_index=True)
end = struct.unpack("<Q", disk.master.config(8))[0] // (length // 512)
queue, memory = disk.queues[0], disk.memories[0]
shared, base = memory.map, memory.offset - memory.guest
sectors = {}
for _ in range(depth):
    header = disk.header(T_OUT if kind == "write" else T_IN, 0)
    data = memory.take(length, 4096)
    head = queue.chain([header, (data, length, kind != "write"), disk.status()], indirect=True)
    sectors[head] = base + header[0] + 8
places = [struct.pack("<Q", random.randrange(end) * (length // 512)) for _ in range(4096)]
avail, used, size = base + queue.avail, base + queue.used, queue.size
u16 = struct.Struct("<H")
free, added, seen, done = list(sectors), 0, 0, 0
wake = select.poll()
wake.register(queue.call_fd, select.POLLIN)


def run(until):
    global free, added, seen, done
    count = 0
    while time.monotonic() < until:
        before = added
        for head in free:
            place = places[(done + added) % 4096]
            shared[sectors[head] : sectors[head] + 8] = place
            at = avail + 4 + 2 * (added % size)
            shared[at : at + 2] = u16.pack(head)
            added = (added + 1) & 0xFFFF
        shared[avail + 2 : avail + 4] = u16.pack(added)
        (event,) = u16.unpack_from(shared, used + 4 + 8 * size)
        if free and ((added - event - 1) & 0xFFFF) < ((added - before) & 0xFFFF):
            os.eventfd_write(queue.kick_fd, 1)
        free = []
        while not free:
            (now,) = u16.unpack_from(shared, used + 2)
            if now == seen:
                shared[avail + 4 + 2 * size : avail + 6 + 2 * size] = u16.pack(seen)
                (now,) = u16.unpack_from(shared, used + 2)
                if now == seen:
                    if not wake.poll(10_000):
                        sys.exit("the device stands still")
                    try:
                        os.eventfd_read(queue.call_fd)
                    except BlockingIOError:
                        pass
                    continue
            while seen != now:
                free.append(u16.unpack_from(shared, used + 4 + 8 * (seen % size))[0])
                seen = (seen + 1) & 0xFFFF
        count += len(free)
        done += len(free)
    return count


run(time.monotonic() + 0.3)
start = time.monotonic()
count = run(start + seconds)
print(count / (time.monotonic() - start))
