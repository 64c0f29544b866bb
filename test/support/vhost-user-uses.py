"""Uses a vhost-user-blk device in every way that a client and its guest may, and tells what came of it, a line
each. The first argument is the socket, the second what is done, the third a seed for what is random.
"""

import random
import sys
import zlib

from vhost_user import *

path, use = sys.argv[1:3]
seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0


def facts():
    """What the device says of itself."""
    master = Master(path)
    features, protocol = master.number(GET_FEATURES), master.number(GET_PROTOCOL_FEATURES)
    print("features", [bit for bit in range(64) if features >> bit & 1])
    # What only QEMU offers: guests that run before their memory is there, descriptors for the client, pages of
    # doorbells.
    print("protocol", [bit for bit in range(64) if protocol >> bit & 1 and bit not in (8, 10, 11)])
    master.send(SET_PROTOCOL_FEATURES, u64(protocol & ~(1 << 8)))
    print("queues", master.number(GET_QUEUE_NUM), "slots", master.number(GET_MAX_MEM_SLOTS))
    config = bytearray(master.config())
    # QEMU says that there is no write cache, and has one.
    config[32] = 0
    print("config", config.hex())
    for length in (0, 8, 60, 61, 256, 257):
        payload = struct.pack("<III", 0, length, 0) + bytes(length)
        answer = bytearray(master.ask(GET_CONFIG, payload)[2])
        answer[44:45] = b""
        print("config of", length, answer.hex())
    for value in (1, 0):
        master.send(SET_CONFIG, struct.pack("<IIIB", 32, 1, 0, value))
        print("cache", master.config()[32])
    for request, payload in ((SET_OWNER, b""), (GET_VRING_BASE, state(0, 0)), (GET_FEATURES, b"")):
        print("acknowledged", master.ask(request, payload, flags=VERSION | NEED_REPLY)[1:3])


def requests():
    """The answer to every kind of request, right and wrong."""
    disk = Disk(path)
    end = struct.unpack("<Q", disk.master.config(8))[0]

    def tell(name, *arguments, **more):
        code, written, data = disk.request(*arguments, **more)
        print(name, code, written, data.hex() if len(data) < 64 else zlib.crc32(data))

    for sector, lengths in (
        (0, [512]), (0, [512, 1024]), (0, [100, 412]), (1, [1, 511, 512]), (0, [500]), (0, [1000]), (0, []),
        (end - 1, [512]), (end, [512]), (end - 1, [1024]), (2**63, [512]), (2**55 - 1, [512]), (8, [4096]),
        (3, [4096]), (1, [1536, 2560]),
    ):
        tell(f"read {sector} {lengths}", T_IN, sector, lengths)
        data = bytes(range(256)) * 32
        tell(f"write {sector} {lengths}", T_OUT, sector, lengths, data)
        tell(f"read again {sector} {lengths}", T_IN, sector, lengths)
    for kind in (T_FLUSH, T_GET_ID, 2, 10, 14, 16, 99, 0x80000000, 0x80000001):
        for lengths in ([], [5, 15], [20], [512]):
            for writes in (True, False):
                data = None if writes else b"d" * 512
                tell(f"{kind} {lengths} {writes}", kind, 40, lengths, data, writes=writes)
    for kind in (T_DISCARD, T_WRITE_ZEROES):
        for segments in (
            [(0, 8, 0)], [(0, 8, 1)], [(0, 8, 2)], [(0, 0, 0)], [(end - 8, 8, 0)], [(end - 8, 16, 0)],
            [(end, 8, 0)], [(end, 8, 2)], [(2**63, 8, 0)], [(0, 32768, 0)], [(0, 32769, 0)], [(0, 32769, 2)],
            [(0, 8, 0), (16, 8, 0)], [(0, 8, 2), (16, 8, 0)], [(1, 1, 0)], [(3, 4, 1)], [],
        ):
            data = b"".join(struct.pack("<QII", *each) for each in segments)
            tell(f"{kind} {segments}", kind, 0, [len(data)] if data else [], data)
        data = struct.pack("<QII", 8, 8, 0)
        tell(f"{kind} in two", kind, 0, [7, 9], data)
        tell(f"{kind} short", kind, 0, [8], data)
        tell(f"{kind} long", kind, 0, [24], data + bytes(8))
        tell("read", T_IN, 0, [16384])


