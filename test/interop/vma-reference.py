#!/usr/bin/env python3
"""A second implementation of VMA, written from the format description alone, to hold ours against.

    vma-reference.py extract ARCHIVE DIRECTORY   checks, extracts and prints JSON
    vma-reference.py create ARCHIVE SEED CONFIG... -- NAME=FILE...

`create` does what the format allows and our writer never does: 59 clusters an extent, devices
interleaved, clusters in random order, unused bytes that are not zero.
"""
import hashlib
import json
import os
import random
import struct
import sys

CLUSTER = 65536
BLOCK = 4096


def md5_without(data, at):
    return hashlib.md5(data[:at] + bytes(16) + data[at + 16:]).digest()


def blob(table, offset):
    (length,) = struct.unpack_from('<H', table, offset)
    assert offset + 2 + length <= len(table), 'blob outside the table'
    return table[offset + 2:offset + 2 + length]


def string(table, offset):
    text = blob(table, offset)
    assert text.endswith(b'\0'), 'string without its NUL'
    return text[:-1].decode()


def read_header(data):
    magic, version = struct.unpack_from('>4sI', data, 0)
    assert magic == b'VMA\0' and version == 1, 'not a VMA archive'
    blob_offset, blob_size, header_size = struct.unpack_from('>III', data, 48)
    assert header_size % 512 == 0 and header_size <= 512 * 1024
    header = data[:header_size]
    assert md5_without(header, 32) == header[32:48], 'header MD5'
    table = header[blob_offset:blob_offset + blob_size]
    names = struct.unpack_from('>256I', header, 2044)
    contents = struct.unpack_from('>256I', header, 3068)
    configs = {string(table, n): blob(table, c) for n, c in zip(names, contents) if n}
    devices = {}
    for device in range(256):
        name, _, size = struct.unpack_from('>IIQ', header, 4096 + 32 * device)
        if name:
            assert 1 <= device <= 254
            devices[device] = (string(table, name), size)
    (ctime,) = struct.unpack_from('>q', header, 24)
    return header_size, header[8:24], ctime, configs, devices


def extract(path, folder):
    with open(path, 'rb') as file:
        data = file.read()
    at, uuid, ctime, configs, devices = read_header(data)
    os.mkdir(folder)
    outputs = {}
    for device, (name, size) in devices.items():
        outputs[device] = open(os.path.join(folder, name), 'wb')
        if name != 'vmstate':
            outputs[device].truncate(size)
    seen = {device: set() for device in devices}
    extents = 0
    while at < len(data):
        header = data[at:at + 512]
        assert len(header) == 512 and header[:4] == b'VMAE', 'no extent header'
        reserved, blocks = struct.unpack_from('>HH', header, 4)
        assert reserved == 0
        assert header[8:24] == uuid, 'uuid of an extent'
        assert md5_without(header, 24) == header[24:40], 'extent MD5'
        at += 512
        end = at + blocks * BLOCK
        for slot in range(59):
            mask, _, device, cluster = struct.unpack_from('>HBBI', header, 40 + 8 * slot)
            if device == 0:
                continue
            name, size = devices[device]
            assert cluster not in seen[device], 'a cluster twice'
            if name == 'vmstate':
                assert cluster == len(seen[device]), 'vmstate out of sequence'
            else:
                assert cluster * CLUSTER < size, 'a cluster behind the end'
            seen[device].add(cluster)
            for block in range(16):
                if mask & (1 << block):
                    offset = cluster * CLUSTER + block * BLOCK
                    content = data[at:at + BLOCK]
                    assert len(content) == BLOCK, 'data cut off'
                    at += BLOCK
                    if name != 'vmstate':
                        assert offset < size, 'a block behind the end'
                        content = content[:size - offset]
                    outputs[device].seek(offset)
                    outputs[device].write(content)
        assert at == end, 'block count'
        extents += 1
    for device, (name, size) in devices.items():
        if name != 'vmstate':
            assert len(seen[device]) == (size + CLUSTER - 1) // CLUSTER, 'clusters missing'
        outputs[device].close()
    print(json.dumps({
        'uuid': uuid.hex(),
        'ctime': ctime,
        'extents': extents,
        'configs': {name: content.decode('latin1') for name, content in configs.items()},
        'devices': [{'id': i, 'name': n, 'size': s} for i, (n, s) in sorted(devices.items())],
    }))


def create(path, seed, configs, disks):
    chance = random.Random(seed)
    table = bytearray(b'\xff')

    def add(content):
        offset = len(table)
        table.extend(struct.pack('<H', len(content)) + content)
        return offset

    header = bytearray(12288)
    uuid = chance.randbytes(16)
    for index, config in enumerate(configs):
        with open(config, 'rb') as file:
            content = file.read()
        name = add(os.path.basename(config).encode() + b'\0')
        struct.pack_into('>I', header, 2044 + 4 * index, name)
        struct.pack_into('>I', header, 3068 + 4 * index, add(content))
    work = []
    for index, disk in enumerate(disks):
        name, file = disk.split('=', 1)
        with open(file, 'rb') as source:
            content = source.read()
        device = 254 - index
        struct.pack_into('>IIQ', header, 4096 + 32 * device, add(name.encode() + b'\0'), 0, len(content))
        count = (len(content) + CLUSTER - 1) // CLUSTER
        work += [(device, number, content[number * CLUSTER:(number + 1) * CLUSTER]) for number in range(count)]
    chance.shuffle(work)
    used = len(table)
    table.extend(bytes(-len(table) % 512))
    size = len(header) + len(table)
    struct.pack_into('>4sI16sq', header, 0, b'VMA\0', 1, uuid, -5)
    struct.pack_into('>III', header, 48, 12288, used, size)
    whole = bytearray(header + table)
    whole[32:48] = hashlib.md5(whole).digest()
    with open(path, 'wb') as out:
        out.write(whole)
        while work:
            count = chance.randint(1, 59)
            part, work = work[:count], work[count:]
            slots = list(range(59))
            chosen = sorted(chance.sample(slots, len(part)))
            extent = bytearray(512)
            for slot in slots:
                struct.pack_into('>HBBI', extent, 40 + 8 * slot, chance.getrandbits(16), chance.getrandbits(8), 0, chance.getrandbits(32))
            blocks = b''
            for slot, (device, number, content) in zip(chosen, part):
                mask = 0
                for block in range(16):
                    piece = content[block * BLOCK:(block + 1) * BLOCK]
                    if piece.count(0) != len(piece):
                        mask |= 1 << block
                        blocks += piece + bytes(BLOCK - len(piece))
                struct.pack_into('>HBBI', extent, 40 + 8 * slot, mask, chance.getrandbits(8), device, number)
            struct.pack_into('>4sHH16s', extent, 0, b'VMAE', 0, len(blocks) // BLOCK, uuid)
            extent[24:40] = hashlib.md5(extent).digest()
            out.write(extent + blocks)


if sys.argv[1] == 'extract':
    extract(*sys.argv[2:])
else:
    split = sys.argv.index('--')
    create(sys.argv[2], int(sys.argv[3]), sys.argv[4:split], sys.argv[split + 1:])
