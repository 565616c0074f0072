# SPDX-License-Identifier: MIT
"""The format of traces once more, from docs/TRACE.md alone: to make files that are wrong."""
import random
import struct

HEADER_BYTES, CHUNK_BYTES = 144, 24
MASK = (1 << 64) - 1


def checksum(data):
    """Of a header or of a chunk's records."""
    total = len(data)
    for at in range(0, len(data), 8):
        total = (total ^ int.from_bytes(data[at:at + 8], "little")) * 0x9E3779B97F4A7C15 & MASK
        total ^= total >> 32
    return total


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def header(records=0, threads=1, slots=0, live=1000, name=b"made"):
    data = struct.pack("<8sIIIIQQQQQQ64s", b"QTRACE1\n", 1, 0, threads, slots, records, records,
                       live, 0, 0, 0, name)
    return data + struct.pack("<Q", checksum(data))


def chunk(thread, *records):
    """Records are tuples: the operation and its numbers."""
    data = b"".join(bytes([record[0]]) + b"".join(map(varint, record[1:])) for record in records)
    return struct.pack("<4sIIIQ", b"QCHK", thread, len(data), len(records), checksum(data)) + data


def trace(*threads, slots=8, **fields):
    """A trace with one chunk for each list of records."""
    return (header(sum(map(len, threads)), len(threads), slots, **fields)
            + b"".join(chunk(number, *records) for number, records in enumerate(threads)))


def correct(data):
    """The same with all checksums right, so that what is wrong behind them is looked at."""
    if len(data) < HEADER_BYTES:
        return data
    data = bytearray(data)
    struct.pack_into("<Q", data, 136, checksum(bytes(data[:136])))
    at = HEADER_BYTES
    while at + CHUNK_BYTES <= len(data):
        end = at + CHUNK_BYTES + struct.unpack_from("<I", data, at + 8)[0]
        if end > len(data):
            break
        struct.pack_into("<Q", data, at + 16, checksum(bytes(data[at + CHUNK_BYTES:end])))
        at = end
    return bytes(data)


def garble(data, seed):
    """A copy that is cut off, or has a few wrong bytes, more of them near the start."""
    chance = random.Random(seed)
    data = bytearray(data)
    if chance.random() < 0.2:
        return bytes(data[:chance.randrange(len(data))])
    for _ in range(chance.choice((1, 1, 2, 6))):
        limit = len(data) if chance.random() < 0.7 else min(len(data), 200)
        data[chance.randrange(limit)] = chance.choice((0, 1, 255, 128, chance.randrange(256)))
    return bytes(data)
