#!/usr/bin/env python3
"""Writes the golden vectors: small vaults, each right or wrong in one point, with valid cryptography around it.

    vectors.py write DIR             all of them, a file each; the same bytes every time
    vectors.py expand FILE VAULT     makes a vault of one

Written from docs/FORMAT.md, with no code of the program and none of the reader: what both are tested with must not come
from either. A vector is a text file. It begins with fields, a line each:

    point      its name
    chapter    of docs/FORMAT.md, which says so
    why        what is wrong, or right
    password
    verify     exit status of `verify`
    list       exit status of `list`
    extract    exit status of `extract`
    listing    a line of `list --json`, as often as there are entries; only where `list` ends with 0
    content    SHA-256 and path of a file; only where `extract` ends with 0
    length     of the vault

Behind an empty line come the bytes: `OFFSET HEX` for bytes that begin at OFFSET, `OFFSET <- FROM LENGTH` for a range
that is there already. What no line names is zero. Python 3.11 and the packages of tools/requirements.txt.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import struct
import sys
from collections import namedtuple

import zstandard
from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KIB, MIB = 1 << 10, 1 << 20
PASSWORD = b"correct horse"
HEADER_A, HEADER_B, ROOT_A, ROOT_B, EXTENTS = 0, 32 * KIB, 48 * KIB, 56 * KIB, 64 * KIB
DATA, LEAF, NODE, TABLE, HEAD, OVERFLOW, COMMIT = 1, 2, 3, 4, 5, 6, 7
FILE, DIRECTORY, SYMLINK, FIFO, CHAR, BLOCK = 1, 2, 3, 4, 5, 6
TYPES = {FILE: "file", DIRECTORY: "dir", SYMLINK: "symlink", FIFO: "fifo", CHAR: "char", BLOCK: "block"}
STORE, ZSTD = 0, 1


def crc32c(data):
    """CRC-32C, a bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def with_crc(data):
    """The structure whose last field is the checksum of all before."""
    return bytes(data) + struct.pack("<I", crc32c(data))


def patched(data, patches):
    """`data` with other bytes at some offsets; `patches` maps an offset to them."""
    data = bytearray(data)
    for at, other in (patches or {}).items():
        data[at:at + len(other)] = other
    return bytes(data)


def flipped(data, at=-1):
    """`data` with one bit changed."""
    data = bytearray(data)
    data[at] ^= 1
    return bytes(data)


def hkdf(key, salt, info):
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


# Chapter 7.2: the encoding of metadata.


def varint(number):
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def long_varint(number, length):
    """A varint of more bytes than it needs."""
    return bytes(number >> 7 * i & 0x7F | 0x80 for i in range(length - 1)) + bytes([number >> 7 * (length - 1) & 0x7F])


def zigzag(number):
    return varint(2 * number if number >= 0 else -2 * number - 1)


def blob(data):
    return varint(len(data)) + data


def option(value):
    return b"\0" if value is None else b"\1" + value


def sequence(values):
    return varint(len(values)) + b"".join(values)


# Chapters 7.3 and 7.4: entries.

Item = namedtuple("Item", "path body size listed")
TIME = (1_700_000_000, 123_456_789)
LISTED_TIME = "2023-11-14T22:13:20.123456789Z"


def hole(length):
    return varint(0) + varint(length)


def data_extent(segment, first, count, record_len, offset, length):
    return b"".join(map(varint, (1, segment, first, count, record_len, offset, length)))


def xattr(name, value):
    return blob(name) + blob(value)


def put(path, kind=FILE, *, flags=0, mode=None, owner=0, mtime=TIME, ctime=TIME, dev=1, ino=2, rdev=0, size=0,
        target=b"", link=None, extents=(), xattrs=(), overflow=(), size_bytes=None):
    """An item that puts an entry. Fields go out as they come in, sensible or not."""
    mode = {DIRECTORY: 0o755, SYMLINK: 0o777}.get(kind, 0o644) if mode is None else mode
    body = b"".join([
        bytes([kind, flags]), varint(mode), varint(owner), zigzag(mtime[0]), varint(mtime[1]), zigzag(ctime[0]),
        varint(ctime[1]), varint(dev), varint(ino), varint(rdev), varint(size) if size_bytes is None else size_bytes,
        blob(target), option(None if link is None else varint(link[0]) + varint(link[1])), sequence(extents),
        sequence(xattrs), sequence(overflow),
    ])
    shown = path or b"."
    listed = {"path": shown.decode(errors="replace"), "type": TYPES.get(kind), "size": len(target) or size,
              "mode": f"{mode:04o}", "mtime": LISTED_TIME, "uid": 0, "gid": 0, "user": "root", "group": "root"}
    if kind == SYMLINK:
        listed["target"] = target.decode(errors="replace")
    if shown.decode(errors="ignore").encode() != shown:
        listed["path_bytes"] = base64.b64encode(shown).decode()
    return Item(path, body, size, listed)


def delete(path):
    """An item that deletes a path."""
    return Item(path, None, 0, None)


def leaf(items, owners=((0, 0, b"root", b"root"),), count=None, first_shared=0):
    """The plaintext of a leaf; paths share with the one before what they can."""
    encoded, previous = [], b""
    for i, item in enumerate(items):
        shared = len(os.path.commonprefix([previous, item.path])) if i else first_shared
        encoded.append(varint(shared) + blob(item.path[shared:] if i else item.path) + option(item.body))
        previous = item.path
    owned = sequence([varint(uid) + varint(gid) + blob(user) + blob(group) for uid, gid, user, group in owners])
    return owned + (sequence(encoded) if count is None else varint(count) + b"".join(encoded))


def replacement(path, *excepted):
    return blob(path) + sequence([blob(each) for each in excepted])


# Chapter 6.5: zstd frames by hand (RFC 8878), so that the bytes depend on no release of zstd.


def frame(blocks, content_size, *, window=None, dictionary=None):
    """A frame of (type, size, bytes) blocks: 0 raw, 1 one byte repeated. Single segment, or with this window byte."""
    descriptor = (0 if content_size is None else 2 << 6) | (0x20 if window is None else 0)
    descriptor |= 0 if dictionary is None else 1
    out = bytearray(struct.pack("<I", 0xFD2FB528)) + bytes([descriptor])
    if window is not None:
        out.append(window)
    if dictionary is not None:
        out.append(dictionary)
    if content_size is not None:
        out += struct.pack("<I", content_size)
    for i, (kind, size, data) in enumerate(blocks):
        out += struct.pack("<I", size << 3 | kind << 1 | (i == len(blocks) - 1))[:3] + data
    return bytes(out)


def repeated(byte, length, **options):
    """A frame that is one byte so often, in blocks of at most 128 KiB."""
    sizes = [min(128 * KIB, length - at) for at in range(0, length, 128 * KIB)] or [0]
    return frame([(1, size, bytes([byte])) for size in sizes], options.pop("content_size", length), **options)


# The vault.

Reference = namedtuple("Reference", "number offset length")


def encoded(reference):
    """A block reference (7.2)."""
    return varint(reference.number) + varint(reference.offset) + varint(reference.length)


def tree_reference(head, generation, segment=0):
    """What a commit record says of a tree (8.1); the stored bytes are for a writer to decide by."""
    return varint(segment) + encoded(head) + varint(generation) + varint(head.length)


class Segment:
    """A segment of a vault, with its keys and its counters."""

    def __init__(self, vault, salt):
        self.salt, self.id = salt, hashlib.sha256(salt).digest()[:16]
        self.data = AESGCM(hkdf(vault.master, salt, b"flint v1 data" + vault.id))
        self.meta = AESGCM(hkdf(vault.master, salt, b"flint v1 meta" + vault.id))
        self.next = {True: 0, False: 0}


