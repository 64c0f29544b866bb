"""A master of vhost-user-blk: the side that a virtual machine monitor and the driver in its guest take.

`Master` speaks the protocol on the socket, `Queue` is a split virtqueue in memory that is shared with the
device, `Disk` puts the two together and makes requests of virtio-blk. Whatever is sent can be made wrong.
"""

import array
import fcntl
import mmap
import os
import select
import socket
import struct
import time

GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE = 1, 2, 3, 4, 5
SET_LOG_BASE, SET_LOG_FD = 6, 7
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SET_SLAVE_REQ_FD, GET_CONFIG, SET_CONFIG = 21, 24, 25
GET_INFLIGHT_FD, SET_INFLIGHT_FD, RESET_DEVICE, VRING_KICK = 31, 32, 34, 35
GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG = 36, 37, 38

VERSION, REPLY, NEED_REPLY = 1, 4, 8

F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH, F_TOPOLOGY, F_CONFIG_WCE, F_MQ = 2, 5, 6, 9, 10, 11, 12
F_DISCARD, F_WRITE_ZEROES = 13, 14
F_LOG_ALL, F_INDIRECT_DESC, F_EVENT_IDX, F_PROTOCOL_FEATURES, F_VERSION_1 = 26, 28, 29, 30, 32
P_MQ, P_LOG_SHMFD, P_REPLY_ACK, P_SLAVE_REQ, P_CONFIG, P_INFLIGHT_SHMFD = 0, 1, 3, 5, 9, 12
P_CONFIGURE_MEM_SLOTS = 15

T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, T_WRITE_ZEROES = 0, 1, 4, 8, 11, 13
NEXT, WRITE, INDIRECT = 1, 2, 4

PATIENCE = 20.0


class Gone(Exception):
    """The device has closed the connection."""


class Master:
    def __init__(self, path, patience=PATIENCE):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(patience)
        self.socket.connect(path)

    def send(self, request, payload=b"", fds=(), flags=VERSION, size=None):
        message = struct.pack("<III", request, flags, len(payload) if size is None else size) + payload
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.socket.sendmsg([message], rights)
        except (BrokenPipeError, ConnectionResetError):
            raise Gone()

    def receive(self):
        """Flags, payload and descriptors of a reply."""
        try:
            head, rights, _, _ = self.socket.recvmsg(12, 1024)
        except ConnectionResetError:
            raise Gone()
        if not head:
            raise Gone()
        while len(head) < 12:
            head += self.socket.recv(12 - len(head))
        request, flags, size = struct.unpack("<III", head)
        payload = b""
        while len(payload) < size:
            more = self.socket.recv(size - len(payload))
            if not more:
                raise Gone()
            payload += more
        fds = array.array("i")
        for _, _, data in rights:
            fds.frombytes(data[: len(data) - len(data) % 4])
        return request, flags, payload, list(fds)

    def ask(self, request, payload=b"", fds=(), flags=VERSION):
        self.send(request, payload, fds, flags)
        return self.receive()

    def number(self, request, payload=b"", fds=(), flags=VERSION):
        return struct.unpack("<Q", self.ask(request, payload, fds, flags)[2])[0]

    def sync(self):
        """Everything before has been dealt with; Gone if the device has closed."""
        self.number(GET_FEATURES)

    def config(self, length=60, offset=0):
        payload = struct.pack("<III", offset, length, 0) + bytes(length)
        answer = self.ask(GET_CONFIG, payload)[2]
        return answer[12:]

    def close(self):
        self.socket.close()


def u64(value):
    return struct.pack("<Q", value)


def state(index, number):
    return struct.pack("<II", index, number)


