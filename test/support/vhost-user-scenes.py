"""Clients of a vhost-user-blk device that do what they should not, or go at the wrong moment.

Arguments: the socket, the scene, and a seed and a number of rounds for what is random. Between steps a line is printed, and one is waited for.
"""

import random
import sys

from vhost_user import *

path, scene = sys.argv[1:3]


def step(*said):
    """Tells, and waits until it may go on."""
    print(*said, flush=True)
    sys.stdin.readline()


def alive(disk):
    try:
        disk.master.sync()
        return "alive"
    except Gone:
        return "gone"


def next_client():
    """Whoever comes next is served as if nothing had been."""
    disk = Disk(path)
    print("next", disk.request(T_OUT, 8, [512], b"n" * 512)[0], disk.read(8, 512) == b"n" * 512)
    disk.close()


def cut_off():
    """Memory that is cut off: all of it, or what lies behind the rings, before or between requests."""
    for which, length in ((0, 0), (1, 0), (0, 65536), (1, 4096)):
        disk = Disk(path)
        queue, memory = disk.queues[0], disk.memories[which]
        print("before", disk.request(T_IN, 0, [4096])[0])
        for each in disk.memories:
            each.take(1 << 17)
        segments = [disk.header(T_IN, 0), *disk.buffers([512, 512, 512], True), disk.status()]
        queue.submit(queue.chain(segments))
        memory.map.flush()
        os.ftruncate(memory.fd, length)
        queue.kick()
        time.sleep(0.1)
        print(which, length, alive(disk))
        disk.close()
    next_client()


def removed():
    """Memory that is taken back by message, with its rings, or grows again."""
    disk = Disk(path)
    print(disk.request(T_IN, 0, [4096])[0])
    one = disk.memories[1]
    disk.master.send(REM_MEM_REG, bytes(8) + one.region())
    disk.master.sync()
    queue = disk.queues[0]
    queue.submit(queue.chain([disk.header(T_FLUSH, 0), disk.status()]))
    queue.kick()
    time.sleep(0.1)
    print("without it", alive(disk))
    disk.close()
    disk = Disk(path)
    disk.master.send(SET_MEM_TABLE, memory_table(disk.memories), [each.fd for each in disk.memories])
    print("shared anew", disk.request(T_IN, 0, [4096])[0], disk.stop(0))
    more = Memory(1 << 20, 0x80000000, 0x7D0000000000)
    disk.master.send(ADD_MEM_REG, bytes(8) + more.region(), [more.fd])
    disk.master.sync()
    disk.close()
    next_client()


def descriptors():
    """Descriptors of the wrong kind, and signals that nobody takes."""
    pipe = os.pipe()
    disk = Disk(path)
    disk.master.send(SET_VRING_KICK, u64(0), [pipe[0]])
    print("pipe", alive(disk))
    disk.close()
    disk = Disk(path)
    disk.master.send(SET_VRING_CALL, u64(0), [pipe[1]])
    print("pipe", alive(disk))
    disk.close()
    # A call that would block: its counter is full, and the descriptor waits.
    disk = Disk(path)
    call = disk.queues[0].call_fd
    fcntl.fcntl(call, fcntl.F_SETFL, 0)
    os.eventfd_write(call, 2**64 - 2)
    queue = disk.queues[0]
    queue.submit(queue.chain([disk.header(T_FLUSH, 0), disk.status()]))
    queue.kick()
    print("full", len(queue.wait(1, polling=True)), alive(disk))
    disk.close()
    # More than a message may have.
    master = Master(path)
    try:
        for _ in range(3):
            master.send(GET_FEATURES, b"", [pipe[0]] * 100)
        print("many", master.receive()[0])
        master.sync()
    except Gone:
        print("many gone")
    master.close()
    # Messages in crumbs, and one that never ends.
    master = Master(path)
    for byte in struct.pack("<III", GET_FEATURES, VERSION, 0):
        master.socket.send(bytes([byte]))
        time.sleep(0.002)
    print("crumbs", master.receive()[0])
    master.socket.send(struct.pack("<III", SET_MEM_TABLE, VERSION, 2**31))
    try:
        master.sync()
    except Gone:
        print("long gone")
    master = Master(path)
    master.socket.send(b"abc")
    master.close()
    # Replies that nobody reads.
    master = Master(path)
    master.socket.setblocking(False)
    try:
        for _ in range(100_000):
            master.send(GET_FEATURES)
        print("read all")
    except (Gone, BlockingIOError) as error:
        print("unread", type(error).__name__)
    master.close()
    next_client()


def waiting():
    """The second client is served when the first has gone."""
    first, second = Disk(path), Master(path, 0.3)
    try:
        print("second", second.number(GET_FEATURES))
    except socket.timeout:
        print("second waits")
    print("first", first.request(T_IN, 0, [512])[0])
    first.close()
    second.socket.settimeout(PATIENCE)
    print("second", second.receive()[0])
    second.close()
    next_client()