class Vault:
    """A vault in the making. Whatever is written can be written wrongly: `patches` change a structure before its
    checksum, tag and MAC are made, so that nothing but the point is wrong."""

    def __init__(self, name):
        self._name, self._drawn = name, 0
        self.id, self.master = self.draw(16), self.draw(32)
        self.image, self.end = bytearray(EXTENTS), EXTENTS
        self.segments, self.places, self.commits, self.content = [], [], [], {}
        self.extent()

    def draw(self, length):
        """Bytes that look random and are the same every time."""
        self._drawn += 1
        return hashlib.shake_256(f"{self._name} {self._drawn}".encode()).digest(length)

    def write(self, at, data):
        if len(self.image) < at + len(data):
            self.image += bytes(at + len(data) - len(self.image))
        self.image[at:at + len(data)] = data

    def extent(self, patches=None, alignment=64):
        """6.2: begins a segment with its first extent; its number in the tables that are made from now on."""
        segment = Segment(self, self.draw(32))
        head = (b"FLINTSG1" + struct.pack("<II", 1, 0) + self.id + segment.salt
                + struct.pack("<II", alignment, 0) + bytes(180))
        segment.at = self.end
        self.write(self.end, with_crc(patched(head, patches)))
        self.end += 256
        self.segments.append(segment)
        return len(self.segments) - 1

    def record(self, kind, plain, *, segment=0, number=None, codec=STORE, packed=None, plain_len=None, patches=None,
               kind_of_key=None, after=None):
        """6.3: writes a record; `after` changes its finished bytes."""
        owner = self.segments[segment]
        is_data = (kind_of_key or kind) == DATA
        if number is None:
            number = owner.next[is_data]
            owner.next[is_data] += 1
        packed = plain if packed is None else packed
        plain_len = len(plain) if plain_len is None else plain_len
        head = patched(b"FLRC" + bytes([1, kind, codec, 0]) + owner.id
                       + struct.pack("<QII", number, plain_len, len(packed)) + bytes(20), patches)
        cipher = owner.data if is_data else owner.meta
        sealed = cipher.encrypt(bytes(4) + struct.pack("<Q", number), packed, head + bytes(4))
        raw = with_crc(head) + sealed
        if after is not None:
            raw = after(raw)
        at = -(-self.end // 64) * 64
        self.write(at, raw)
        self.end = at + len(raw)
        return Reference(number, at, len(raw))

    def data(self, content, *, segment=0, place=None, **options):
        """A data record, and its place in the record tables to come; its number. `place` changes the place."""
        reference = self.record(DATA, content, segment=segment, **options)
        entry = {"number": reference.number, "offset": reference.offset, "length": reference.length,
                 "plain": len(content)}
        entry.update(place or {})
        self.places.append((segment, entry))
        return reference.number

    def table(self, segment, places):
        """7.7: a table block; a table reference to it."""
        values = [b"".join(varint(place[name]) for name in ("number", "offset", "length", "plain")) for place in places]
        reference = self.record(TABLE, sequence(values))
        return varint(segment) + varint(places[0]["number"] if places else 0) + encoded(reference)

    def tree(self, items=(), *, generation, segment=0, top=None, height=0, leaves=None, leaf_plain=None, tables=None,
             replacements=(), flags=0, largest=None, sums=None, extra=b"", wrapped=b"", head_options=None,
             leaf_options=None):
        """7.8: a tree of one leaf with these items, or of the top that is given; a tree reference (8.1)."""
        if top is None and (items or leaf_plain is not None):
            top = self.record(LEAF, leaf(items) if leaf_plain is None else leaf_plain, **(leaf_options or {}))
        if tables is None:
            tables = []
            for number in range(len(self.segments)):
                places = [place for owner, place in self.places if owner == number]
                if places:
                    tables.append(self.table(number, places))
        if largest is None:
            largest = max((place["plain"] for _, place in self.places), default=0)
        if sums is None:
            every = list(items) if leaves is None else leaves
            sums = (sum(item.body is not None for item in every), sum(item.body is None for item in every),
                    sum(item.size for item in every))
        head = b"".join([
            varint(flags), sequence([each.salt + blob(wrapped) for each in self.segments]), bytes([height]),
            option(None if top is None else encoded(top)), *map(varint, sums), sequence(tables), varint(largest),
            sequence(replacements), extra,
        ])
        self.last_head = self.record(HEAD, head, **(head_options or {}))
        return tree_reference(self.last_head, generation, segment)

    def commit(self, *, full=None, deltas=(), generation=None, snapshot=None, highest=None, flags=0, previous="last",
               heads=None, extra=b"", wrapped=b"", options=None, texts=(b"host", b"user"), tags=None):
        """8.1: a commit record behind the last one. `snapshot` is a number; `tags` are the bytes of their list."""
        generation = len(self.commits) + 1 if generation is None else generation
        taken = None
        if snapshot is not None:
            taken = b"".join([varint(snapshot), zigzag(TIME[0]), varint(TIME[1]), *map(blob, texts),
                              sequence([blob(b"flint-pipe"), blob(b"add")]), sequence([blob(b".")]),
                              sequence([]) if tags is None else tags, varint(0), varint(0), varint(0), varint(0), varint(0)])
        if highest is None:
            highest = snapshot or 0
        if previous == "last":
            previous = None
            if self.commits:
                last, last_generation = self.commits[-1]
                previous = (varint(0) + encoded(last) + varint(last_generation)
                            + hashlib.sha256(self.image[last.offset:last.offset + last.length]).digest())
        heads = [varint(0) + varint(EXTENTS)] if heads is None else heads
        plain = b"".join([
            varint(flags), varint(generation), option(taken), varint(highest), option(previous),
            sequence([each.salt + blob(wrapped) for each in self.segments]), option(full), sequence(list(deltas)),
            sequence(heads), extra,
        ])
        self.commits.append((self.record(COMMIT, plain, **(options or packed_if_long(plain))), generation))

    def slot(self, *, slot_id=1, password=PASSWORD, memory=64, passes=1, lanes=1, algorithm=1, label=b"",
             label_len=None, derive=True, committed=None, wrapped=None, after=None, patches=None):
        """4.3: a password slot. `committed`: the password that the commitment is for, where it is another."""
        fixed = (struct.pack("<HHIqIIIHH", 1, 256, slot_id, TIME[0], memory, passes, lanes, algorithm,
                             len(label) if label_len is None else label_len) + self.draw(32) + label.ljust(64, b"\0"))
        fixed = patched(fixed, patches)
        commitment, sealed = self.draw(32), self.draw(48)
        if derive:
            def stretched(secret):
                return hash_secret_raw(secret, fixed[32:64], time_cost=passes, memory_cost=memory, parallelism=lanes,
                                       hash_len=32, type=Type.ID, version=0x13)
            commitment = hkdf(stretched(committed or password), self.id, b"flint v1 slot commit" + fixed)
            kek = hkdf(stretched(password), self.id, b"flint v1 slot kek" + fixed)
            bound = b"\x89FLINT\r\n" + struct.pack("<II", 1, 0) + self.id + fixed
            sealed = AESGCM(kek).encrypt(bytes(12), wrapped or self.master, bound)
        whole = fixed + commitment + sealed + bytes(48)
        return after(whole) if after is not None else whole

    def header(self, slots=None, *, count=None, sequence_number=1, optional=0, patches=None, mac_flip=False,
               crc_flip=False):
        """4.1: the bytes of a header."""
        slots = [self.slot()] if slots is None else slots
        head = (b"\x89FLINT\r\n" + struct.pack("<II", 1, 0) + self.id
                + struct.pack("<QIH", sequence_number, optional, len(slots) if count is None else count) + bytes(18)
                + b"".join(slots))
        head = patched(head.ljust(16_348, b"\0"), patches)
        mac = hmac.digest(hkdf(self.master, self.id, b"flint v1 header mac"), head, "sha256")
        raw = with_crc(head + (flipped(mac) if mac_flip else mac))
        return flipped(raw) if crc_flip else raw

    def root(self, *, at=-1, patches=None, mac_flip=False, crc_flip=False, end=None):
        """5.1: the bytes of a root, of the last commit or the one at this position."""
        commit, generation = self.commits[at]
        raw = self.image[commit.offset:commit.offset + commit.length]
        root = (b"FLINTRT1" + struct.pack("<II", 1, 0) + self.id
                + struct.pack("<QQIIQQQ", generation, commit.offset, commit.length, 0, commit.number,
                              self.end if end is None else end, 0)
                + self.segments[0].salt + hashlib.sha256(raw).digest())
        root = patched(root.ljust(476, b"\0"), patches)
        mac = hmac.digest(hkdf(self.master, self.id, b"flint v1 root"), root, "sha256")
        raw = with_crc(root + (flipped(mac) if mac_flip else mac))
        return flipped(raw) if crc_flip else raw

    def finish(self, header=None, header_b=None, root=None, root_b=None):
        """Writes both headers and both roots: of B what A has, where nothing else is given."""
        header = self.header() if header is None else header
        root = self.root() if root is None else root
        self.write(HEADER_A, header)
        self.write(HEADER_B, header if header_b is None else header_b)
        self.write(ROOT_A, root)
        self.write(ROOT_B, root if root_b is None else root_b)


# The cases.

Case = namedtuple("Case", "name chapter verify list extract make")
CASES = []


def case(chapter, verify=13, list=None, extract=None):  # noqa: A002 - the word of the command
    """Registers a case: its name is the function's, what it is about the docstring. The function is given a vault that
    has the commit of generation 1, and finishes it; it returns what has to be listed, or None for `expected`."""
    def register(make):
        listed = verify if list is None else list
        CASES.append(Case(make.__name__, chapter, verify, listed, verify if extract is None else extract, make))
        return make
    return register


HELLO = b"hello, vault\n"


def hello(vault, path=b"hello", **fields):
    """A file of one data record."""
    number = vault.data(HELLO)
    vault.content[path] = HELLO
    return put(path, size=len(HELLO), extents=[data_extent(0, number, 1, len(HELLO), 0, len(HELLO))], **fields)


def snapshot_of(vault, items, **options):
    """Snapshot 1 with a delta of these items; the vault is finished but for headers and roots."""
    vault.commit(deltas=[vault.tree(items, generation=2, **options)], snapshot=1)
    return items


def one_tree(vault, items, **options):
    """A finished vault with these items; what is listed if all is well."""
    snapshot_of(vault, items, **options)
    vault.finish()
    return items


def ordinary(vault):
    """A snapshot in which nothing is wrong, for cases whose point is in the preamble."""
    return snapshot_of(vault, [put(b"d", DIRECTORY), hello(vault, b"d/hello"), put(b"l", SYMLINK, target=b"d/hello")])


# Vaults that are as they should be.


@case("8.1", verify=0)
def good_empty(vault):
    """The vault that `create` makes: generation 1, no snapshot, no tree."""
    vault.commit()
    vault.finish()
    return []


@case("7", verify=0)
def good_ordinary(vault):
    """A directory, a file, a symlink."""
    vault.commit()
    items = ordinary(vault)
    vault.finish()
    return items


@case("7.3", verify=0)
def good_root_and_orphans(vault):
    """The root has the empty path; entries need no parents; `/` sorts before every other byte; a name is no UTF-8."""
    vault.commit()
    return one_tree(vault, [put(b"", DIRECTORY, mode=0o1777), hello(vault, b"a/b/c"), hello(vault, b"a.b"),
                            put(b"b\xff\x01", FIFO), put(b"b\xff\x01.x")])


@case("7.3", verify=0)
def good_extents(vault):
    """Holes before, between and behind data, and a run of three records that begins and ends within records."""
    vault.commit()
    content = bytes(range(1, 251)) * 10
    for i in range(3):
        vault.data(content[i * 1000:(i + 1) * 1000].ljust(1000, b"!"))
    extents = [hole(5000), data_extent(0, 0, 3, 1000, 900, 1500), hole(1), data_extent(0, 1, 1, 10, 3, 7), hole(100)]
    vault.content[b"f"] = bytes(5000) + content[900:2400] + bytes(1) + content[1003:1010] + bytes(100)
    vault.content[b"holes"] = bytes(4096)
    return one_tree(vault, [put(b"f", size=6608, extents=extents), put(b"holes", size=4096, extents=[hole(4096)])])


@case("6.5", verify=0)
def good_zstd(vault):
    """Packed records: a single segment, a window of 16 MiB, a frame without content, an index block."""
    vault.commit()
    for window in (None, 14 << 3):
        vault.data(b"z" * 1000, codec=ZSTD, packed=repeated(ord("z"), 1000, window=window))
    plain = leaf([put(b"a", size=1000, extents=[data_extent(0, 0, 1, 1000, 0, 1000)]),
                  put(b"b", size=999, extents=[data_extent(0, 1, 1, 1000, 1, 999)]),
                  put(b"c", size=10, extents=[hole(10)], xattrs=[xattr(b"user.n", b"n" * 300)])])
    begin = plain.index(b"n" * 300)
    packed = frame([(0, begin, plain[:begin]), (1, 300, b"n"), (0, len(plain) - begin - 300, plain[begin + 300:])],
                   len(plain))
    vault.content.update({b"a": b"z" * 1000, b"b": b"z" * 999, b"c": bytes(10)})
    items = [put(b"a", size=1000), put(b"b", size=999), put(b"c", size=10)]
    snapshot_of(vault, (), leaves=items, leaf_plain=plain, leaf_options={"codec": ZSTD, "packed": packed})
    vault.finish()
    return items


@case("7.5", verify=0)
def good_overflow_blocks(vault):
    """Extents and xattrs in two overflow blocks, cut in the middle of a number."""
    vault.commit()
    number = vault.data(HELLO)
    plain = (sequence([hole(300), data_extent(0, number, 1, len(HELLO), 0, len(HELLO)), hole(70_000)])
             + sequence([xattr(b"user.a", b"1")]))
    blocks = [vault.record(OVERFLOW, plain[:3]), vault.record(OVERFLOW, plain[3:])]
    vault.content[b"f"] = bytes(300) + HELLO + bytes(70_000)
    return one_tree(vault, [put(b"f", size=70_313, overflow=[encoded(block) for block in blocks])])


@case("7.6", verify=0)
def good_nodes(vault):
    """Two levels of nodes above three leaves."""
    vault.commit()
    items = [put(b"a", DIRECTORY), put(b"a/1"), put(b"b"), put(b"c", DIRECTORY), put(b"c/1"), put(b"d")]
    leaves = [vault.record(LEAF, leaf(items[i:i + 2])) for i in (0, 2, 4)]
    low = [vault.record(NODE, sequence([blob(items[2 * i].path) + encoded(leaves[i]) for i in part]))
           for part in ((0, 1), (2,))]
    top = vault.record(NODE, sequence([blob(b"a") + encoded(low[0]), blob(b"c/1") + encoded(low[1])]))
    snapshot_of(vault, (), leaves=items, top=top, height=2)
    vault.finish()
    return items


@case("7.2", verify=0)
def good_long_varints(vault):
    """Readers accept a varint that is longer than it need be."""
    vault.commit()
    hello(vault)
    item = put(b"hello", size=len(HELLO), size_bytes=long_varint(len(HELLO), 10),
               extents=[b"\x81\x80\x00" + data_extent(0, 0, 1, len(HELLO), 0, len(HELLO))[1:]])
    plain = leaf([item])
    # No owner is called anything else, so this is the count of the items.
    counted = plain.replace(b"root\1\0\5hello", b"root" + long_varint(1, 10) + b"\0\5hello")
    assert len(counted) == len(plain) + 9
    snapshot_of(vault, (), leaves=[item], leaf_plain=counted)
    vault.finish()
    return [item]


@case("7.7", verify=0)
def good_two_table_blocks(vault):
    """Data records of two segments, in three table blocks; a place is found in the last that is not behind it."""
    vault.commit()
    second = vault.extent()
    numbers = [vault.data(bytes([65 + i]) * 10, segment=0 if i < 4 else second) for i in range(6)]
    places = [place for _, place in vault.places]
    tables = [vault.table(0, places[:2]), vault.table(0, places[2:4]), vault.table(second, places[4:])]
    items = []
    for i, number in enumerate(numbers):
        path = b"f%d" % i
        vault.content[path] = bytes([65 + i]) * 10
        items.append(put(path, size=10, extents=[data_extent(0 if i < 4 else second, number, 1, 10, 0, 10)]))
    return one_tree(vault, items, tables=tables)


@case("7.3", verify=0)
def good_hard_links(vault):
    """Two names of one file, and a third of the same group with other content, which is a copy."""
    vault.commit()
    first, other = vault.data(HELLO), vault.data(b"other bytes..")
    items = []
    for path, number in ((b"a", first), (b"b", first), (b"c", other)):
        vault.content[path] = HELLO if number == first else b"other bytes.."
        items.append(put(path, size=13, link=(0, 7), extents=[data_extent(0, number, 1, 13, 0, 13)]))
    return one_tree(vault, items)


@case("9", verify=0)
def delete_and_replacement(vault):
    """A full index, and a delta with deletes and replacements: what each takes away, and what it leaves."""
    vault.commit()
    base = [put(b"a", DIRECTORY), put(b"a/1"), put(b"a/1.x"), put(b"a/keep", DIRECTORY), put(b"a/keep/2"), put(b"b"),
            put(b"c", DIRECTORY), put(b"c/3"), put(b"d", DIRECTORY), put(b"d/4"), put(b"e", DIRECTORY), put(b"e/5"),
            put(b"f"), put(b"g", DIRECTORY), put(b"g/6")]
    full = vault.tree(base, generation=1)
    vault.commit(full=full, snapshot=1)
    # a: replaced but for a/keep, and put again. b: deleted. c: deleted, it alone. d: now a file. f: now has a child.
    # g: replaced, and its child with it.
    delta = [put(b"a", DIRECTORY), delete(b"b"), delete(b"c"), put(b"d"), put(b"f/7"), put(b"g.h")]
    vault.commit(full=full, deltas=[vault.tree(delta, generation=3,
                                               replacements=[replacement(b"a", b"a/keep"), replacement(b"g")])],
                 snapshot=2)
    vault.finish()
    return [put(b"a", DIRECTORY), put(b"a/keep", DIRECTORY), put(b"a/keep/2"), put(b"c/3"), put(b"d"),
            put(b"e", DIRECTORY), put(b"e/5"), put(b"f/7"), put(b"g.h")]


@case("9", verify=0)
def put_buries_though_deleted_later(vault):
    """What a put took away stays away, whatever became of that put: `a/1` under a file `a`, and the file `b` under
    `b/1`, are gone although `a` and `b/1` are deleted by the third tree."""
    vault.commit()
    trees = [vault.tree([put(b"a", DIRECTORY), put(b"a/1"), put(b"b"), put(b"c")], generation=2),
             vault.tree([put(b"a"), put(b"b/1")], generation=3),
             vault.tree([delete(b"a"), delete(b"b/1")], generation=4)]
    for generation in (2, 3, 4):
        vault.commit(deltas=trees[:generation - 1], snapshot=generation - 1)
    vault.finish()
    return [put(b"c")]


@case("9", verify=0)
def replacement_of_the_root(vault):
    """A replacement of the empty path takes everything away but what it excepts and what its own tree puts."""
    vault.commit()
    old = vault.tree([put(b"", DIRECTORY), put(b"a"), put(b"k", DIRECTORY), put(b"k/1"), put(b"z")], generation=2)
    new = vault.tree([put(b"n")], generation=2, replacements=[replacement(b"", b"k")])
    vault.commit(deltas=[old, new], snapshot=1)
    vault.finish()
    return [put(b"k", DIRECTORY), put(b"k/1"), put(b"n")]


@case("8.3", verify=0)
def two_deltas_of_one_generation(vault):
    """They apply in their order: the second wins."""
    vault.commit()
    deltas = [vault.tree([put(b"a", mode=0o600), put(b"b")], generation=2),
              vault.tree([put(b"a", mode=0o644), delete(b"b"), put(b"c")], generation=2)]
    vault.commit(deltas=deltas, snapshot=1)
    vault.finish()
    return [put(b"a", mode=0o644), put(b"c")]


@case("4.2", verify=0)
def unknown_slots_and_optional_flags(vault):
    """Slots of unknown kinds are passed over, optional flags ignored; the password is on the last slot."""
    vault.commit()
    items = ordinary(vault)
    unknown = struct.pack("<HH", 77, 12) + b"whatever"
    slots = [unknown, vault.slot(slot_id=1, password=b"another"), struct.pack("<HHI", 2, 8, 5),
             vault.slot(slot_id=2, label="größe".encode())]
    vault.finish(header=vault.header(slots, optional=0x80000001, sequence_number=9))
    return items


@case("4.2", verify=0)
def slots_at_the_limit(vault):
    """Eight password slots and 32 others; the password is on the last."""
    vault.commit()
    items = ordinary(vault)
    others = [struct.pack("<HHI", 9, 8, i) for i in range(32)]
    slots = [vault.slot(slot_id=1 + i, password=b"another %d" % i) for i in range(7)] + [vault.slot(slot_id=8)]
    vault.finish(header=vault.header(others + slots))
    return items


@case("3.2", verify=0)
def kdf_memory_at_the_limit(vault):
    """1 GiB: bearable, just."""
    vault.commit()
    items = ordinary(vault)
    vault.finish(header=vault.header([vault.slot(memory=1_048_576)]))
    return items


@case("3.2", verify=0)
def kdf_passes_and_lanes_at_the_limit(vault):
    """16 passes, 16 lanes, and 8 KiB a lane."""
    vault.commit()
    items = ordinary(vault)
    vault.finish(header=vault.header([vault.slot(memory=128, passes=16, lanes=16)]))
    return items


@case("3.2", verify=0)
def kdf_cost_of_all_slots_at_the_limit(vault):
    """4 GiB times passes over all slots; the password's own comes first, so nothing is spent on the others."""
    vault.commit()
    items = ordinary(vault)
    slots = [vault.slot(), vault.slot(slot_id=2, memory=1_048_576, passes=3, derive=False),
             vault.slot(slot_id=3, memory=1_048_576 - 64, derive=False)]
    vault.finish(header=vault.header(slots))
    return items


@case("5.2", verify=0)
def roots_of_one_generation(vault):
    """Two valid roots of one generation, which name different commit records: A is the state."""
    vault.commit()
    items = ordinary(vault)
    vault.commit(generation=2, previous=None, snapshot=1, deltas=[vault.tree([put(b"other")], generation=2)])
    vault.finish(root=vault.root(at=1), root_b=vault.root(at=2))
    return items


@case("7.3", verify=0)
def good_names_for_a_terminal(vault):
    """Escape sequences, line ends, a change of the direction of writing: names like others, not to be shown as they are."""
    vault.commit()
    # No files, whose names would stand in a field each.
    names = (b"\n", b"\x1b[2J\x07", b"a\x7f", "a\u202eb".encode())
    return one_tree(vault, [put(name, DIRECTORY) for name in names])


@case("7.3", verify=0)
def good_component_of_255(vault):
    """What file systems have at most."""
    vault.commit()
    return one_tree(vault, [put(b"x" * 255, DIRECTORY), put(b"x" * 255 + b"/" + b"y" * 255)])


@case("7.3", verify=0)
def good_symlinks_that_lead_out(vault):
    """They come back as they were, absolute or with `..`; nothing goes through them, and what sorts behind them is beside
    them."""
    vault.commit()
    return one_tree(vault, [put(b"a", SYMLINK, target=b".."), put(b"a.b", DIRECTORY), put(b"a.b/c"),
                            put(b"b", SYMLINK, target=b"/"), put(b"c", SYMLINK, target=b"c"),
                            put(b"d", SYMLINK, target=b"../../../../../../etc/passwd")])


@case("9", verify=0)
def symlink_in_the_place_of_a_directory(vault):
    """A later tree puts a symlink where an earlier one has a directory: what was below it is gone, and comes back nowhere."""
    vault.commit()
    trees = [vault.tree([put(b"a", DIRECTORY), put(b"a/1"), put(b"b", SYMLINK, target=b"a")], generation=2),
             vault.tree([put(b"a", SYMLINK, target=b"/tmp"), put(b"b/2")], generation=3)]
    vault.commit(deltas=trees[:1], snapshot=1)
    vault.commit(deltas=trees, snapshot=2)
    vault.finish()
    return [put(b"a", SYMLINK, target=b"/tmp"), put(b"b/2")]


@case("7.3", verify=0)
def link_group_of_unlike_entries(vault):
    """One group with a file, a directory, another directory and a symlink: no two of them are alike enough to be linked."""
    vault.commit()
    return one_tree(vault, [put(b"a", link=(0, 1)), put(b"b", DIRECTORY, link=(0, 1)), put(b"c", DIRECTORY, link=(0, 1)),
                            put(b"d", SYMLINK, target=b"a", link=(0, 1)), hello(vault, b"e", link=(0, 1))])


@case("7.6", verify=0)
def height_at_the_limit(vault):
    """32 levels of nodes with one child each."""
    vault.commit()
    items = [put(b"a")]
    block = vault.record(LEAF, leaf(items))
    for _ in range(32):
        block = vault.record(NODE, sequence([blob(b"a") + encoded(block)]))
    snapshot_of(vault, (), leaves=items, top=block, height=32)
    vault.finish()
    return items


@case("2.4", verify=0)
def record_at_the_limit(vault):
    """A data record of 16 MiB, of which a file has five bytes in the middle."""
    vault.commit()
    size = 16 * MIB
    number = vault.data(b"", codec=ZSTD, packed=repeated(ord("z"), size), plain_len=size, place={"plain": size})
    vault.content[b"f"] = b"z" * 5
    return one_tree(vault, [put(b"f", size=5, extents=[data_extent(0, number, 1, size, size // 2, 5)])])


@case("8.1", verify=0)
def deltas_at_the_limit(vault):
    """4,095 deltas, all of them one tree, of generations that ascend."""
    vault.commit()
    vault.tree([put(b"a")], generation=1)
    deltas = [tree_reference(vault.last_head, 1 + i) for i in range(4095)]
    vault.commit(deltas=deltas, generation=5000, snapshot=1)
    vault.finish()
    return [put(b"a")]


@case("8.2", verify=0)
def texts_for_a_terminal(vault):
    """Escape sequences in what a snapshot says of itself: information, not to be sent to a terminal as it is."""
    vault.commit()
    items = [put(b"a")]
    vault.commit(deltas=[vault.tree(items, generation=2)], snapshot=1, texts=(b"\x1b[2J", b"\x1b]0;x\x07"),
                 tags=sequence([blob(b"\x1b[31m\n")]))
    vault.finish()
    return items


@case("4.1", list=0, extract=0)
def header_a_torn(vault):
    """One good copy of the header opens the vault; the other is reported by who verifies."""
    vault.commit()
    items = ordinary(vault)
    good = vault.header()
    vault.finish(header=good[:512] + bytes(len(good) - 512), header_b=good)
    return items


@case("4.1", verify=0)
def headers_of_two_sequences(vault):
    """A change of the header between its two writes: the higher sequence counts."""
    vault.commit()
    items = ordinary(vault)
    vault.finish(header=vault.header(sequence_number=2),
                 header_b=vault.header([vault.slot(password=b"the old one")], sequence_number=1))
    return items


@case("5.2", list=0, extract=0)
def root_b_torn(vault):
    """One good root is the state; the other is reported by who verifies."""
    vault.commit()
    items = ordinary(vault)
    good = vault.root()
    vault.finish(root=good, root_b=good[:100] + bytes(412))
    return items


@case("5.2", verify=0)
def roots_of_two_generations(vault):
    """The vault was in the middle of a commit: no damage, and the higher generation is the state."""
    vault.commit()
    items = ordinary(vault)
    vault.finish(root=vault.root(at=0), root_b=vault.root())
    return items


@case("6.1", verify=0)
def bytes_that_nobody_refers_to(vault):
    """What looks like a record and is none of a table says nothing; neither does what lies between records."""
    vault.commit()
    vault.record(DATA, b"lost", after=lambda raw: flipped(raw))
    vault.write(vault.end, b"FLRC" * 40)
    vault.end += 160
    return one_tree(vault, [hello(vault)])


@case("6.2", verify=0)
def optional_alignment(vault):
    """A segment may align its records to 4096."""
    vault.end = EXTENTS
    vault.segments.clear()
    vault.extent(alignment=4096)
    for make in (vault.commit, lambda: snapshot_of(vault, [hello(vault)])):
        vault.end = -(-vault.end // 4096) * 4096
        make()
    vault.finish()
    return [put(b"hello", size=len(HELLO))]


# 2 to 4: what stands at fixed places.


@case("4.1")
def magic_of_another_program(vault):
    """Neither header has the magic number: not a vault."""
    vault.commit()
    vault.finish(header=bytes(16 * KIB))


@case("4.1")
def header_checksum_wrong(vault):
    """Both copies."""
    vault.commit()
    vault.finish(header=vault.header(crc_flip=True))


@case("2.3", verify=1)
def unknown_version(vault):
    """A header of version 2, with a right checksum: made by a later version."""
    vault.commit()
    vault.finish(header=vault.header(patches={8: struct.pack("<I", 2)}))


@case("2.3", verify=1)
def critical_flag(vault):
    """A flag that who does not know it must not ignore."""
    vault.commit()
    vault.finish(header=vault.header(patches={12: struct.pack("<I", 4)}))


@case("1")
def reserved_bytes_not_zero(vault):
    """A reserved byte of the header."""
    vault.commit()
    vault.finish(header=vault.header(patches={63: b"\1"}))


@case("2.1", list=0, extract=0)
def reserved_range_not_zero(vault):
    """A byte between header B and root A: no part of a structure, but who verifies must report it."""
    vault.commit()
    items = ordinary(vault)
    vault.finish()
    vault.write(ROOT_A + 512, b"\1")
    return items


@case("4.1")
def header_mac_flipped(vault):
    """A header whose MAC is another's, with a right checksum."""
    vault.commit()
    vault.finish(header=vault.header(mac_flip=True))


@case("4.1")
def header_sequence_zero(vault):
    """The first header has sequence 1."""
    vault.commit()
    vault.finish(header=vault.header(sequence_number=0))


@case("4.1")
def bytes_behind_the_last_slot(vault):
    """They are zero."""
    vault.commit()
    vault.finish(header=vault.header(patches={16_000: b"\1"}))


@case("4.1")
def slot_count_too_large(vault):
    """65,535 slots."""
    vault.commit()
    vault.finish(header=vault.header(count=65_535))


@case("2.4")
def nine_password_slots(vault):
    """At most eight: a wrong password is tried on each."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(slot_id=i + 1, derive=i == 0) for i in range(9)]))


@case("2.4")
def thirty_three_other_slots(vault):
    """At most 32 of other kinds."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot()] + [struct.pack("<HHI", 9, 8, 0)] * 33))


@case("2.4")
def ten_thousand_slots(vault):
    """As many as a header has room for, and four times as many by their number."""
    vault.commit()
    vault.finish(header=vault.header([struct.pack("<HHI", 9, 8, 0)] * (16_284 // 8), count=10_000))


@case("4.2")
def slot_of_kind_zero(vault):
    """Kind 0 is no kind."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(), struct.pack("<HHI", 0, 8, 0)]))


@case("4.2")
def slot_of_no_length(vault):
    """A slot that ends where it begins would never end."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(), struct.pack("<HHI", 9, 0, 0)]))


@case("4.2")
def slot_reaches_into_the_mac(vault):
    """A slot ends before byte 16,348 of the header."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(), struct.pack("<HHI", 9, 16_348 - 320 + 4, 0)]))


@case("4.3")
def slot_ids_not_unique(vault):
    """Two password slots of one id."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(slot_id=3), vault.slot(slot_id=3, password=b"another")]))


@case("4.3")
def slot_label_not_utf8(vault):
    """The label of a slot is text."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(label=b"\xff\xfe")]))


@case("4.3")
def slot_label_too_long(vault):
    """65 bytes in a field of 64."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(label=b"x" * 64, label_len=65)]))


@case("4.3")
def slot_bytes_behind_the_label(vault):
    """They are zero."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(label=b"ab", label_len=1)]))


@case("4.3")
def slot_of_another_algorithm(vault):
    """Other algorithms come as slots of another kind."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(algorithm=2)]))


@case("3.2", verify=1)
def kdf_memory_too_large(vault):
    """2 GiB for one password: refused before the first derivation."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(memory=2_097_152, derive=False)]))


@case("3.2", verify=1)
def kdf_memory_too_small(vault):
    """Less than 8 KiB a lane."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(memory=31, lanes=4, derive=False)]))


@case("3.2", verify=1)
def kdf_passes_zero(vault):
    """No pass at all."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(passes=0, derive=False)]))


@case("3.2", verify=1)
def kdf_passes_too_many(vault):
    """17 passes."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(passes=17, derive=False)]))


@case("3.2", verify=1)
def kdf_cost_of_all_slots_just_too_large(vault):
    """A KiB more than may be."""
    vault.commit()
    slots = [vault.slot(), vault.slot(slot_id=2, memory=1_048_576, passes=3, derive=False),
             vault.slot(slot_id=3, memory=1_048_576 - 63, derive=False)]
    vault.finish(header=vault.header(slots))


@case("3.2", verify=1)
def kdf_parameters_of_all_ones(vault):
    """2^32 - 1 of everything: nothing overflows on the way to the refusal."""
    vault.commit()
    most = 0xFFFFFFFF
    slots = [vault.slot(slot_id=1 + i, memory=most, passes=most, lanes=most, derive=False) for i in range(8)]
    vault.finish(header=vault.header(slots))


@case("3.2", verify=1)
def kdf_lanes_too_many(vault):
    """17 lanes."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(lanes=17, memory=17 * 8, derive=False)]))


@case("3.2", verify=1)
def kdf_cost_of_all_slots_too_large(vault):
    """The password's own slot is cheap and comes first, but all together cost more than 4 GiB times passes."""
    vault.commit()
    slots = [vault.slot()] + [vault.slot(slot_id=2 + i, memory=1_048_576, passes=4, derive=False) for i in range(2)]
    vault.finish(header=vault.header(slots))


@case("4.4", verify=12)
def password_of_no_slot(vault):
    """A slot for another password."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(password=b"another")]))


@case("4.4", verify=12)
def slot_salt_changed(vault):
    """A slot that was changed, under a right checksum, is a slot for no password at all."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(after=lambda slot: flipped(slot, 40))]))


@case("4.4")
def slot_commitment_of_another_password(vault):
    """The commitment is this password's, the wrapped key another's: damage, not a wrong password."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(password=b"another", committed=PASSWORD)]))


@case("4.4")
def slot_wraps_another_master_key(vault):
    """The slot opens, but the header's MAC is under another master key: this slot came from elsewhere."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(wrapped=bytes(32))]))


@case("4.4", verify=12)
def no_password_slot(vault):
    """A header without a slot for any password."""
    vault.commit()
    vault.finish(header=vault.header([]))


@case("4.1", verify=12)
def password_of_the_older_header(vault):
    """The password was taken away; header B still had it when the change was cut short. It opens nothing any more."""
    vault.commit()
    vault.finish(header=vault.header([vault.slot(password=b"the new one")], sequence_number=2),
                 header_b=vault.header(sequence_number=1))


@case("4.1", list=0, extract=0)
def header_a_forged(vault):
    """The copy of the higher sequence has a MAC that does not verify; the other opens the vault."""
    vault.commit()
    items = ordinary(vault)
    vault.finish(header=vault.header(sequence_number=2, mac_flip=True), header_b=vault.header())
    return items


@case("4.1", list=0, extract=0)
def header_a_with_a_slot_that_does_not_open(vault):
    """Its MAC verifies, and a slot is committed to the password and holds nothing; the other copy opens the vault."""
    vault.commit()
    items = ordinary(vault)
    slot = vault.slot()
    vault.finish(header=vault.header([flipped(slot, 170)]), header_b=vault.header([slot]))
    return items


@case("2.3", list=0, extract=0)
def header_a_of_unknown_version(vault):
    """One copy is a later version's, the other one is good: as good as one that is torn."""
    vault.commit()
    items = ordinary(vault)
    vault.finish(header=vault.header(patches={8: struct.pack("<I", 2)}), header_b=vault.header())
    return items


# 5: roots.


@case("5.2")
def root_mac_flipped(vault):
    """Both roots, with right checksums."""
    vault.commit()
    vault.finish(root=vault.root(mac_flip=True))


@case("5.1")
def root_checksum_wrong(vault):
    """Both roots."""
    vault.commit()
    vault.finish(root=vault.root(crc_flip=True))


@case("5.1")
def root_of_another_vault(vault):
    """Under this vault's key, with another vault id."""
    vault.commit()
    vault.finish(root=vault.root(patches={16: bytes(16)}))


@case("2.3", verify=1)
def root_of_unknown_version(vault):
    """Both roots."""
    vault.commit()
    vault.finish(root=vault.root(patches={8: struct.pack("<I", 7)}))


@case("5.1", verify=1)
def root_with_a_wrapped_key(vault):
    """Keys that version 1 does not know."""
    vault.commit()
    vault.finish(root=vault.root(patches={144: b"\1"}))


@case("5.1")
def root_reserved_not_zero(vault):
    """A reserved byte in front of the MAC."""
    vault.commit()
    vault.finish(root=vault.root(patches={475: b"\1"}))


@case("5.1")
def root_generation_zero(vault):
    """The first commit has generation 1."""
    vault.commit(generation=0)
    vault.finish()


@case("5.1")
def root_end_beyond_the_file(vault):
    """The newest state needs more than the file has. The older root is whole, and must not be taken."""
    vault.commit()
    ordinary(vault)
    vault.finish(root=vault.root(end=vault.end + 1), root_b=vault.root(at=0))


@case("5.1")
def root_end_of_all_ones(vault):
    """At most 2^62."""
    vault.commit()
    vault.finish(root=vault.root(end=(1 << 64) - 1))


@case("5.1")
def root_offset_overflows(vault):
    """Offset and length are more than 2^64."""
    vault.commit()
    vault.finish(root=vault.root(patches={40: struct.pack("<Q", (1 << 64) - 64)}))


@case("5.1")
def root_number_too_large(vault):
    """A record's number is below 2^32."""
    vault.commit()
    vault.finish(root=vault.root(patches={56: struct.pack("<Q", 1 << 32)}))


@case("5.1")
def root_end_before_its_commit_record(vault):
    """The state refers to its commit record, at least."""
    vault.commit()
    vault.finish(root=vault.root(end=vault.end - 1))


@case("5.1")
def root_offset_unaligned(vault):
    """The commit record is at a multiple of 64, at least 65,792."""
    vault.commit()
    vault.finish(root=vault.root(patches={40: struct.pack("<Q", 65_792 + 32)}))


@case("5.1")
def root_offset_in_the_preamble(vault):
    """A root that takes itself for the commit record."""
    vault.commit()
    vault.finish(root=vault.root(patches={40: struct.pack("<Q", 48 * KIB)}))


@case("5.1")
def root_length_too_large(vault):
    """A commit record of 4 GiB, in a file that says it is long enough."""
    vault.commit()
    vault.finish(root=vault.root(patches={48: struct.pack("<I", 0xFFFFFFFF)}, end=1 << 62))


@case("5.2")
def commit_digest_wrong(vault):
    """The newest root names a commit record of another SHA-256. The older root is whole, and must not be taken."""
    vault.commit()
    ordinary(vault)
    vault.finish(root=vault.root(patches={112: bytes(32)}), root_b=vault.root(at=0))


# 6: records.


def with_bad_leaf(chapter, verify=13):
    """Registers a case in which the leaf's record is wrong: the function gives the options of Vault.record."""
    def register(options):
        def make(vault):
            vault.commit()
            one_tree(vault, [hello(vault)], leaf_options=options(vault))
        make.__name__, make.__doc__ = options.__name__, options.__doc__
        return case(chapter, verify)(make)
    return register


@with_bad_leaf("6.3")
def record_tag_flipped(vault):
    """One bit of the tag of a leaf."""
    return {"after": flipped}


@with_bad_leaf("6.3")
def record_ciphertext_flipped(vault):
    """One bit of the ciphertext of a leaf."""
    return {"after": lambda raw: flipped(raw, 70)}


@with_bad_leaf("6.3")
def record_checksum_wrong(vault):
    """The checksum of a record header, though the tag verifies."""
    return {"after": lambda raw: flipped(raw, 60)}


@with_bad_leaf("6.3")
def record_magic_wrong(vault):
    """Another magic number, sealed as it is."""
    return {"patches": {0: b"FLRD"}}


@with_bad_leaf("6.3", verify=1)
def record_of_unknown_version(vault):
    """A record of version 2."""
    return {"patches": {4: b"\2"}}


@with_bad_leaf("6.3", verify=1)
def record_flags(vault):
    """A flag of a record."""
    return {"patches": {7: b"\1"}}


@with_bad_leaf("6.3")
def record_of_another_kind(vault):
    """A node where a leaf has to be, sealed as a node."""
    return {"patches": {5: bytes([NODE])}}


@with_bad_leaf("6.3")
def record_codec_unknown(vault):
    """Codec 2."""
    return {"patches": {6: b"\2"}}


@with_bad_leaf("6.3")
def record_of_another_number(vault):
    """Record 5, where another was referred to; sealed with the nonce of the one that was."""
    return {"patches": {24: struct.pack("<Q", 5)}}


@with_bad_leaf("6.3")
def record_number_too_large(vault):
    """2^32, and referred to as that: beyond what one key may seal."""
    return {"number": 1 << 32}


@with_bad_leaf("6.3")
def record_of_another_segment(vault):
    """Another segment id."""
    return {"patches": {8: bytes(16)}}


@with_bad_leaf("6.3")
def record_reserved_not_zero(vault):
    """A reserved byte of a record header, authenticated."""
    return {"patches": {59: b"\1"}}


@with_bad_leaf("6.3")
def record_stored_but_longer(vault):
    """Codec store, and a plain length that is not the packed one."""
    return {"plain_len": 1000}


@with_bad_leaf("6.3")
def record_plain_length_too_large(vault):
    """More than 16 MiB."""
    return {"plain_len": 16 * MIB + 1, "codec": ZSTD}


@with_bad_leaf("6.5")
def record_is_no_frame(vault):
    """Codec zstd, and no frame."""
    return {"codec": ZSTD}


@case("6.3")
def record_shorter_than_its_reference(vault):
    """The reference to a leaf has a byte more than the leaf."""
    vault.commit()
    block = vault.record(LEAF, leaf([put(b"a")]))
    one_tree(vault, (), leaves=[put(b"a")], top=block._replace(length=block.length + 1))


@case("6.3")
def block_in_the_preamble(vault):
    """A leaf at offset 0: what is there is a header."""
    vault.commit()
    one_tree(vault, (), leaves=[put(b"a")], top=Reference(0, 0, 200))


@case("6.3", list=0)
def place_of_anothers_record(vault):
    """Two records at one place: one of them is another's."""
    vault.commit()
    first, second = vault.data(HELLO), vault.data(b"other bytes..")
    vault.places[1][1]["offset"] = vault.places[0][1]["offset"]
    return one_tree(vault, [put(b"a", size=13, extents=[data_extent(0, first, 1, 13, 0, 13)]),
                            put(b"b", size=13, extents=[data_extent(0, second, 1, 13, 0, 13)])])


@case("6.3", list=0)
def places_that_overlap(vault):
    """A record that begins 64 bytes into another: what is there is no record's beginning."""
    vault.commit()
    first, second = vault.data(HELLO * 20), vault.data(HELLO)
    vault.places[1][1]["offset"] = vault.places[0][1]["offset"] + 64
    return one_tree(vault, [put(b"b", size=13, extents=[data_extent(0, second, 1, 13, 0, 13)])])


@case("6.3", list=0)
def data_record_shorter_than_its_place(vault):
    """The place of a data record has a byte more than the record."""
    vault.commit()
    item = hello(vault)
    vault.places[0][1]["length"] += 1
    return one_tree(vault, [item])


@case("6.2", list=0, extract=0)
def segment_header_torn(vault):
    """It is needed for recovery alone: found by who verifies."""
    vault.commit()
    items = ordinary(vault)
    vault.finish()
    vault.write(EXTENTS + 40, bytes(8))
    return items


@case("6.3")
def record_in_anothers_place(vault):
    """Two authentic leaves of one segment: the tree head has the number of one and the offset of the other."""
    vault.commit()
    right = vault.record(LEAF, leaf([put(b"right")]))
    other = vault.record(LEAF, leaf([put(b"other")]))
    one_tree(vault, (), leaves=[put(b"right")], top=Reference(right.number, other.offset, other.length))


@case("6.3", list=0)
def data_record_under_the_meta_key(vault):
    """A record of kind 1 that was sealed as metadata."""
    vault.commit()
    number = vault.data(HELLO, kind_of_key=LEAF)
    return one_tree(vault, [put(b"f", size=13, extents=[data_extent(0, number, 1, 13, 0, 13)])])


@case("6.3", list=0)
def data_record_tag_flipped(vault):
    """Found by who reads the data; who lists does not."""
    vault.commit()
    number = vault.data(HELLO, after=flipped)
    return one_tree(vault, [put(b"f", size=13, extents=[data_extent(0, number, 1, 13, 0, 13)])])


def with_bad_frame(options):
    """Registers a case in which the frame of a data record is wrong: the function gives the options of Vault.data."""
    def make(vault):
        vault.commit()
        number = vault.data(b"z" * 1000, codec=ZSTD, **options(vault))
        return one_tree(vault, [put(b"f", size=1000, extents=[data_extent(0, number, 1, 1000, 0, 1000)])])
    make.__name__, make.__doc__ = options.__name__, options.__doc__
    return case("6.5", list=0)(make)


@with_bad_frame
def bomb_plain_length(vault):
    """The frame has 8 MiB, and says and the record says it has 1000 bytes."""
    return {"packed": repeated(ord("z"), 8 * MIB, content_size=1000)}


@with_bad_frame
def frame_shorter_than_it_says(vault):
    """500 bytes of 1000."""
    return {"packed": repeated(ord("z"), 500, content_size=1000)}


@with_bad_frame
def frame_of_another_size(vault):
    """The frame states 999 bytes, and has them; the record says 1000."""
    return {"packed": repeated(ord("z"), 999)}


@with_bad_frame
def frame_without_its_size(vault):
    """A frame must state its content size."""
    return {"packed": repeated(ord("z"), 1000, window=0, content_size=None)}


@with_bad_frame
def frame_with_too_large_a_window(vault):
    """A window of 32 MiB."""
    return {"packed": repeated(ord("z"), 1000, window=15 << 3)}


@with_bad_frame
def frame_with_a_dictionary(vault):
    """Dictionary 1."""
    return {"packed": repeated(ord("z"), 1000, dictionary=1)}


@with_bad_frame
def frame_and_another(vault):
    """A second frame, without content."""
    return {"packed": repeated(ord("z"), 1000) + repeated(0, 0)}


@with_bad_frame
def frame_and_a_byte(vault):
    """A byte behind the frame."""
    return {"packed": repeated(ord("z"), 1000) + b"\0"}


@with_bad_frame
def skippable_frame_first(vault):
    """A skippable frame in front."""
    return {"packed": struct.pack("<II", 0x184D2A50, 4) + b"skip" + repeated(ord("z"), 1000)}


@with_bad_frame
def frame_cut(vault):
    """The last byte is missing."""
    return {"packed": repeated(ord("z"), 1000)[:-1]}


# 7: index trees.


def packed_if_long(plain):
    """Options of Vault.record that keep a vector small: its bytes come from the pinned release of zstd then."""
    return {"codec": ZSTD, "packed": zstandard.compress(plain, 19)} if len(plain) > 4 * KIB else {}


def with_leaf(chapter, verify=13, list=None, extract=None):  # noqa: A002
    """Registers a case that is one leaf: the function gives its items or its plaintext."""
    def register(of):
        def make(vault):
            vault.commit()
            what = of(vault)
            if isinstance(what, bytes):
                one_tree(vault, (), leaf_plain=what, leaves=[put(b"x")], leaf_options=packed_if_long(what))
                return None
            return one_tree(vault, what, leaf_options=packed_if_long(leaf(what)))
        make.__name__, make.__doc__ = of.__name__, of.__doc__
        return case(chapter, verify, list, extract)(make)
    return register


@with_leaf("7.2")
def index_count_too_large(vault):
    """A leaf of 2^60 items in a few bytes."""
    return leaf([put(b"a")], count=1 << 60)


@with_leaf("7.2")
def suffix_too_long(vault):
    """A path of 2^63 bytes in a few bytes."""
    return sequence([]) + varint(1) + varint(0) + varint(1 << 63) + b"a\0"


@with_leaf("7.2")
def extent_count_too_large(vault):
    """2^61 extents in a few bytes."""
    return leaf([put(b"a", size_bytes=b"\0" + b"\0" + b"\0" + varint(1 << 61))])


@with_leaf("7.2")
def number_too_large_for_its_type(vault):
    """A mode of 2^16."""
    return [put(b"a", mode=1 << 16)]


@with_leaf("7.2")
def number_of_eleven_bytes(vault):
    """A u64 has ten at most."""
    return [put(b"a", size_bytes=b"\x80" * 10 + b"\0")]


@with_leaf("7.2")
def bytes_left_over(vault):
    """The value is all of the plaintext."""
    return leaf([put(b"a")]) + b"\0"


@with_leaf("7.2")
def bytes_missing(vault):
    """The leaf ends in the middle of its last item."""
    return leaf([put(b"a")])[:-1]


@with_leaf("7.2")
def option_of_two(vault):
    """An option begins with 0 or 1."""
    item = put(b"a")
    return leaf([item]).replace(b"\1" + item.body, b"\2" + item.body)


@with_leaf("7.2")
def text_not_utf8(vault):
    """The name of an owner is text."""
    return leaf([put(b"a")], owners=[(0, 0, b"\xff", b"root")])


@with_leaf("7.4")
def leaf_without_items(vault):
    """A leaf has one item at least."""
    return leaf([])


@with_leaf("7.4")
def leaf_out_of_order(vault):
    """`b` before `a`."""
    return [put(b"b"), put(b"a")]


@with_leaf("7.3")
def leaf_in_the_order_of_bytes(vault):
    """`a.b` before `a/b`, as bytes compare; but `/` is lower than every other byte."""
    return [put(b"a", DIRECTORY), put(b"a.b"), put(b"a/b")]


@with_leaf("7.4")
def path_twice(vault):
    """Strictly ascending."""
    return [put(b"a"), put(b"a")]


@with_leaf("7.4")
def path_shares_more_than_there_is(vault):
    """The first path shares a byte with none."""
    return leaf([put(b"a")], first_shared=1)


@with_leaf("7.4")
def paths_bomb(vault):
    """20 paths of 60,000 bytes in a few hundred: written out, more than 1,114,111."""
    head = b"/".join([b"x" * 200] * 298)
    items = [b"".join([varint(0), blob(head + b"/" + b"a"), option(put(b"").body)])]
    items += [varint(len(head) + 1) + blob(bytes([98 + i])) + option(None) for i in range(19)]
    plain = sequence([]) + sequence(items)
    begin = plain.index(b"x" * 200)
    assert plain[begin:begin + len(head)] == head
    return plain


@with_leaf("7.3")
def path_with_dotdot(vault):
    """`..`, which leads out."""
    return [put(b"a/../../b")]


@with_leaf("7.3")
def path_with_dot(vault):
    """`.`, which is a second name of the same."""
    return [put(b"a/./b")]


@with_leaf("7.3")
def path_absolute(vault):
    """An empty component at the beginning."""
    return [put(b"/etc/passwd")]


@with_leaf("7.3")
def path_with_two_slashes(vault):
    """An empty component in the middle."""
    return [put(b"a//b")]


@with_leaf("7.3")
def path_ends_with_a_slash(vault):
    """An empty component at the end."""
    return [put(b"a/", DIRECTORY)]


@with_leaf("7.3")
def path_with_nul(vault):
    """What the system would cut off."""
    return [put(b"a\0b")]


@with_leaf("7.3")
def path_with_a_component_of_256(vault):
    """255 bytes is what file systems have."""
    return [put(b"x" * 256)]


@with_leaf("7.3")
def path_too_long(vault):
    """65,537 bytes, none of its components too long, and not too many of them."""
    return [put(b"/".join([b"x" * 255] * 256) + b"/y")]


@with_leaf("7.3")
def path_with_too_many_components(vault):
    """4,097."""
    return [put(b"/".join([b"x"] * 4097))]


@with_leaf("7.4")
def root_is_a_file(vault):
    """The empty path is a directory."""
    return [put(b"")]


@with_leaf("7.4")
def type_unknown(vault):
    """Type 7."""
    return [put(b"a", 7)]


@with_leaf("7.4")
def flags_unknown(vault):
    """Flag 4 of an entry."""
    return [put(b"a", flags=4)]


@with_leaf("7.4")
def mode_with_a_file_type(vault):
    """Permission bits alone."""
    return [put(b"a", mode=0o100644)]


@with_leaf("7.4")
def owner_missing(vault):
    """Owner 1 of one."""
    return [put(b"a", owner=1)]


@with_leaf("7.4")
def nanoseconds_too_many(vault):
    """10^9 of them."""
    return [put(b"a", mtime=(0, 10 ** 9))]


@with_leaf("7.4")
def size_too_large(vault):
    """2^63 bytes of hole."""
    return [put(b"a", size=1 << 63, extents=[hole(1 << 63)])]


@with_leaf("7.4")
def size_of_a_directory(vault):
    """Only files have content."""
    return [put(b"a", DIRECTORY, size=1, extents=[hole(1)])]


@with_leaf("7.4")
def size_is_not_the_sum(vault):
    """Extents of 13 bytes in a file of 14."""
    hello(vault)
    return [put(b"f", size=14, extents=[data_extent(0, 0, 1, 13, 0, 13)])]


@with_leaf("7.4")
def sum_of_extents_overflows(vault):
    """Two holes that are 2^64 + 1 bytes together, in a file of 1."""
    return [put(b"f", size=1, extents=[hole(1 << 63), hole((1 << 63) + 1)])]


@with_leaf("7.4")
def target_of_a_file(vault):
    """Only symlinks have one."""
    return [put(b"a", target=b"b")]


@with_leaf("7.4")
def symlink_to_nowhere(vault):
    """A target has one byte at least."""
    return [put(b"a", SYMLINK)]


@with_leaf("7.4")
def symlink_with_nul(vault):
    """A target without NUL."""
    return [put(b"a", SYMLINK, target=b"a\0b")]


@with_leaf("7.4")
def link_group_of_no_segment(vault):
    """Segment 1 of one."""
    return [put(b"a", link=(1, 1))]


@with_leaf("7.4")
def extent_of_no_segment(vault):
    """Segment 1 of one."""
    hello(vault)
    return [put(b"f", size=13, extents=[data_extent(1, 0, 1, 13, 0, 13)])]


@with_leaf("7.4")
def extent_of_unknown_alternative(vault):
    """Alternative 2."""
    return [put(b"f", size=1, extents=[varint(2) + varint(1)])]


@with_leaf("7.4")
def hole_of_no_bytes(vault):
    """A hole has bytes."""
    return [put(b"f", extents=[hole(0)])]


@with_leaf("7.4")
def extent_of_no_records(vault):
    """Count 0."""
    return [put(b"f", size=13, extents=[data_extent(0, 0, 0, 13, 0, 13)])]


@with_leaf("7.4")
def extent_longer_than_its_records(vault):
    """14 bytes of one record of 13."""
    hello(vault)
    return [put(b"f", size=14, extents=[data_extent(0, 0, 1, 13, 0, 14)])]


@with_leaf("7.4")
def extent_with_a_record_too_many(vault):
    """13 bytes in two records of 13."""
    hello(vault)
    return [put(b"f", size=13, extents=[data_extent(0, 0, 2, 13, 0, 13)])]


@with_leaf("7.4")
def extent_begins_behind_its_record(vault):
    """Offset 13 of 13."""
    hello(vault)
    return [put(b"f", size=13, extents=[data_extent(0, 0, 2, 13, 13, 13)])]


@with_leaf("7.4")
def extent_numbers_overflow(vault):
    """Record 2^64 - 1 and the one behind it."""
    return [put(b"f", size=14, extents=[data_extent(0, (1 << 64) - 1, 2, 13, 0, 14)])]


@with_leaf("7.3", list=0)
def extent_beyond_record(vault):
    """20 bytes of a record that is said to have 20 and has 13."""
    hello(vault)
    return [put(b"f", size=20, extents=[data_extent(0, 0, 1, 20, 0, 20)])]


@with_leaf("7.8", list=0)
def extent_without_a_place(vault):
    """Record 1, of which the record table knows nothing."""
    hello(vault)
    return [put(b"f", size=13, extents=[data_extent(0, 1, 1, 13, 0, 13)])]


@with_leaf("7.4", list=0)
def extent_of_billions_of_records(vault):
    """2^40 records of a byte: a reader finds the first that the table does not have, and makes no list."""
    hello(vault)
    return [put(b"f", size=1 << 40, extents=[data_extent(0, 0, 1 << 40, 1, 0, 1 << 40)])]


@with_leaf("7.4")
def xattr_without_a_name(vault):
    """A name has one byte at least."""
    return [put(b"a", xattrs=[xattr(b"", b"v")])]


@with_leaf("7.4")
def xattr_with_nul(vault):
    """A name without NUL."""
    return [put(b"a", xattrs=[xattr(b"user.\0a", b"v")])]


@with_leaf("7.4")
def xattr_too_long(vault):
    """A value of 65,537 bytes, in a frame of a few."""
    return [put(b"a", xattrs=[xattr(b"user.a", bytes(65_537))])]


@with_leaf("9")
def put_below_a_file(vault):
    """In one tree no put lies below what is no directory."""
    return [put(b"a"), put(b"a/b")]


@with_leaf("9")
def put_below_a_symlink(vault):
    """With a delete between, which changes nothing: `a/b/c` would be written through the symlink `a`."""
    return [put(b"a", SYMLINK, target=b"/tmp"), delete(b"a/b"), put(b"a/b/c")]


@case("7.5")
def overflow_bomb(vault):
    """One block of 1 MiB, 300 times: more than 256 MiB."""
    vault.commit()
    block = encoded(vault.record(OVERFLOW, b"", codec=ZSTD, packed=repeated(0, MIB), plain_len=MIB))
    return one_tree(vault, [put(b"f", size=1, overflow=[block] * 300)])


@case("7.5")
def overflow_bytes_left_over(vault):
    """Together the blocks are one structure and nothing else."""
    vault.commit()
    block = vault.record(OVERFLOW, sequence([hole(5)]) + sequence([]) + b"\0")
    return one_tree(vault, [put(b"f", size=5, overflow=[encoded(block)])])


@case("7.5")
def overflow_size_is_not_the_sum(vault):
    """The checks of 7.4 hold for overflow blocks too."""
    vault.commit()
    block = vault.record(OVERFLOW, sequence([hole(5)]) + sequence([]))
    return one_tree(vault, [put(b"f", size=6, overflow=[encoded(block)])])


@case("7.5")
def overflow_beyond_the_file(vault):
    """A block reference lies within the file."""
    vault.commit()
    return one_tree(vault, [put(b"f", size=5, overflow=[encoded(Reference(50, 1 << 61, 100))])]) and None


def two_leaves(vault, first, second, firsts=None, top=None, **options):
    """A finished vault with a tree of two leaves and a node above."""
    vault.commit()
    leaves = [vault.record(LEAF, leaf(items)) for items in (first, second)]
    firsts = firsts or (first[0].path, second[0].path)
    node = [blob(path) + encoded(block) for path, block in zip(firsts, leaves)]
    return one_tree(vault, (), leaves=first + second, top=vault.record(NODE, sequence(top or node)),
                    height=options.pop("height", 1), **options)


@case("7.6")
def leaves_out_of_order(vault):
    """Paths ascend from leaf to leaf too: `b` in the first, `a.z` in the second, under first paths that ascend."""
    two_leaves(vault, [put(b"a"), put(b"b")], [put(b"a.z")])


@case("7.6")
def path_twice_in_two_leaves(vault):
    """The last path of one leaf is the second of the next."""
    two_leaves(vault, [put(b"a"), put(b"c")], [put(b"b"), put(b"c")])


@case("9")
def put_below_a_symlink_in_another_leaf(vault):
    """As in one leaf: `a/b` would be written through the symlink `a`."""
    two_leaves(vault, [put(b"a", SYMLINK, target=b"/tmp")], [put(b"a/b")])


@case("7.6")
def node_refers_to_a_leaf_twice(vault):
    """Paths do not ascend then."""
    vault.commit()
    block = encoded(vault.record(LEAF, leaf([put(b"a")])))
    one_tree(vault, (), leaves=[put(b"a")], height=1,
             top=vault.record(NODE, sequence([blob(b"a") + block, blob(b"b") + block])))


@case("7.6")
def node_out_of_order(vault):
    """First paths ascend."""
    two_leaves(vault, [put(b"b")], [put(b"a")])


@case("7.6")
def node_without_children(vault):
    """A node is not empty."""
    vault.commit()
    one_tree(vault, (), leaves=[], top=vault.record(NODE, sequence([])), height=1)


@case("7.6")
def node_that_lies_about_a_first_path(vault):
    """The node says `a.m`, and the leaf below it begins with `b`: who looks for `b` and who lists see the same."""
    two_leaves(vault, [put(b"a")], [put(b"b")], firsts=(b"a", b"a.m"))


@case("7.6")
def node_hides_an_item(vault):
    """The node says `c`, and the leaf below it begins with `b`: who looks for `b` would not find it."""
    two_leaves(vault, [put(b"a")], [put(b"b"), put(b"d")], firsts=(b"a", b"c"))


@case("7.6")
def node_that_is_its_own_child(vault):
    """A node that refers to itself, under a height of 32: a leaf has another kind."""
    vault.commit()
    number = vault.segments[0].next[False]
    at = -(-vault.end // 64) * 64
    length = 80 + len(sequence([blob(b"a") + encoded(Reference(number, at, 100))]))
    plain = sequence([blob(b"a") + encoded(Reference(number, at, length))])
    top = vault.record(NODE, plain)
    assert top == Reference(number, at, 80 + len(plain))
    one_tree(vault, (), leaves=[], top=top, height=32)


@case("7.8")
def height_too_large(vault):
    """33 levels."""
    two_leaves(vault, [put(b"a")], [put(b"b")], height=33)


@case("7.8")
def height_of_another_tree(vault):
    """Height 0 above a node."""
    two_leaves(vault, [put(b"a")], [put(b"b")], height=0)


@case("7.1")
def leaf_too_large(vault):
    """A leaf that takes more than 1 MiB and 80 bytes of the file, by its reference."""
    vault.commit()
    block = vault.record(LEAF, leaf([put(b"a")]))
    one_tree(vault, (), leaves=[put(b"a")], top=block._replace(length=MIB + 81), head_options=None)
    vault.write(vault.end + 2 * MIB, b"\0")


@case("7.1")
def leaf_plain_too_large(vault):
    """A leaf of 2 MiB, packed into a few bytes of the file."""
    vault.commit()
    plain = leaf([put(b"a", xattrs=[xattr(b"user.%d" % i, bytes(60_000)) for i in range(35)])])
    blocks, at = [], 0
    while at < len(plain):
        run = plain[at:at + 60_000]
        if len(run) == 60_000 and not any(run):
            blocks.append((1, 60_000, b"\0"))
            at += 60_000
        else:
            end = plain.find(bytes(60_000), at)
            end = len(plain) if end < 0 else end
            blocks.append((0, end - at, plain[at:end]))
            at = end
    one_tree(vault, (), leaves=[put(b"a")], leaf_plain=plain,
             leaf_options={"codec": ZSTD, "packed": frame(blocks, len(plain))})


@case("7.7", list=0)
def table_begins_with_another_number(vault):
    """The table reference says record 0, its block begins with record 1."""
    vault.commit()
    vault.data(HELLO)
    number = vault.data(HELLO)
    reference = vault.table(0, [vault.places[1][1]])
    item = put(b"f", size=13, extents=[data_extent(0, number, 1, 13, 0, 13)])
    assert reference[1:2] == varint(1)
    return one_tree(vault, [item], tables=[reference[:1] + varint(0) + reference[2:]])


@case("7.7", list=0)
def table_out_of_order(vault):
    """Numbers ascend within a block."""
    vault.commit()
    item = hello(vault)
    vault.data(HELLO)
    vault.data(HELLO)
    places = [place for _, place in vault.places]
    return one_tree(vault, [item], tables=[vault.table(0, [places[0], places[2], places[1]])])


@case("7.7")
def table_blocks_out_of_order(vault):
    """Table references ascend, which the tree head shows."""
    vault.commit()
    item = hello(vault)
    vault.data(HELLO)
    places = [place for _, place in vault.places]
    one_tree(vault, [item], tables=[vault.table(0, places[1:]), vault.table(0, places[:1])])


@case("7.7")
def table_of_no_segment(vault):
    """Segment 1 of one."""
    vault.commit()
    item = hello(vault)
    reference = vault.table(0, [vault.places[0][1]])
    one_tree(vault, [item], tables=[varint(1) + reference[1:]])


@case("7.7", list=0, extract=0)
def table_block_empty(vault):
    """A block has one place at least."""
    vault.commit()
    return one_tree(vault, [put(b"a")], tables=[vault.table(0, [])])


@case("7.7", list=0)
def place_beyond_the_file(vault):
    """A data record at 2^61."""
    vault.commit()
    number = vault.data(HELLO, place={"offset": 1 << 61})
    return one_tree(vault, [put(b"f", size=13, extents=[data_extent(0, number, 1, 13, 0, 13)])])


@case("7.7", list=0)
def place_overflows(vault):
    """Offset and length are more than 2^64."""
    vault.commit()
    number = vault.data(HELLO, place={"offset": (1 << 64) - 64})
    return one_tree(vault, [put(b"f", size=13, extents=[data_extent(0, number, 1, 13, 0, 13)])])


@case("7.7", list=0)
def place_with_another_plain_length(vault):
    """The table says 20 bytes, the record's header 13."""
    vault.commit()
    number = vault.data(HELLO, place={"plain": 20})
    return one_tree(vault, [put(b"f", size=20, extents=[data_extent(0, number, 1, 20, 0, 20)])])


@case("7.7", list=0)
def place_larger_than_the_largest(vault):
    """The head says that no record has more than 12 bytes."""
    vault.commit()
    return one_tree(vault, [hello(vault)], largest=12)


@case("7.7", list=0)
def place_of_no_bytes(vault):
    """A data record of a table has one byte at least."""
    vault.commit()
    item = hello(vault)
    vault.data(b"")
    return one_tree(vault, [item])


@case("7.8")
def largest_record_too_large(vault):
    """What a reader needs buffers for: 16 MiB at most."""
    vault.commit()
    one_tree(vault, [hello(vault)], largest=16 * MIB + 1)


@case("7.8", verify=1)
def tree_head_flags(vault):
    """A flag that version 1 does not know."""
    vault.commit()
    one_tree(vault, [hello(vault)], flags=1)


@case("7.2", verify=1)
def segment_with_a_wrapped_key(vault):
    """Keys that version 1 does not know, in the head of a tree."""
    vault.commit()
    one_tree(vault, [hello(vault)], wrapped=bytes(40))


@case("7.8")
def tree_head_count_too_large(vault):
    """2^58 segments in a few bytes."""
    vault.commit()
    head = vault.record(HEAD, varint(0) + varint(1 << 58) + bytes(40))
    vault.commit(deltas=[tree_reference(head, 2)], snapshot=1)
    vault.finish()


@case("7.8")
def tree_head_bytes_left_over(vault):
    """The value is all of the plaintext."""
    vault.commit()
    one_tree(vault, [hello(vault)], extra=b"\0")


@case("7.8", list=0, extract=0)
def sums_wrong(vault):
    """Puts, deletes and content bytes are for display and for verifying."""
    vault.commit()
    return one_tree(vault, [hello(vault)], sums=(2, 0, 13))


@case("7.8", list=0, extract=0)
def content_bytes_wrong(vault):
    """A byte more than all entries have."""
    vault.commit()
    return one_tree(vault, [hello(vault)], sums=(1, 0, len(HELLO) + 1))


@case("7.8", verify=0)
def height_without_a_top(vault):
    """A tree without items has no top, and its height means nothing."""
    vault.commit()
    return one_tree(vault, (), height=3)


@case("7.7", list=0, extract=0)
def two_places_of_one_record(vault):
    """Two trees that find one record at two places, both whole: who verifies refuses it."""
    vault.commit()
    first = hello(vault, b"a")
    old = vault.tree([first], generation=2)
    again = vault.record(DATA, HELLO, number=0)
    vault.places[0][1]["offset"] = again.offset
    vault.content[b"b"] = HELLO
    second = put(b"b", size=13, extents=[data_extent(0, 0, 1, 13, 0, 13)])
    vault.commit(deltas=[old, vault.tree([second], generation=2)], snapshot=1)
    vault.finish()
    return [first, second]


@case("7.8")
def replacement_with_dotdot(vault):
    """Paths of replacements are checked as all others."""
    vault.commit()
    one_tree(vault, [hello(vault)], replacements=[replacement(b"a/..")])


@case("7.8")
def exception_with_dotdot(vault):
    """So are excepted paths."""
    vault.commit()
    one_tree(vault, [hello(vault)], replacements=[replacement(b"a", b"a/..")])


@case("7.8")
def exception_of_another_subtree(vault):
    """An exception lies below its replacement's path."""
    vault.commit()
    one_tree(vault, [hello(vault)], replacements=[replacement(b"a", b"b/c")])


@case("7.8")
def exception_of_all(vault):
    """A replacement that excepts itself takes nothing away, and is none."""
    vault.commit()
    one_tree(vault, [hello(vault)], replacements=[replacement(b"a", b"a")])


@case("7.8")
def replacements_out_of_order(vault):
    """They ascend."""
    vault.commit()
    one_tree(vault, [hello(vault)], replacements=[replacement(b"b"), replacement(b"a")])


@case("7.8")
def replacement_within_another(vault):
    """None lies below another."""
    vault.commit()
    one_tree(vault, [hello(vault)], replacements=[replacement(b"a"), replacement(b"a/b")])


# 8: commit records.


@case("8.1", verify=1)
def commit_flags(vault):
    """A flag that version 1 does not know."""
    vault.commit(flags=1)
    vault.finish()


@case("8.1", verify=1)
def commit_with_a_wrapped_key(vault):
    """Keys that version 1 does not know."""
    vault.commit(wrapped=bytes(1))
    vault.finish()


@case("8.1")
def commit_bytes_left_over(vault):
    """The value is all of the plaintext."""
    vault.commit(extra=b"\0")
    vault.finish()


@case("8.1")
def commit_of_another_generation(vault):
    """The root says 2, the commit record 1."""
    vault.commit()
    vault.finish(root=vault.root(patches={32: struct.pack("<Q", 2)}))


@case("6.3")
def commit_record_of_another_kind(vault):
    """A tree head where the root says the commit record is."""
    vault.commit(options={"patches": {5: bytes([HEAD])}})
    vault.finish()


@case("8.1")
def highest_snapshot_too_low(vault):
    """Snapshot 1, and the highest ever is 0."""
    vault.commit()
    vault.commit(snapshot=1, highest=0)
    vault.finish()


@case("8.1")
def tree_of_no_segment(vault):
    """Segment 1 of one."""
    vault.commit()
    tree = vault.tree([put(b"a")], generation=2)
    vault.commit(deltas=[varint(1) + tree[1:]], snapshot=1)
    vault.finish()


@case("8.1")
def segment_header_of_no_segment(vault):
    """Segment 1 of one."""
    vault.commit(heads=[varint(1) + varint(EXTENTS)])
    vault.finish()


@case("8.3")
def delta_of_a_later_generation(vault):
    """A delta of generation 3 in commit 2."""
    vault.commit()
    vault.commit(deltas=[vault.tree([put(b"a")], generation=3)], snapshot=1)
    vault.finish()


@case("8.3")
def delta_of_generation_zero(vault):
    """Above 0, if there is no full index."""
    vault.commit()
    vault.commit(deltas=[vault.tree([put(b"a")], generation=0)], snapshot=1)
    vault.finish()


@case("8.3")
def deltas_descend(vault):
    """Generation 3, then 2."""
    vault.commit()
    vault.commit(deltas=[vault.tree([put(b"a")], generation=2)], snapshot=1)
    vault.commit(deltas=[vault.tree([put(b"a")], generation=generation) for generation in (3, 2)], snapshot=2)
    vault.finish()


@case("8.3")
def three_deltas_of_one_generation(vault):
    """Two at most."""
    vault.commit()
    vault.commit(deltas=[vault.tree([put(b"a")], generation=2)] * 3, snapshot=1)
    vault.finish()


@case("8.3")
def delta_that_the_full_index_covers(vault):
    """A full index up to generation 1, and a delta of 1 behind it."""
    vault.commit()
    vault.commit(full=vault.tree([put(b"a")], generation=1), deltas=[vault.tree([put(b"b")], generation=1)], snapshot=1)
    vault.finish()


@case("8.3")
def full_index_of_a_later_generation(vault):
    """A full index up to generation 3 in commit 2."""
    vault.commit()
    vault.commit(full=vault.tree([put(b"a")], generation=3), snapshot=1)
    vault.finish()


@case("8.3")
def full_index_with_a_delete(vault):
    """A full index has puts alone."""
    vault.commit()
    vault.commit(full=vault.tree([delete(b"a"), put(b"b")], generation=1), snapshot=1)
    vault.finish()


@case("8.3")
def full_index_with_a_replacement(vault):
    """A full index has no replacements."""
    vault.commit()
    vault.commit(full=vault.tree([put(b"b")], generation=1, replacements=[replacement(b"a")]), snapshot=1)
    vault.finish()


@case("8.1")
def previous_not_before(vault):
    """A commit that names one of its own generation."""
    vault.commit()
    vault.commit(generation=1)
    vault.finish()


@case("8.1", list=0, extract=0)
def previous_is_itself(vault):
    """A commit that names its own place as that of the one before. Its digest cannot be its own."""
    vault.commit()
    number, at = vault.segments[0].next[False], -(-vault.end // 64) * 64
    length = 211
    vault.commits[-1] = (Reference(number, at, length), 1)
    # Made as long as it says that it is.
    vault.commit(generation=2, snapshot=1)
    assert vault.commits[-1][0] == Reference(number, at, length), vault.commits[-1][0]
    vault.finish()
    return []


@case("8.1", list=0, extract=0)
def previous_beyond_the_file(vault):
    """The commit before is at 2^61."""
    vault.commit()
    vault.commits[-1] = (vault.commits[-1][0]._replace(offset=1 << 61), 1)
    vault.commit(generation=2, snapshot=1)
    vault.finish()
    return []


@case("8.1", list=0, extract=0)
def deltas_at_the_limit_behind_a_gap(vault):
    """4,095 deltas, and the commit before is damaged: who recovers could rebuild 4,094 commits of as many trees each."""
    vault.commit(options={"after": flipped})
    vault.tree([put(b"a")], generation=1)
    deltas = [tree_reference(vault.last_head, 1 + i) for i in range(4095)]
    vault.commit(deltas=deltas, generation=5000, snapshot=1)
    vault.finish()
    return [put(b"a")]


@case("8.1")
def commit_count_too_large(vault):
    """2^60 tags in a few bytes."""
    vault.commit()
    vault.commit(snapshot=1, tags=varint(1 << 60))
    vault.finish()


@case("8.1", list=0, extract=0)
def previous_of_another_digest(vault):
    """The chain is broken behind the newest commit: found by who goes along it."""
    vault.commit()
    at = vault.commits[-1][0]
    items = ordinary(vault)
    vault.finish()
    vault.image[at.offset + at.length - 1] ^= 1
    return items


@case("8.1", list=0, extract=0)
def previous_of_another_generation(vault):
    """The commit before says generation 1; what refers to it says 2."""
    vault.commit()
    vault.commits[-1] = (vault.commits[-1][0], 2)
    vault.commit(generation=3, snapshot=1)
    vault.finish()
    return []


@case("8.1")
def too_many_deltas(vault):
    """4,096 deltas, of generations that ascend."""
    vault.commit()
    vault.tree([put(b"a")], generation=1)
    deltas = [tree_reference(vault.last_head, 1 + i) for i in range(4096)]
    vault.commit(deltas=deltas, generation=5000, snapshot=1)
    vault.finish()


# Writing and reading them.

# What a terminal acts on although JSON lets it stand, which `list --json` escapes: DEL and C1 controls, what changes the
# direction of writing, and the two line ends of Unicode.
ESCAPED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def json_line(listed):
    """An entry as `list --json` shows it."""
    text = json.dumps(listed, ensure_ascii=False, separators=(",", ":"))
    return ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def text_of(case_):
    """A vector as it stands in its file."""
    vault = Vault(case_.name)
    listed = case_.make(vault)
    lines = [f"point: {case_.name}", f"chapter: {case_.chapter}", f"why: {' '.join(case_.make.__doc__.split())}",
             f"password: {PASSWORD.decode()}", f"verify: {case_.verify}", f"list: {case_.list}",
             f"extract: {case_.extract}"]
    if case_.list == 0:
        lines += ["listing: " + json_line(item.listed) for item in listed]
    if case_.extract == 0:
        lines += [f"content: {hashlib.sha256(vault.content.get(item.path, b'')).hexdigest()} {item.path.decode()}"
                  for item in listed if item.listed["type"] == "file" and "path_bytes" not in item.listed]
    image = bytes(vault.image)
    lines += [f"length: {len(image)}", ""]
    twins = [(HEADER_B, HEADER_A, 16 * KIB), (ROOT_B, ROOT_A, 512)]
    twins = [twin for twin in twins if image[twin[0]:twin[0] + twin[2]] == image[twin[1]:twin[1] + twin[2]]]
    at = 0
    while at < len(image):
        if twins and at == min(twin[0] for twin in twins):
            twin = min(twins)
            twins.remove(twin)
            lines.append("%d <- %d %d" % twin)
            at += twin[2]
            continue
        # 16 bytes a look, 48 a line: what a reader of diffs can take in.
        if not any(image[at:at + 16]):
            at += 16
            continue
        end = min([at + 48, len(image)] + [twin[0] for twin in twins if twin[0] > at])
        piece = image[at:end].rstrip(b"\0")
        lines.append(f"{at} {piece.hex()}")
        at += -(-len(piece) // 16) * 16
    return "\n".join(lines) + "\n"


def expand(text):
    """The vault of a vector, and its fields."""
    head, _, body = text.partition("\n\n")
    fields = [line.partition(": ")[::2] for line in head.splitlines()]
    image = bytearray(int(dict(fields)["length"]))
    for line in body.splitlines():
        words = line.split()
        at = int(words[0])
        if words[1] == "<-":
            start, length = int(words[2]), int(words[3])
            image[at:at + length] = image[start:start + length]
        else:
            piece = bytes.fromhex(words[1])
            image[at:at + len(piece)] = piece
    return bytes(image), fields


def main():
    arguments = sys.argv[1:]
    if len(arguments) == 2 and arguments[0] == "write":
        for one in CASES:
            with open(os.path.join(arguments[1], one.name), "w", encoding="utf-8") as file:
                file.write(text_of(one))
        print(f"{len(CASES)} vectors")
    elif len(arguments) == 3 and arguments[0] == "expand":
        with open(arguments[1], encoding="utf-8") as file:
            image, _ = expand(file.read())
        with open(arguments[2], "wb") as file:
            file.write(image)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