def rings():
    """What becomes of rings and chains that are not as they should be; each has a client of its own."""

    def attempt(name, make, again=True):
        disk = Disk(path)
        queue = disk.queues[0]
        status = disk.status()
        segments = [disk.header(T_IN, 0), *disk.buffers([512], True), status]
        try:
            make(disk, queue, segments, status)
            queue.kick()
            disk.master.sync()
            used = queue.wait(1, 0.15)
            disk.master.sync()
            alive = disk.request(T_IN, 1, [512])[0] if again else "alive"
        except Gone:
            used, alive = queue.take_used(), "gone"
        print(name, used, disk.memories[1].get(status[0], 1).hex(), alive)
        disk.close()

    def chain(change):
        """A chain of what `change` makes of the segments."""

        def make(disk, queue, segments, status):
            queue.submit(queue.chain(change(disk, *segments)))

        return make

    far = 0x99999999000
    attempt("right", chain(lambda disk, *all: all))
    attempt("header in two", chain(lambda disk, h, d, s: [(h[0], 3, False), (h[0] + 3, 13, False), d, s]))
    attempt("status behind the data", chain(lambda disk, h, d, s: [h, disk.buffers([513], True)[0]]))
    attempt("short header", chain(lambda disk, h, d, s: [(h[0], 10, False), s]))
    attempt("no status", chain(lambda disk, h, d, s: [h]))
    attempt("no header", chain(lambda disk, h, d, s: [s]))
    attempt("status first", chain(lambda disk, h, d, s: [s, h]))
    attempt("empty status", chain(lambda disk, h, d, s: [h, (s[0], 0, True)]))
    attempt("empty data", chain(lambda disk, h, d, s: [h, (d[0], 0, True), s]))
    attempt("data nowhere", chain(lambda disk, h, d, s: [h, (far, 512, True), s]))
    end = 0x40000000 + (16 << 20)
    attempt("data to the end", chain(lambda disk, h, d, s: [h, (end - 512, 512, True), s]))
    attempt("data beyond the end", chain(lambda disk, h, d, s: [h, (end - 511, 512, True), s]))
    attempt("data around zero", chain(lambda disk, h, d, s: [h, (2**64 - 256, 512, True), s]))
    attempt("header nowhere", chain(lambda disk, h, d, s: [(far, 16, False), d, s]))
    attempt("status nowhere", chain(lambda disk, h, d, s: [h, d, (far, 1, True)]))
    attempt("longest", chain(lambda disk, h, d, s: [h, (d[0], 2**32 - 1, True), s]))

    def raw(head, *descriptors):
        def make(disk, queue, segments, status):
            (h, d, s) = segments
            for index, (part, flags, following) in enumerate(descriptors):
                address, length, _ = segments[part]
                queue.descriptor(index, address, length, flags, following)
            queue.submit(head)

        return make

    attempt("head beyond the table", raw(128))
    attempt("highest head", raw(0xFFFF))
    attempt("next beyond the table", raw(0, (0, NEXT, 500)))
    attempt("loop", raw(0, (0, NEXT, 1), (1, NEXT | WRITE, 1)))
    attempt("loop of two", raw(0, (0, NEXT, 1), (1, NEXT | WRITE, 2), (2, NEXT | WRITE, 1)))
    attempt("index too far", lambda disk, queue, *_: queue.put16(queue.avail + 2, 129))
    attempt("index back", lambda disk, queue, *_: queue.put16(queue.avail + 2, 0xFFFF))

    def table(length, count=3, flags=INDIRECT, following=lambda index: index + 1, nested=0, address=None):
        def make(disk, queue, segments, status):
            middle = disk.buffers([512] * (count - 2), True)
            all = [segments[0], *middle, segments[2]][:count]
            at = disk.memories[0].take(16 * max(count, 8))
            for number, (place, size, writes) in enumerate(all):
                last = number + 1 == len(all)
                bits = (WRITE if writes else 0) | (0 if last else NEXT) | nested
                entry = struct.pack("<QIHH", place, size, bits, 0 if last else following(number))
                disk.memories[0].put(at + 16 * number, entry)
            queue.descriptor(0, address or at, length, flags, 0)
            queue.submit(0)

        return make

    attempt("table", table(48))
    attempt("longer table", table(128))
    attempt("table and next", table(48, flags=INDIRECT | NEXT))
    attempt("table to write", table(48, flags=INDIRECT | WRITE))
    attempt("table cut off", table(40))
    attempt("empty table", table(0))
    attempt("table nowhere", table(48, address=far))
    attempt("table in itself", table(48, nested=INDIRECT))
    attempt("table too short", table(32))
    attempt("next beyond a table", table(48, following=lambda index: 9))
    attempt("loop in a table", table(48, following=lambda index: min(index + 1, 1)))
    for count in (128, 129, 256, 1024, 1025, 2000):
        attempt(f"table of {count}", table(16 * count, count))
    attempt("long chain", chain(lambda disk, h, d, s: [h, *[(d[0], 512, True)] * 126, s]), False)