def vanishing():
    """Goes while requests are under way."""
    disk = Disk(path)
    queue = disk.queues[0]
    for sector in range(0, 64, 8):
        segments = [disk.header(T_OUT, sector), *disk.buffers([4096], False, b"v" * 4096), disk.status()]
        queue.submit(queue.chain(segments))
    queue.kick()
    step("begun")
    disk.close()
    step("gone")
    next_client()


def ended():
    """The export is ended while requests are under way: they are answered."""
    disk = Disk(path)
    queue = disk.queues[0]
    for sector in range(0, 64, 8):
        segments = [disk.header(T_OUT, sector), *disk.buffers([4096], False, b"e" * 4096), disk.status()]
        queue.submit(queue.chain(segments))
    queue.kick()
    step("begun")
    print(len(queue.wait(8)), alive(disk))


def resized():
    """Is told of another size."""
    disk = Disk(path)
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    disk.master.send(SET_SLAVE_REQ_FD, b"", [theirs.fileno()])
    disk.master.sync()
    step(struct.unpack("<Q", disk.master.config(8))[0])
    print(struct.unpack("<III", ours.recv(12)), struct.unpack("<Q", disk.master.config(8))[0])
    print(disk.request(T_IN, 4096, [512])[0])


def logged():
    """Pages that the device writes to are logged, while that is asked for."""
    # Bits from address 0 on.
    length = (0x40000000 + (16 << 20)) // 4096 // 8
    log = os.memfd_create("log", os.MFD_ALLOW_SEALING)
    os.ftruncate(log, length)
    sealed = lambda: fcntl.fcntl(log, 1033, 2 | 4 | 1)
    disk = Disk(path)
    disk.master.send(SET_LOG_BASE, struct.pack("<QQ", length, 0), [log])
    print("not sealed", alive(disk))
    disk.close()
    sealed()
    disk = Disk(path)
    pages = mmap.mmap(log, length)

    def dirty():
        found = [8 * at + bit for at, byte in enumerate(pages[:]) for bit in range(8) if byte >> bit & 1]
        pages[:] = bytes(length)
        return [page * 4096 for page in found]

    answer = disk.master.ask(SET_LOG_BASE, struct.pack("<QQ", length, 0), [log])
    print("sealed", struct.unpack("<Q", answer[2])[0] == length)
    print("not yet", disk.request(T_IN, 0, [512])[0], dirty())
    disk.master.send(SET_FEATURES, u64(disk.features | 1 << F_LOG_ALL))
    disk.set_up(0, base=1, flags=1, log=0x30000000)
    disk.master.sync()
    body = disk.buffers([6000], True)
    segments = [disk.header(T_IN, 0), *body, disk.status()]
    print("wrong length", disk.raw(segments), disk.memories[1].get(segments[-1][0], 1)[0])
    found = dirty()
    print("status and used ring", sorted(hex(each) for each in found))
    body = disk.buffers([8192], True)
    segments = [disk.header(T_IN, 0), *body, disk.status()]
    written = {page * 4096 for address, size, writes in segments if writes
               for page in range(address // 4096, (address + size - 1) // 4096 + 1)}
    print("right", disk.raw(segments), set(dirty()) == written | {0x30000000})
    disk.master.send(SET_FEATURES, u64(disk.features))
    disk.master.sync()
    print("no more", disk.request(T_IN, 0, [512])[0], dirty())


def long():
    """Requests that are longer than what is done at a time, and many of them at a time."""
    disk = Disk(path, memory=64 << 20, event_index=True)
    data = bytes(range(256)) * (3 << 12) + b"x" * 512
    print(disk.request(T_OUT, 1, [len(data) - 700, 700], data)[:2])
    print(disk.request(T_IN, 1, [1000, len(data) - 1000])[2] == data)
    queue = disk.queues[0]
    # Written is where they lie; all together they are more than a client may have under way.
    status = disk.status()
    body = disk.buffers([6 << 20], True)[0]
    parts = [disk.header(T_IN, 1 + 2048 * n) for n in range(40)]
    queue.submit(*[queue.chain([part, body, status]) for part in parts[:20]])
    queue.kick()
    queue.submit(*[queue.chain([part, body, status]) for part in parts[20:]])
    queue.kick()
    print(len(queue.wait(40)))


def tangled():
    """A ring full of requests of the longest chains there are, which have most of their descriptors in common."""
    disk = Disk(path, size=1024)
    queue = disk.queues[0]
    header, data, status = disk.header(T_FLUSH, 0), disk.buffers([512], True)[0], disk.status()
    for index in range(1024):
        queue.descriptor(index, *((data[:2] if index < 1023 else status[:2])), WRITE | (NEXT if index < 1023 else 0), index + 1)
    table = disk.memories[0].take(16 * 1024)
    for index in range(1024):
        last = index == 1023
        flags = (WRITE if index else 0) | (0 if last else NEXT)
        address, size, _ = header if index == 0 else status if last else data
        disk.memories[0].put(table + 16 * index, struct.pack("<QIHH", address, size, flags, index + 1))
    for index in range(1024):
        queue.descriptor(index, table, 16 * 1024, INDIRECT, 0)
    begun = time.monotonic()
    queue.submit(*range(1024))
    queue.kick()
    asked = 0
    while queue.u16(queue.used + 2) < 1024 and time.monotonic() < begun + PATIENCE:
        disk.master.sync()
        asked += 1
    print(len(queue.wait(1024)), "asked meanwhile", asked > 5)


def wild():
    """Whatever comes to mind, for as many rounds; then a client that behaves."""
    rng = random.Random(int(sys.argv[3]))
    for _ in range(int(sys.argv[4])):
        try:
            rng.choice([wild_messages, wild_rings])(rng)
        except (Gone, OSError, AssertionError, struct.error):
            pass
        close_opened()
    next_client()


def some(rng):
    """A number that may be a length, an address, a count."""
    near = rng.choice([0, 1, 8, 128, 4096, 0x10000000, 0x40000000, 0x7F0000000000, 0x7E0000000000, 2**32, 2**63, 2**64])
    return (near + rng.choice([0, 0, 0, 1, -1, 4096, rng.randrange(1 << 24), rng.getrandbits(64)])) % 2**64


def wild_messages(rng):
    master, zero = Master(path, 2), open("/dev/zero")
    memory = Memory(1 << 20, 0x10000000, 0x7F0000000000)
    for _ in range(rng.randrange(1, 30)):
        payload = b"".join(struct.pack("<Q", some(rng)) for _ in range(rng.randrange(10)))
        kind = rng.randrange(42)
        if rng.random() < 0.5:
            kind = rng.choice([SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ENABLE])
        if rng.random() < 0.6:
            payload = {
                SET_FEATURES: u64(1 << 32 | rng.getrandbits(31)),
                SET_MEM_TABLE: memory_table([memory]),
                SET_VRING_NUM: state(0, 2 ** rng.randrange(12)),
                SET_VRING_ADDR: struct.pack("<IIQQQQ", 0, rng.randrange(2), *(memory.user + rng.randrange(1 << 20) for _ in range(4))),
                SET_VRING_KICK: u64(0), SET_VRING_CALL: u64(0), SET_VRING_ENABLE: state(0, 1), GET_VRING_BASE: state(0, 0),
                ADD_MEM_REG: bytes(8) + memory.region(), REM_MEM_REG: bytes(8) + memory.region(),
                SET_LOG_BASE: struct.pack("<QQ", some(rng) % 2**31, 0),
            }.get(kind, payload)
        fds = [rng.choice([memory.fd, memory.fd, event(), zero.fileno()]) for _ in range(rng.choice([0, 1, 1, 1, 2, 9]))]
        if kind in (SET_VRING_KICK, SET_VRING_CALL) and rng.random() < 0.8:
            fds = [event()]
        size = len(payload) if rng.random() < 0.97 else rng.getrandbits(32)
        flags = rng.choice([VERSION, VERSION, VERSION | NEED_REPLY, rng.getrandbits(32)])
        master.send(kind, payload, fds, flags, size)
        if kind in (SET_VRING_KICK,) and fds:
            try:
                os.eventfd_write(fds[0], 1)
            except OSError:
                pass
        if rng.random() < 0.1:
            master.sync()
    master.close()


def wild_rings(rng):
    disk = Disk(path, size=rng.choice([2, 8, 128]), event_index=rng.random() < 0.5, memory=1 << 20, patience=2)
    queue, memory = disk.queues[0], disk.memories[0]
    base = memory.take(65536)
    for number in range(64):
        memory.put(base + 64 * number, struct.pack("<IIQ", rng.choice([0, 1, 4, 8, 11, 13, 99]), 0, some(rng) >> rng.choice([0, 40, 50])))
    for index in range(queue.size):
        address = base + 64 * rng.randrange(64) if rng.random() < 0.9 else some(rng)
        length = rng.choice([0, 1, 16, 16, 512, 4096, 48, 64, some(rng) % 2**32])
        flags = rng.choice([0, 1, 2, 3, 4, rng.getrandbits(16)])
        following = rng.randrange(queue.size) if rng.random() < 0.9 else rng.getrandbits(16)
        queue.descriptor(index, address, length, flags, following)
        # Entries for what may be taken for tables.
        for entry in range(4):
            at = base + 32768 + 64 * index % 16384 + 16 * entry
            memory.put(at, struct.pack("<QIHH", base + 64 * rng.randrange(64), rng.choice([1, 16, 512]), rng.randrange(8), rng.randrange(5)))
    for _ in range(rng.randrange(1, 5)):
        queue.submit(*(rng.randrange(queue.size) for _ in range(rng.randrange(1, queue.size + 1))))
        if rng.random() < 0.1:
            queue.put16(queue.avail + 2, rng.getrandbits(16))
        queue.kick()
        if rng.random() < 0.3:
            disk.master.sync()
        if rng.random() < 0.1:
            # Not to be touched from here on, which would be the end of this program.
            os.ftruncate(rng.choice(disk.memories).fd, rng.randrange(1 << 20))
            queue.kick()
            break
        if rng.random() < 0.2:
            disk.stop(0)
            disk.set_up(0, rng.getrandbits(16))
            disk.start(0)
    disk.close()


globals()[scene]()