class Memory:
    """Memory that is shared with a device, at a guest address and a user address."""

    def __init__(self, size, guest=0x10000000, user=0x7F0000000000, offset=0, flags=0):
        self.size, self.guest, self.user, self.offset = size, guest, user, offset
        self.fd = os.memfd_create("guest", flags | os.MFD_CLOEXEC)
        opened.append(self.fd)
        os.ftruncate(self.fd, offset + size)
        self.map = mmap.mmap(self.fd, offset + size)
        self.next = 0

    def take(self, length, align=16):
        """Guest address of new space."""
        at = -(-self.next // align) * align
        self.next = at + length
        assert self.next <= self.size
        return self.guest + at

    def put(self, address, data):
        at = address - self.guest + self.offset
        self.map[at : at + len(data)] = data

    def get(self, address, length):
        at = address - self.guest + self.offset
        return self.map[at : at + length]

    def region(self):
        return struct.pack("<QQQQ", self.guest, self.size, self.user, self.offset)

    def user_of(self, address):
        return address - self.guest + self.user


def memory_table(memories):
    return struct.pack("<II", len(memories), 0) + b"".join(each.region() for each in memories)


# Of events and memories, which close themselves at the end of the program only.
opened = []


def event():
    opened.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    return opened[-1]


def close_opened():
    for fd in opened:
        os.close(fd)
    opened.clear()


class Queue:
    """A split virtqueue as its driver sees it."""

    def __init__(self, memory, size=128, event_index=False):
        self.memory, self.size, self.event_index = memory, size, event_index
        self.table = memory.take(16 * size, 4096)
        self.avail = memory.take(6 + 2 * size, 4096)
        self.used = memory.take(6 + 8 * size, 4096)
        self.kick_fd, self.call_fd, self.err_fd = event(), event(), event()
        self.added, self.seen = 0, 0
        self.free = list(range(size))

    def u16(self, address):
        return struct.unpack("<H", self.memory.get(address, 2))[0]

    def put16(self, address, value):
        self.memory.put(address, struct.pack("<H", value & 0xFFFF))

    def descriptor(self, index, address, length, flags, following):
        self.memory.put(self.table + 16 * index, struct.pack("<QIHH", address, length, flags, following))

    def chain(self, segments, indirect=False):
        """Index of the first descriptor; segments are (address, length, whether the device writes)."""
        if indirect:
            table = self.memory.take(16 * len(segments))
            for number, (address, length, writes) in enumerate(segments):
                last = number + 1 == len(segments)
                flags = (WRITE if writes else 0) | (0 if last else NEXT)
                self.memory.put(
                    table + 16 * number,
                    struct.pack("<QIHH", address, length, flags, 0 if last else number + 1),
                )
            index = self.free.pop()
            self.descriptor(index, table, 16 * len(segments), INDIRECT, 0)
            return index
        indices = [self.free.pop() for _ in segments]
        for number, (address, length, writes) in enumerate(segments):
            last = number + 1 == len(segments)
            flags = (WRITE if writes else 0) | (0 if last else NEXT)
            self.descriptor(indices[number], address, length, flags, 0 if last else indices[number + 1])
        return indices[0]

    def submit(self, *heads):
        for head in heads:
            self.put16(self.avail + 4 + 2 * (self.added % self.size), head)
            self.added = (self.added + 1) & 0xFFFF
        self.put16(self.avail + 2, self.added)

    def kick(self):
        os.eventfd_write(self.kick_fd, 1)

    def wanted(self):
        """Whether the device wants to be told of what has been submitted last."""
        if self.event_index:
            return self.u16(self.used + 4 + 8 * self.size) == (self.added - 1) & 0xFFFF
        return not self.u16(self.used) & 1

    def ask_for_call(self):
        """With the event index: tell me of the next one."""
        self.put16(self.avail + 4 + 2 * self.size, self.seen)

    def take_used(self):
        """What is new of (head, bytes written)."""
        found = []
        while self.seen != self.u16(self.used + 2):
            at = self.used + 4 + 8 * (self.seen % self.size)
            found.append(struct.unpack("<II", self.memory.get(at, 8)))
            self.seen = (self.seen + 1) & 0xFFFF
        return found

    def wait(self, count, patience=PATIENCE, polling=False):
        """As many used ones; fewer when it takes too long."""
        found, until = [], time.monotonic() + patience
        while len(found) < count and time.monotonic() < until:
            found += self.take_used()
            if len(found) >= count:
                break
            if polling:
                continue
            if self.event_index:
                self.ask_for_call()
                found += self.take_used()
                if len(found) >= count:
                    break
            if select.select([self.call_fd], [], [], max(0, until - time.monotonic()))[0]:
                try:
                    os.eventfd_read(self.call_fd)
                except BlockingIOError:
                    pass
        return found


class Disk:
    """A device that is ready: features negotiated, memory shared, queues running."""

    def __init__(self, path, queues=1, size=128, memory=16 << 20, features=None, patience=PATIENCE,
                 event_index=False, protocol=(P_MQ, P_REPLY_ACK, P_SLAVE_REQ, P_CONFIG), start=True,
                 log=None):
        self.master = master = Master(path, patience)
        self.offered = master.number(GET_FEATURES)
        self.protocol_offered = master.number(GET_PROTOCOL_FEATURES)
        wanted = sum(1 << bit for bit in protocol)
        self.protocol = self.protocol_offered & wanted
        master.send(SET_PROTOCOL_FEATURES, u64(self.protocol))
        master.send(SET_OWNER)
        without = (1 << F_LOG_ALL) | (0 if event_index else 1 << F_EVENT_IDX)
        self.features = self.offered & ~without if features is None else features
        master.send(SET_FEATURES, u64(self.features))
        self.memories = [
            Memory(memory, 0x10000000, 0x7F0000000000, 4096),
            Memory(memory, 0x40000000, 0x7E0000000000, 0),
        ]
        master.send(SET_MEM_TABLE, memory_table(self.memories), [each.fd for each in self.memories])
        # Rings lie in the first, data in both.
        self.queues = [Queue(self.memories[0], size, event_index) for _ in range(queues)]
        if log:
            log(self)
        for index in range(queues):
            self.set_up(index)
            if start:
                self.start(index)

    def memory(self, address):
        return next(each for each in self.memories if each.guest <= address < each.guest + each.size)

    def set_up(self, index, base=0, flags=0, log=0):
        queue, master = self.queues[index], self.master
        user = queue.memory.user_of
        master.send(SET_VRING_NUM, state(index, queue.size))
        master.send(SET_VRING_BASE, state(index, base))
        addresses = struct.pack(
            "<IIQQQQ", index, flags, user(queue.table), user(queue.used), user(queue.avail), log
        )
        master.send(SET_VRING_ADDR, addresses)

    def start(self, index):
        queue, master = self.queues[index], self.master
        master.send(SET_VRING_KICK, u64(index), [queue.kick_fd])
        master.send(SET_VRING_CALL, u64(index), [queue.call_fd])
        master.send(SET_VRING_ERR, u64(index), [queue.err_fd])
        master.send(SET_VRING_ENABLE, state(index, 1))

    def stop(self, index):
        """The base that the device tells."""
        answer = self.master.ask(GET_VRING_BASE, state(index, 0))
        return struct.unpack("<II", answer[2])[1]

    def header(self, kind, sector, memory=None):
        memory = memory or self.memories[0]
        address = memory.take(16)
        memory.put(address, struct.pack("<IIQ", kind & 0xFFFFFFFF, 0, sector & (2**64 - 1)))
        return (address, 16, False)

    def status(self):
        address = self.memories[1].take(1)
        self.memories[1].put(address, b"\xee")
        return (address, 1, True)

    def buffers(self, lengths, writes, data=None):
        """Segments of those lengths, in both memories by turns."""
        found, at = [], 0
        for number, length in enumerate(lengths):
            memory = self.memories[number % 2]
            address = memory.take(length, 1)
            memory.put(address, data[at : at + length] if data is not None else b"\xcc" * length)
            found.append((address, length, writes))
            at += length
        return found

    def gathered(self, segments):
        return b"".join(self.memory(address).get(address, length) for address, length, _ in segments)

    def request(self, kind, sector=0, lengths=(), data=None, queue=0, indirect=False, writes=None,
                patience=PATIENCE):
        """Makes one request and waits: (status, bytes that the device says it wrote, data)."""
        marks = [each.next for each in self.memories]
        if writes is None:
            writes = kind in (T_IN, T_GET_ID)
        body = self.buffers(lengths, writes, data)
        status = self.status()
        segments = [self.header(kind, sector), *body, status]
        answer = self.raw(segments, queue, indirect, patience)
        if answer is None:
            return None
        found = self.gathered(body) if writes else b""
        code = self.memories[1].get(status[0], 1)[0]
        for memory, mark in zip(self.memories, marks):
            memory.next = mark
        return code, answer, found

    def raw(self, segments, queue=0, indirect=False, patience=PATIENCE):
        """Submits a chain and waits for it: the bytes written; None if it does not come back."""
        ring = self.queues[queue]
        free = list(ring.free)
        head = ring.chain(segments, indirect)
        ring.submit(head)
        ring.kick()
        used = ring.wait(1, patience)
        if not used:
            return None
        assert used[0][0] == head, (used, head)
        ring.free = free
        return used[0][1]

    def read(self, sector, length):
        return self.request(T_IN, sector, [length])[2]

    def close(self):
        self.master.close()