def messages():
    """Which messages end the conversation."""
    memory, other = Memory(1 << 20), Memory(1 << 20, 0x20000000, 0x7E0000000000)
    socket_pair = socket.socketpair()

    def attempt(name, *all):
        master = Master(path)
        answers = []
        try:
            protocol = master.number(GET_PROTOCOL_FEATURES) & ~(1 << 8)
            master.send(SET_PROTOCOL_FEATURES, u64(protocol))
            for request, payload, *fds in all:
                master.send(request, payload, *fds, flags=VERSION | NEED_REPLY)
                answers.append(master.receive()[2].hex())
            master.sync()
            end = "alive"
        except Gone:
            end = "gone"
        # What QEMU answers before it leaves, it has not done.
        print(name, end, answers if end == "alive" else "")
        master.close()

    share = (SET_MEM_TABLE, memory_table([memory]), [memory.fd])
    one = lambda each: bytes(8) + each.region()
    attempt("owner", (SET_OWNER, b""), (RESET_OWNER, b""))
    attempt("memory", share, share)
    attempt("no memory", (SET_MEM_TABLE, memory_table([])))
    attempt("memory without a file", (SET_MEM_TABLE, memory_table([memory])))
    attempt("memory of an event", (SET_MEM_TABLE, memory_table([memory]), [event()]))
    attempt("absurd memory", (SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, 0, 2**62, 0, 0), [memory.fd]))
    attempt("slots", (ADD_MEM_REG, one(memory), [memory.fd]), (ADD_MEM_REG, one(other), [other.fd]),
            (REM_MEM_REG, one(memory), [memory.fd]), (REM_MEM_REG, one(other)), (REM_MEM_REG, one(other)))
    attempt("slot without a file", (ADD_MEM_REG, one(memory)))
    attempt("slot with two", (ADD_MEM_REG, one(memory), [memory.fd, other.fd]))
    attempt("33 slots", *[(ADD_MEM_REG, bytes(8) + struct.pack("<QQQQ", n << 20, 4096, n << 20, 0), [memory.fd])
                          for n in range(33)])
    place = lambda user: struct.pack("<IIQQQQ", 0, 0, user, user + 4096, user + 8192, 0)
    size = (SET_VRING_NUM, state(0, 128))
    attempt("ring without memory", size, (SET_VRING_ADDR, place(memory.user)))
    attempt("ring", share, size, (SET_VRING_ADDR, place(memory.user)))
    attempt("ring nowhere", share, size, (SET_VRING_ADDR, place(memory.user - 4096)))
    attempt("bases", (SET_VRING_BASE, state(0, 5)), (GET_VRING_BASE, state(0, 0)),
            (SET_VRING_BASE, state(0, 65541)), (GET_VRING_BASE, state(0, 0)))
    attempt("enable", (SET_VRING_ENABLE, state(0, 1)), (SET_VRING_ENABLE, state(0, 0)))
    attempt("enable another", (SET_VRING_ENABLE, state(1, 1)))
    attempt("kick", (SET_VRING_KICK, u64(0), [event()]))
    attempt("kick without", (SET_VRING_KICK, u64(0)))
    attempt("kick with two", (SET_VRING_KICK, u64(0), [event(), event()]))
    attempt("kick another", (SET_VRING_KICK, u64(1), [event()]))
    attempt("call", (SET_VRING_CALL, u64(0), [event()]), (SET_VRING_CALL, u64(256)))
    attempt("call another", (SET_VRING_CALL, u64(1), [event()]))
    attempt("error", (SET_VRING_ERR, u64(0), [event()]), (SET_VRING_ERR, u64(256)))
    attempt("back", (SET_SLAVE_REQ_FD, b"", [socket_pair[0].fileno()]))
    attempt("old driver", (SET_FEATURES, u64(1 << 30)))
    for request in (19, 20, 22, 23, 33, 34, 39, 99):
        attempt(f"message {request}", (request, bytes(8)))
    config = lambda offset, data: (SET_CONFIG, struct.pack("<III", offset, len(data), 0) + data)
    attempt("cache", config(32, b"\0"), config(32, b"\1"))
    attempt("capacity", config(0, bytes(8)))
    attempt("cache and more", config(32, bytes(2)))


def random_use():
    """Random requests, many at a time, on several queues; the disk is compared with what it should hold."""
    rng = random.Random(seed)
    for round in range(4):
        queues = rng.choice([1, 2, 4])
        disk = Disk(path, queues, rng.choice([4, 16, 128, 256]), event_index=rng.random() < 0.5)
        end = struct.unpack("<Q", disk.master.config(8))[0]
        areas, model = 8, {}
        span = end // areas
        for batch in range(12):
            marks = [each.next for each in disk.memories]
            pending = {}
            frees = [list(queue.free) for queue in disk.queues]
            # Each in an area of its own, so that it does not matter which comes first.
            for area in rng.sample(range(areas), rng.randint(1, areas)):
                number = rng.randrange(queues)
                queue = disk.queues[number]
                sector = area * span + rng.randrange(span - 64)
                count = rng.randint(1, 48)
                kind = rng.choice([T_IN, T_IN, T_OUT, T_OUT, T_WRITE_ZEROES, T_DISCARD, T_FLUSH, T_GET_ID, 77])
                indirect = rng.random() < 0.6
                if not indirect and len(queue.free) < 10:
                    indirect = True
                if not queue.free:
                    continue
                lengths, left = [], 512 * count
                room = 8 if indirect else min(8, len(queue.free) - 2)
                if kind == T_GET_ID:
                    left = 20
                elif kind in (T_WRITE_ZEROES, T_DISCARD):
                    left = 16
                elif kind not in (T_IN, T_OUT):
                    left = 0
                while left and len(lengths) < room - 1 and rng.random() < 0.7:
                    lengths.append(rng.randint(1, left))
                    left -= lengths[-1]
                lengths += [left] if left else []
                data = None
                if kind == T_OUT:
                    data = rng.randbytes(512 * count)
                elif kind in (T_WRITE_ZEROES, T_DISCARD):
                    data = struct.pack("<QII", sector, count, rng.choice([0, 0, 1]))
                body = disk.buffers(lengths, kind in (T_IN, T_GET_ID), data)
                status = disk.status()
                head = queue.chain([disk.header(kind, sector), *body, status], indirect)
                pending[number, head] = (kind, sector, count, body, status, data)
                queue.submit(head)
            for queue in rng.sample(disk.queues, queues):
                queue.kick()
            for number, queue in enumerate(disk.queues):
                mine = [head for which, head in pending if which == number]
                used = queue.wait(len(mine))
                assert sorted(head for head, _ in used) == sorted(mine), (used, mine)
                written = dict(used)
                for head in mine:
                    kind, sector, count, body, status, data = pending[number, head]
                    code = disk.memories[1].get(status[0], 1)[0]
                    found = disk.gathered(body)
                    if kind == T_IN:
                        wanted = b"".join(model.get(sector + at, bytes(512)) for at in range(count))
                        if None not in [model.get(sector + at, 0) for at in range(count)]:
                            assert found == wanted, (round, batch, sector, count)
                    elif kind == T_OUT:
                        for at in range(count):
                            model[sector + at] = data[512 * at : 512 * at + 512]
                    elif kind in (T_WRITE_ZEROES, T_DISCARD):
                        # What is discarded may be anything.
                        for at in range(count):
                            model[sector + at] = bytes(512) if kind == T_WRITE_ZEROES else None
                    print(round, batch, kind, sector, count, code, written[head])
            for queue, free in zip(disk.queues, frees):
                queue.free = free
            for memory, mark in zip(disk.memories, marks):
                memory.next = mark
        print("bases", [disk.stop(number) for number in range(queues)], [queue.added for queue in disk.queues])
        disk.close()
        # The next one finds what this one has written.
        check = Disk(path)
        for sector in sorted(model):
            assert model[sector] in (None, check.read(sector, 512)), sector
        check.request(T_OUT, 0, [512], b"new")
        for sector in range(0, end, 2048):
            count = min(2048, end - sector)
            assert check.request(T_WRITE_ZEROES, 0, [16], struct.pack("<QII", sector, count, 0))[0] == 0
        check.close()


{"facts": facts, "requests": requests, "rings": rings, "messages": messages, "random": random_use}[use]()
