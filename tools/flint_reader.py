#!/usr/bin/env python3
"""A second reader of flint-pipe's vaults, written from docs/FORMAT.md and nothing else.

    flint_reader.py info VAULT                        what stands in clear; with the password, the state too
    flint_reader.py list VAULT [--at N] [--snapshots] [--json] [PATH...]
    flint_reader.py extract VAULT -o DIR [--at N] [PATH...]
    flint_reader.py verify VAULT [--quick]            everything that any snapshot needs, without writing

The password is the first line of --password-file FILE, or FLINT_PASSWORD. `list --json` prints what `flint-pipe list
--json` prints, so that the two can be compared (tools/check_reader.sh does).

It stands in the order of docs/FORMAT.md and uses its words; a heading here is a heading there. It prefers being read to
being fast, checks all that the page tells a reader to check, and holds a few records and one leaf of each tree in
memory.

Exit status: 0 all done; 1 unsupported, refused, or an error of the system; 2 wrong usage; 3 something could not be
restored; 10 no vault; 12 wrong password; 13 damaged.

Python 3.11 and the packages of tools/requirements.txt.
"""

import argparse
import base64
import collections
import contextlib
import errno
import fcntl
import hashlib
import heapq
import hmac
import json
import os
import re
import stat
import struct
import sys
from bisect import bisect_right
from dataclasses import dataclass

import zstandard
from argon2.low_level import Type as Argon2Type
from argon2.low_level import hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

# ----------------------------------------------------------------------------------------------------------------------
# What can be wrong
# ----------------------------------------------------------------------------------------------------------------------


class VaultError(Exception):
    """Ends a command, or the reading of one file: what is wrong, and at which byte of the vault where that is known."""

    status = 1
    kind = "failed"

    def __init__(self, what, at=None):
        super().__init__(what)
        self.what = what
        self.at = at

    def __str__(self):
        place = "" if self.at is None else f" (byte {self.at})"
        return f"{self.kind}: {self.what}{place}"


class Damaged(VaultError):
    """The bytes are not what FORMAT.md allows, or not what the vault's key authenticates."""

    status = 13
    kind = "damaged"


class Unsupported(VaultError):
    """Made by a later version, or with a critical flag that version 1 does not know (2.3)."""

    kind = "unsupported"


class Refused(VaultError):
    """Well-formed, but trying it would cost more than a reader gives to a stranger's header (3.2)."""

    kind = "refused"


class NoVault(VaultError):
    """There is no such file."""

    status = 10
    kind = "no vault"


class WrongPassword(VaultError):
    """No slot commits to the password (4.4)."""

    status = 12
    kind = "wrong password"


class Usage(VaultError):
    """The command line asks for what cannot be."""

    status = 2
    kind = "usage"


@contextlib.contextmanager
def located(what, at):
    """Says of damage found inside `what` that stands at this byte; for decoders, which see bytes and no file."""
    try:
        yield
    except VaultError as error:
        if error.at is None:
            raise type(error)(f"{what}: {error.what}", at) from None
        raise


# ----------------------------------------------------------------------------------------------------------------------
# 1 Terms; 2.4 Limits
# ----------------------------------------------------------------------------------------------------------------------

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MOST_PLAIN = 16 * MIB
MOST_VAULT = 1 << 62
MOST_RECORDS = 1 << 32
PASSWORD_SLOTS, OTHER_SLOTS = 8, 32
KDF_MEMORY_KIB, KDF_PASSES, KDF_LANES, KDF_COST_KIB = 1_048_576, 16, 16, 4_194_304
MOST_WINDOW = 16 * MIB

HEADER_LEN, HEADER_PLACES = 16 * KIB, (0, 32 * KIB)
ROOT_LEN, ROOT_PLACES = 512, (48 * KIB, 56 * KIB)
RESERVED_PLACES = ((16 * KIB, 32 * KIB), (48 * KIB + 512, 56 * KIB), (56 * KIB + 512, 64 * KIB))
PREAMBLE_LEN = 64 * KIB
VERSION = 1


def _crc_table():
    """The 256 remainders of CRC-32C, reflected polynomial 0x82F63B78."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = _crc_table()


def crc32c(data):
    """CRC-32C (Castagnoli) of bytes; of "123456789" it is 0xE3069283."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def check_frame(data, magic, what):
    """The two checks that every structure begins with: magic number, then the checksum in its last four bytes."""
    if data[: len(magic)] != magic:
        raise Damaged(f"{what}: the magic number is not its own")
    if struct.unpack_from("<I", data, len(data) - 4)[0] != crc32c(data[:-4]):
        raise Damaged(f"{what}: the checksum is wrong")


def check_reserved(data, begin, end, what):
    """Reserved bytes are zero."""
    if any(data[begin:end]):
        raise Damaged(f"{what}: reserved bytes {begin}..{end} are not zero")


def require(holds, what):
    """One line of a check column."""
    if not holds:
        raise Damaged(what)


class VaultFile:
    """The bytes of the vault, opened for reading. Every read is compared with the file's length first."""

    def __init__(self, path):
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NoVault(f"{path} does not exist") from None
        except OSError as error:
            raise VaultError(f"{path}: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            raise VaultError(f"{path} is no regular file")
        self.length = os.fstat(self.fd).st_size

    def read(self, offset, length):
        """Exactly these bytes, or damage."""
        if offset + length > self.length:
            raise Damaged(f"{length} bytes reach beyond the end of the file at {self.length}", offset)
        pieces = []
        while length > 0:
            try:
                piece = os.pread(self.fd, length, offset)
            except OSError as error:
                raise VaultError(f"cannot read: {error.strerror}", offset) from None
            if not piece:
                raise Damaged("the file was cut while it was read", offset)
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @contextlib.contextmanager
    def commit_lock(self):
        """The COMMIT lock, shared (10.1): for the second look at a header or root that may have been caught half
        written."""
        lock = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, (1 << 62) + 1, 1, 0)
        unlock = struct.pack("hhqqi", fcntl.F_UNLCK, os.SEEK_SET, (1 << 62) + 1, 1, 0)
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLKW, lock)
        except OSError:
            # A file system without locks: what is there is what there is to see.
            yield
            return
        try:
            yield
        finally:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, unlock)


# ----------------------------------------------------------------------------------------------------------------------
# 3 Keys
# ----------------------------------------------------------------------------------------------------------------------


def hkdf(key, salt, info):
    """HKDF-SHA256, extract and expand, 32 bytes."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


def stretched_key(password, slot):
    """Argon2id, version 0x13, of a password with the parameters of a slot (3.2)."""
    return hash_secret_raw(password, slot.salt, time_cost=slot.passes, memory_cost=slot.memory,
                           parallelism=slot.lanes, hash_len=32, type=Argon2Type.ID, version=0x13)


def same(a, b):
    """Compares tags, MACs and commitments in constant time (3.4)."""
    return hmac.compare_digest(a, b)


def hmac_sha256(key, data):
    """HMAC-SHA256, in full."""
    return hmac.digest(key, data, "sha256")


class MasterKey:
    """The master key of a vault; everything else is derived from it (3.1)."""

    def __init__(self, key, vault_id):
        self._key = key
        self.vault_id = vault_id

    def header_key(self):
        return hkdf(self._key, self.vault_id, b"flint v1 header mac")

    def root_key(self):
        return hkdf(self._key, self.vault_id, b"flint v1 root")

    def data_key(self, salt):
        return hkdf(self._key, salt, b"flint v1 data" + self.vault_id)

    def meta_key(self, salt):
        return hkdf(self._key, salt, b"flint v1 meta" + self.vault_id)


class Segment:
    """A segment as far as a reader needs it: salt, segment id (6.2), and its two keys, derived when first used."""

    def __init__(self, master, salt):
        self.salt = salt
        self.id = hashlib.sha256(salt).digest()[:16]
        self._master = master
        self._ciphers = {}

    def cipher(self, kind):
        """AES-256-GCM under the data key for kind 1, under the meta key for all others."""
        is_data = kind == DATA
        if is_data not in self._ciphers:
            key = self._master.data_key(self.salt) if is_data else self._master.meta_key(self.salt)
            self._ciphers[is_data] = AESGCM(key)
        return self._ciphers[is_data]


# ----------------------------------------------------------------------------------------------------------------------
# 4 Header and key slots
# ----------------------------------------------------------------------------------------------------------------------

VAULT_MAGIC = bytes.fromhex("89464C494E540D0A")
SLOTS_AT, HEADER_MAC_AT = 64, 16_348
PASSWORD_SLOT, PASSWORD_SLOT_LEN, ARGON2ID = 1, 256, 1


@dataclass
class PasswordSlot:
    """A slot of kind 1 (4.3)."""

    raw: bytes
    id: int
    created: int
    memory: int
    passes: int
    lanes: int
    label: str

    @property
    def salt(self):
        return self.raw[32:64]

    @property
    def commitment(self):
        return self.raw[128:160]

    @property
    def wrapped(self):
        return self.raw[160:208]

    @classmethod
    def decode(cls, raw):
        """All checks of 4.3 but those that are made when a password is tried."""
        require(len(raw) == PASSWORD_SLOT_LEN, "password slot: its length is not 256")
        slot_id, created, memory, passes, lanes, algorithm, label_len = struct.unpack_from("<IqIIIHH", raw, 4)
        require(algorithm == ARGON2ID, f"password slot {slot_id}: algorithm {algorithm}")
        require(label_len <= 64, f"password slot {slot_id}: its label has {label_len} bytes")
        try:
            label = raw[64:64 + label_len].decode()
        except UnicodeDecodeError:
            raise Damaged(f"password slot {slot_id}: its label is not UTF-8") from None
        check_reserved(raw, 64 + label_len, 128, f"password slot {slot_id}, behind the label")
        check_reserved(raw, 208, 256, f"password slot {slot_id}")
        return cls(raw, slot_id, created, memory, passes, lanes, label)

    def check_cost(self):
        """The limits of 3.2 for one slot."""
        if not 1 <= self.lanes <= KDF_LANES:
            raise Refused(f"password slot {self.id}: {self.lanes} lanes")
        if not 1 <= self.passes <= KDF_PASSES:
            raise Refused(f"password slot {self.id}: {self.passes} passes")
        if not 8 * self.lanes <= self.memory <= KDF_MEMORY_KIB:
            raise Refused(f"password slot {self.id}: {self.memory} KiB of memory")


@dataclass
class Header:
    """A header that passed all checks that need no key (4.1)."""

    raw: bytes
    at: int
    vault_id: bytes
    sequence: int
    optional_flags: int
    slots: list
    other_slots: int

    @classmethod
    def decode(cls, raw, at):
        """Checks in the order of chapter 1: magic number, checksum, version and flags, all others."""
        check_frame(raw, VAULT_MAGIC, "header")
        version, critical = struct.unpack_from("<II", raw, 8)
        if version != VERSION:
            raise Unsupported(f"header of version {version}")
        if critical != 0:
            raise Unsupported(f"header with critical flags {critical:#x}")
        sequence, optional, count = struct.unpack_from("<QIH", raw, 32)
        require(sequence >= 1, "header: sequence 0")
        check_reserved(raw, 46, 64, "header")
        require(count <= PASSWORD_SLOTS + OTHER_SLOTS, f"header: {count} key slots")
        slots, others, place = [], 0, SLOTS_AT
        for _ in range(count):
            # The first four bytes of a slot have to be there before they can say how long it is.
            require(place + 4 <= HEADER_MAC_AT, "header: key slots reach into its MAC")
            kind, length = struct.unpack_from("<HH", raw, place)
            require(kind != 0, "header: key slot of kind 0")
            require(length % 4 == 0 and length >= 8 and place + length <= HEADER_MAC_AT,
                    f"header: key slot of {length} bytes")
            if kind == PASSWORD_SLOT:
                slots.append(PasswordSlot.decode(raw[place:place + length]))
            else:
                others += 1
            place += length
        require(len(slots) <= PASSWORD_SLOTS, f"header: {len(slots)} password slots")
        require(others <= OTHER_SLOTS, f"header: {others} slots of other kinds")
        require(len({slot.id for slot in slots}) == len(slots), "header: two password slots of one id")
        check_reserved(raw, place, HEADER_MAC_AT, "header, behind the last slot")
        return cls(raw, at, raw[16:32], sequence, optional, slots, others)

    def unlock(self, password):
        """The master key (4.4), once the MAC of this header verifies under a key derived from it."""
        for slot in self.slots:
            slot.check_cost()
        if sum(slot.memory * slot.passes for slot in self.slots) > KDF_COST_KIB:
            raise Refused("all password slots together: memory times passes exceeds 4 GiB")
        for slot in self.slots:
            stretched = stretched_key(password, slot)
            bound = slot.raw[0:128]
            if not same(hkdf(stretched, self.vault_id, b"flint v1 slot commit" + bound), slot.commitment):
                continue
            kek = hkdf(stretched, self.vault_id, b"flint v1 slot kek" + bound)
            try:
                key = AESGCM(kek).decrypt(bytes(12), slot.wrapped, self.raw[0:16] + self.vault_id + bound)
            except InvalidTag:
                raise Damaged(f"password slot {slot.id}: its wrapped master key does not open", self.at) from None
            master = MasterKey(key, self.vault_id)
            self.check_mac(master)
            return master
        raise WrongPassword("no key slot opens with it")

    def check_mac(self, master):
        """The HMAC over everything before it."""
        mac = hmac_sha256(master.header_key(), self.raw[:HEADER_MAC_AT])
        if not same(mac, self.raw[HEADER_MAC_AT:HEADER_MAC_AT + 32]):
            raise Damaged("header: its MAC does not verify", self.at)


# ----------------------------------------------------------------------------------------------------------------------
# 5 Roots
# ----------------------------------------------------------------------------------------------------------------------

ROOT_MAGIC = b"FLINTRT1"
ROOT_MAC_AT = 476
FIRST_RECORD_AT = PREAMBLE_LEN + 256


@dataclass
class Root:
    """A root that passed all its checks and whose MAC verifies (5.1)."""

    at: int
    generation: int
    offset: int
    length: int
    number: int
    end: int
    salt: bytes
    digest: bytes

    @classmethod
    def decode(cls, raw, at, master):
        check_frame(raw, ROOT_MAGIC, "root")
        version, reserved = struct.unpack_from("<II", raw, 8)
        if version != VERSION:
            raise Unsupported(f"root of version {version}")
        if any(raw[144:272]):
            raise Unsupported("root: a wrapped key")
        if not same(hmac_sha256(master.root_key(), raw[:ROOT_MAC_AT]), raw[ROOT_MAC_AT:ROOT_MAC_AT + 32]):
            raise Damaged("root: its MAC does not verify")
        require(reserved == 0, "root: reserved bytes 12..16 are not zero")
        require(raw[16:32] == master.vault_id, "root: of another vault")
        generation, offset, length, reserved, number, end = struct.unpack_from("<QQIIQQ", raw, 32)
        require(generation >= 1, "root: generation 0")
        require(offset % 64 == 0 and offset >= FIRST_RECORD_AT, f"root: a commit record at byte {offset}")
        require(RECORD_EXTRA <= length <= RECORD_EXTRA + MOST_PLAIN, f"root: a commit record of {length} bytes")
        require(reserved == 0, "root: reserved bytes 52..56 are not zero")
        require(number < MOST_RECORDS, f"root: commit record number {number}")
        require(offset + length <= end <= MOST_VAULT, f"root: end {end}")
        check_reserved(raw, 72, 80, "root")
        check_reserved(raw, 272, ROOT_MAC_AT, "root")
        return cls(at, generation, offset, length, number, end, raw[80:112], raw[112:144])


# ----------------------------------------------------------------------------------------------------------------------
# 6 Segments, extents and records
# ----------------------------------------------------------------------------------------------------------------------

SEGMENT_MAGIC, SEGMENT_HEADER_LEN = b"FLINTSG1", 256


def check_segment_header(raw, vault_id, salt):
    """6.2. Needed for recovery only, and read here by `verify` alone."""
    check_frame(raw, SEGMENT_MAGIC, "segment header")
    version, flags = struct.unpack_from("<II", raw, 8)
    if version != VERSION:
        raise Unsupported(f"segment header of version {version}")
    if flags != 0:
        raise Unsupported(f"segment header with flags {flags:#x}")
    if any(raw[120:248]):
        raise Unsupported("segment header: a wrapped key")
    require(raw[16:32] == vault_id, "segment header: of another vault")
    require(raw[32:64] == salt, "segment header: of another segment")
    alignment, _number = struct.unpack_from("<II", raw, 64)
    require(64 <= alignment <= 65_536 and alignment & (alignment - 1) == 0, f"segment header: alignment {alignment}")
    check_reserved(raw, 72, 120, "segment header")
    check_reserved(raw, 248, 252, "segment header")


RECORD_MAGIC, RECORD_HEADER_LEN, TAG_LEN = b"FLRC", 64, 16
RECORD_EXTRA = RECORD_HEADER_LEN + TAG_LEN
# 6.4 Kinds
DATA, LEAF, NODE, TABLE, HEAD, OVERFLOW, COMMIT = 1, 2, 3, 4, 5, 6, 7
KIND_NAMES = {DATA: "data record", LEAF: "leaf", NODE: "node", TABLE: "table block", HEAD: "tree head",
              OVERFLOW: "overflow block", COMMIT: "commit record"}
# 7.1: blocks of a tree but its head have at most 1 MiB of plaintext.
MOST_BLOCK = {LEAF: MIB, NODE: MIB, TABLE: MIB, OVERFLOW: MIB, HEAD: MOST_PLAIN, COMMIT: MOST_PLAIN, DATA: MOST_PLAIN}
STORE, ZSTD = 0, 1
ZSTD_MAGIC = (0xFD2FB528).to_bytes(4, "little")


def open_record(raw, kind, segment, number, plain_len=None):
    """The plaintext of a record that has to be this one and no other (6.3). `plain_len`: what its reference says."""
    require(len(raw) >= RECORD_EXTRA, "shorter than any record")
    head = raw[:RECORD_HEADER_LEN]
    check_frame(head, RECORD_MAGIC, "record header")
    version, found_kind, codec, flags = head[4:8]
    if version != VERSION:
        raise Unsupported(f"record of version {version}")
    if flags != 0:
        raise Unsupported(f"record with flags {flags:#x}")
    require(found_kind == kind, f"a record of kind {found_kind}, not {kind}")
    require(codec in (STORE, ZSTD), f"record: codec {codec}")
    require(head[8:24] == segment.id, "a record of another segment")
    found_number, plain, packed = struct.unpack_from("<QII", head, 24)
    require(found_number < MOST_RECORDS and found_number == number, f"record number {found_number}, not {number}")
    require(plain <= MOST_BLOCK[kind], f"record: plain length {plain}")
    require(packed == plain if codec == STORE else packed <= plain, f"record: packed length {packed} of {plain}")
    check_reserved(head, 40, 60, "record header")
    require(len(raw) == RECORD_EXTRA + packed, f"record: packed length {packed} in {len(raw)} bytes")
    require(plain_len is None or plain == plain_len, f"record: plain length {plain}, not {plain_len}")
    nonce = bytes(4) + struct.pack("<Q", number)
    try:
        packed_plain = segment.cipher(kind).decrypt(nonce, raw[RECORD_HEADER_LEN:], head[:60] + bytes(4))
    except InvalidTag:
        raise Damaged("record: its tag does not verify") from None
    return packed_plain if codec == STORE else unpack_zstd(packed_plain, plain)


def unpack_zstd(packed, plain_len):
    """6.5: one frame and nothing else, which states its size, needs no dictionary, and has a bounded window."""
    require(packed[:4] == ZSTD_MAGIC, "zstd: no frame")
    try:
        frame = zstandard.get_frame_parameters(packed)
        require(frame.content_size == plain_len, "zstd: the frame does not state the plain length")
        require(frame.dict_id == 0, "zstd: the frame needs a dictionary")
        require(frame.window_size <= MOST_WINDOW, f"zstd: a window of {frame.window_size} bytes")
        if plain_len == 0:
            # The binding decompresses no empty frame; stepping through it says whether there is more than the frame.
            stepwise = zstandard.ZstdDecompressor().decompressobj()
            require(stepwise.decompress(packed) == b"" and stepwise.eof and not stepwise.unused_data, "zstd: not empty")
            return b""
        plain = zstandard.ZstdDecompressor().decompress(packed, max_output_size=plain_len, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Damaged(f"zstd: {error}") from None
    require(len(plain) == plain_len, f"zstd: {len(plain)} bytes, not {plain_len}")
    return plain


# ----------------------------------------------------------------------------------------------------------------------
# 7 Index trees
# ----------------------------------------------------------------------------------------------------------------------


class Plain:
    """A cursor over the plaintext of a metadata record: the encoding of 7.2."""

    __slots__ = ("data", "at")

    def __init__(self, data, at=0):
        self.data = data
        self.at = at

    def u8(self):
        """The byte."""
        at = self.at
        if at >= len(self.data):
            raise Damaged("bytes are missing at its end")
        self.at = at + 1
        return self.data[at]

    def varint(self, bits):
        """Groups of 7 bits, lowest first; not more bytes than a number of so many bits can need."""
        byte = self.u8()
        if byte < 0x80:
            return byte
        value, shift = byte & 0x7F, 7
        while shift < bits:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> bits:
                    raise Damaged(f"a number does not fit into {bits} bits")
                return value
            shift += 7
        raise Damaged(f"a number of {bits} bits is too long")

    def u16(self):
        return self.varint(16)

    def u32(self):
        return self.varint(32)

    def u64(self):
        return self.varint(64)

    def i64(self):
        """Zigzag, then varint."""
        number = self.varint(64)
        return -(number >> 1) - 1 if number & 1 else number >> 1

    def count(self):
        """Of a list: each element takes a byte at least, so no more of them than bytes to come."""
        count = self.u64()
        if count > len(self.data) - self.at:
            raise Damaged(f"{count} elements in {len(self.data) - self.at} bytes")
        return count

    def raw(self, length):
        """So many bytes, without a length."""
        begin = self.at
        if length > len(self.data) - begin:
            raise Damaged(f"{length} bytes where {len(self.data) - begin} are left")
        self.at = begin + length
        return self.data[begin:begin + length]

    def bytes(self):
        return self.raw(self.u64())

    def text(self):
        try:
            return self.bytes().decode()
        except UnicodeDecodeError:
            raise Damaged("a text is not UTF-8") from None

    def option(self, read):
        """None, or what `read` reads."""
        present = self.u8()
        if present > 1:
            raise Damaged(f"an option that begins with {present}")
        return read() if present else None

    def list(self, read):
        return [read() for _ in range(self.count())]

    def end(self):
        """The value is all of the plaintext."""
        if self.at != len(self.data):
            raise Damaged(f"{len(self.data) - self.at} bytes are left over")


@dataclass(frozen=True, slots=True)
class BlockReference:
    """The place of a metadata record (7.2); within the file, and no longer than its kind may be, once `check`ed."""

    number: int
    offset: int
    sealed_len: int

    @classmethod
    def read(cls, plain):
        return cls(plain.u64(), plain.u64(), plain.u32())

    def check(self, kind, file_len):
        most = RECORD_EXTRA + MOST_BLOCK[kind]
        require(RECORD_EXTRA <= self.sealed_len <= most, f"{KIND_NAMES[kind]} of {self.sealed_len} bytes")
        require(self.offset + self.sealed_len <= file_len, f"{KIND_NAMES[kind]} at {self.offset}, beyond the file")


def read_segment_salt(plain):
    """An element of a table of segments (7.2)."""
    salt = plain.raw(32)
    if plain.bytes():
        raise Unsupported("a segment with a wrapped key")
    return salt


# 7.3 Entries

MOST_PATH, MOST_COMPONENTS, MOST_COMPONENT = 65_535, 4_096, 255
FILE, DIRECTORY, SYMLINK, FIFO, CHAR, BLOCK = 1, 2, 3, 4, 5, 6
TYPE_NAMES = {FILE: "file", DIRECTORY: "dir", SYMLINK: "symlink", FIFO: "fifo", CHAR: "char", BLOCK: "block"}


def check_path(path):
    """What keeps a hostile vault within the directory that it is extracted to. The root has the empty path."""
    if path == b"":
        return
    require(len(path) <= MOST_PATH, f"a path of {len(path)} bytes")
    require(b"\0" not in path, "a path with a NUL")
    components = path.split(b"/")
    require(len(components) <= MOST_COMPONENTS, f"a path of {len(components)} components")
    for component in components:
        if component in (b"", b".", b"..") or len(component) > MOST_COMPONENT:
            raise Damaged(f"a path with the component {component[:32]!r}")


def order(path):
    """A key by which paths sort as 7.3 says. `/` is lower than every other byte: NUL would be, and no path has one."""
    return path.replace(b"/", b"\0")


def is_below(path, above):
    """Whether a path lies below another."""
    return path != b"" if above == b"" else path.startswith(above + b"/")


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of the content: a hole (`segment` is None), or bytes of `count` data records from `first` on (7.3)."""

    length: int
    segment: int | None = None
    first: int = 0
    count: int = 0
    record_len: int = 0
    offset: int = 0

    @classmethod
    def read(cls, plain, segments):
        """One extent with the checks of 7.4; `segments`: how many the tree head lists."""
        alternative = plain.u32()
        if alternative == 0:
            length = plain.u64()
            require(length != 0, "a hole of no bytes")
            return cls(length)
        require(alternative == 1, f"an extent of alternative {alternative}")
        segment, first, count = plain.u32(), plain.u64(), plain.u64()
        record_len, offset, length = plain.u32(), plain.u32(), plain.u64()
        require(segment < segments, f"an extent in segment {segment} of {segments}")
        require(count != 0 and first + count < 1 << 64, f"an extent of {count} records from {first}")
        require(1 <= record_len <= MOST_PLAIN, f"an extent with records of {record_len} bytes")
        require(offset < record_len, f"an extent that begins at {offset} of {record_len}")
        require(length != 0 and (count - 1) * record_len < offset + length <= count * record_len,
                f"an extent of {length} bytes in {count} records of {record_len}")
        return cls(length, segment, first, count, record_len, offset)

    def pieces(self):
        """(record number, offset in it, length) of each record in turn, as the drawing in 7.3 cuts them."""
        for i in range(self.count):
            begin = max(0, i * self.record_len - self.offset)
            end = min((i + 1) * self.record_len - self.offset, self.length)
            yield self.first + i, self.offset if i == 0 else 0, end - begin


def read_xattr(plain):
    """Name and value (7.4)."""
    name, value = plain.bytes(), plain.bytes()
    require(1 <= len(name) <= 255 and b"\0" not in name, f"an extended attribute named {name[:32]!r}")
    require(len(value) <= 65_536, f"an extended attribute of {len(value)} bytes")
    return name, value


class Details:
    """Extents and xattrs of an entry, left in the bytes they came in: 256 MiB of them would be gigabytes of objects."""

    __slots__ = ("plain", "begin", "segments", "total")

    def __init__(self, plain, segments):
        """Reads over both lists at `plain`, which is left behind them, and makes the checks of 7.4 but the sum of the
        lengths, `total`: it is the size of a file, and 0 (there are no extents) for everything else."""
        self.plain, self.begin, self.segments, self.total = plain.data, plain.at, segments, 0
        for _ in range(plain.count()):
            self.total += Extent.read(plain, segments).length
        for _ in range(plain.count()):
            read_xattr(plain)

    def check(self, size):
        require(self.total == size, f"extents of {self.total} bytes in an entry of {size}")

    def extents(self):
        plain = Plain(self.plain, self.begin)
        for _ in range(plain.count()):
            yield Extent.read(plain, self.segments)

    def xattrs(self):
        plain = Plain(self.plain, self.begin)
        for _ in range(plain.count()):
            Extent.read(plain, self.segments)
        for _ in range(plain.count()):
            yield read_xattr(plain)


@dataclass(slots=True)
class Entry:
    """A stored file, directory, symlink or special file (7.3). `tree` is where it came from: its segment numbers and
    its records mean something there only."""

    tree: object
    path: bytes
    type: int
    flags: int
    mode: int
    owner: tuple
    mtime: tuple
    ctime: tuple
    dev: int
    ino: int
    rdev: int
    size: int
    target: bytes
    link_group: tuple | None
    details: Details


# 7.4 Leaf

MOST_LEAF_PATHS = 1_114_111
NANOSECONDS = 10 ** 9


def read_owner(plain):
    return plain.u32(), plain.u32(), plain.text(), plain.text()


def read_body(plain, path, owners, tree):
    """The body of an item that puts an entry, with the checks of its table."""
    kind, flags, mode, owner = plain.u8(), plain.u8(), plain.u16(), plain.u32()
    require(kind in TYPE_NAMES and (path != b"" or kind == DIRECTORY), f"an entry of type {kind}")
    require(flags < 4, f"an entry with flags {flags}")
    require(mode <= 0o7777, f"an entry of mode {mode:o}")
    require(owner < len(owners), f"owner {owner} of {len(owners)}")
    mtime, ctime = (plain.i64(), plain.u32()), (plain.i64(), plain.u32())
    require(mtime[1] < NANOSECONDS and ctime[1] < NANOSECONDS, "a time with a second or more of nanoseconds")
    dev, ino, rdev, size = plain.u64(), plain.u64(), plain.u64(), plain.u64()
    require(size < 1 << 63 and (size == 0 or kind == FILE), f"an entry of type {kind} and {size} bytes")
    target = plain.bytes()
    if kind == SYMLINK:
        require(1 <= len(target) <= 65_535 and b"\0" not in target, f"a symlink to {target[:32]!r}")
    else:
        require(target == b"", "a target of what is no symlink")
    link_group = plain.option(lambda: (plain.u32(), plain.u64()))
    require(link_group is None or link_group[0] < len(tree.segments), "a link group of a segment that is not there")
    details = Details(plain, len(tree.segments))
    overflow = plain.list(lambda: BlockReference.read(plain))
    if overflow:
        # Then the two lists in the leaf are ignored.
        details = tree.read_overflow(overflow)
    details.check(size)
    return Entry(tree, path, kind, flags, mode, owners[owner], mtime, ctime, dev, ino, rdev, size, target, link_group,
                 details)


def read_leaf(data, tree):
    """The items of a leaf: (path, entry), the entry None where the path is deleted."""
    plain = Plain(data)
    owners = plain.list(lambda: read_owner(plain))
    items, previous, written_out = [], None, 0
    for _ in range(plain.count()):
        shared, suffix = plain.u32(), plain.bytes()
        require(shared <= len(previous or b""), f"a path that shares {shared} bytes with the one before")
        path = (previous or b"")[:shared] + suffix
        written_out += len(path)
        require(written_out <= MOST_LEAF_PATHS, f"paths of {written_out} bytes in one leaf")
        check_path(path)
        if previous is not None and order(path) <= order(previous):
            raise Damaged(f"{show(path)} is not behind {show(previous)}")
        items.append((path, plain.option(lambda: read_body(plain, path, owners, tree))))
        previous = path
    require(items, "a leaf without items")
    plain.end()
    return items


# 7.6 Node, 7.7 Record table, 7.8 Tree head

MOST_OVERFLOW = 256 * MIB
MOST_HEIGHT, MOST_PLACES = 32, 4_096
# How much of what was read is kept for the next who asks: blocks of the record table of a tree, and data records.
KEPT_TABLE_BLOCKS, KEPT_DATA = 8, 64 * MIB


@dataclass(frozen=True, slots=True)
class Place:
    """Where a data record is (7.7)."""

    number: int
    offset: int
    sealed_len: int
    plain_len: int


def read_place(plain, largest):
    """An element of a table block."""
    place = Place(plain.u64(), plain.u64(), plain.u32(), plain.u32())
    require(RECORD_EXTRA <= place.sealed_len <= RECORD_EXTRA + MOST_PLAIN and place.offset + place.sealed_len < 1 << 64,
            f"data record {place.number} of {place.sealed_len} bytes at {place.offset}")
    require(1 <= place.plain_len <= largest, f"data record {place.number} of plain length {place.plain_len}")
    return place


@dataclass(frozen=True, slots=True)
class Replacement:
    """A subtree that is taken away before the items of a tree apply, and what within it stays (7.8, 9)."""

    path: bytes
    excepted: tuple

    @classmethod
    def read(cls, plain):
        path = plain.bytes()
        check_path(path)
        excepted = plain.list(plain.bytes)
        for each in excepted:
            check_path(each)
            require(is_below(each, path), f"a replacement of {show(path)} excepts {show(each)}")
        return cls(path, tuple(excepted))

    def takes(self, path):
        """Whether it takes this path away."""
        return ((path == self.path or is_below(path, self.path))
                and not any(path == each or is_below(path, each) for each in self.excepted))


class Tree:
    """An index tree, by its head (7.8)."""

    def __init__(self, vault, segment, head):
        """Opens the tree head; everything else is read when it is asked for."""
        self.vault, self.file, self.segment, self.head = vault, vault.file, segment, head
        self._tables = collections.OrderedDict()
        head.check(HEAD, self.file.length)
        data = self._block(head, HEAD)
        with located("tree head", head.offset):
            plain = Plain(data)
            flags = plain.u32()
            if flags != 0:
                raise Unsupported(f"flags {flags:#x}")
            self.segments = [vault.segment(salt) for salt in plain.list(lambda: read_segment_salt(plain))]
            self.height = plain.u8()
            require(self.height <= MOST_HEIGHT, f"height {self.height}")
            self.top = plain.option(lambda: BlockReference.read(plain))
            if self.top is not None:
                self.top.check(NODE if self.height else LEAF, self.file.length)
            self.puts, self.deletes, self.content_bytes = plain.u64(), plain.u64(), plain.u64()
            self.records = plain.list(lambda: (plain.u32(), plain.u64(), BlockReference.read(plain)))
            for i, (number, first, block) in enumerate(self.records):
                require(number < len(self.segments), f"records of segment {number} of {len(self.segments)}")
                require(i == 0 or self.records[i - 1][:2] < (number, first), "the record table does not ascend")
                block.check(TABLE, self.file.length)
            self.largest = plain.u32()
            require(self.largest <= MOST_PLAIN, f"a largest record of {self.largest} bytes")
            self.replacements = plain.list(lambda: Replacement.read(plain))
            for one, other in zip(self.replacements, self.replacements[1:]):
                require(order(one.path) < order(other.path) and not is_below(other.path, one.path),
                        f"the replacement of {show(other.path)} is not behind that of {show(one.path)}, or within it")
            plain.end()

    def _block(self, reference, kind):
        """The plaintext of a block of this tree."""
        with located(KIND_NAMES[kind], reference.offset):
            raw = self.file.read(reference.offset, reference.sealed_len)
            return open_record(raw, kind, self.segment, reference.number)

    def items(self):
        """All items, (path, entry or None), in order; checks that they ascend, and 9: no put below a put of what is no
        directory."""
        last, leaf_like = None, None
        for leaf, at in self._leaves(self.top, self.height) if self.top else ():
            for path, entry in leaf:
                if last is not None and order(path) <= order(last):
                    raise Damaged(f"leaf: {show(path)} is not behind {show(last)} of the leaf before", at)
                last = path
                if leaf_like is not None and not is_below(path, leaf_like):
                    leaf_like = None
                if entry is not None:
                    if leaf_like is not None:
                        raise Damaged(f"leaf: {show(path)} is put below {show(leaf_like)}, no directory", at)
                    if entry.type != DIRECTORY:
                        leaf_like = path
                yield path, entry

    def _leaves(self, reference, level, first=None):
        """The leaves below a block, from left to right. `first`: the first path that the node above names."""
        if level == 0:
            data = self._block(reference, LEAF)
            with located("leaf", reference.offset):
                leaf = read_leaf(data, self)
                require(first in (None, leaf[0][0]), "it does not begin with the path that its node names")
            yield leaf, reference.offset
            return
        data = self._block(reference, NODE)
        with located("node", reference.offset):
            plain = Plain(data)
            children = plain.list(lambda: (plain.bytes(), BlockReference.read(plain)))
            plain.end()
            require(children, "a node without children")
            require(first in (None, children[0][0]), "it does not begin with the path that its node names")
            for i, (path, child) in enumerate(children):
                require(i == 0 or order(children[i - 1][0]) < order(path), "first paths do not ascend")
                child.check(NODE if level > 1 else LEAF, self.file.length)
        for path, child in children:
            yield from self._leaves(child, level - 1, path)

    def read_overflow(self, references):
        """Extents and xattrs of an entry that has them in overflow blocks (7.5)."""
        data = bytearray()
        for reference in references:
            reference.check(OVERFLOW, self.file.length)
            data += self._block(reference, OVERFLOW)
            if len(data) > MOST_OVERFLOW:
                raise Damaged("overflow blocks of more than 256 MiB", reference.offset)
        with located("overflow blocks", references[0].offset):
            plain = Plain(bytes(data))
            details = Details(plain, len(self.segments))
            plain.end()
        return details

    def replaces(self, path):
        """Whether a replacement takes this path away. They are apart, so the last that is not behind it decides."""
        position = bisect_right(self.replacements, order(path), key=lambda replacement: order(replacement.path)) - 1
        return position >= 0 and self.replacements[position].takes(path)

    def table_block(self, position):
        """The places in a block of the record table."""
        if position in self._tables:
            self._tables.move_to_end(position)
            return self._tables[position]
        _, first, reference = self.records[position]
        data = self._block(reference, TABLE)
        with located("table block", reference.offset):
            plain = Plain(data)
            places = plain.list(lambda: read_place(plain, self.largest))
            plain.end()
            require(1 <= len(places) <= MOST_PLACES, f"{len(places)} places")
            require(places[0].number == first, f"it begins with {places[0].number}, not {first}")
            require(all(a.number < b.number for a, b in zip(places, places[1:])), "numbers do not ascend")
        self._tables[position] = places
        if len(self._tables) > KEPT_TABLE_BLOCKS:
            self._tables.popitem(last=False)
        return places

    def place(self, segment, number):
        """Finds a data record: in the last table block that is not behind (segment, number) (7.8)."""
        position = bisect_right(self.records, (segment, number), key=lambda reference: reference[:2]) - 1
        if position >= 0 and self.records[position][0] == segment:
            places = self.table_block(position)
            i = bisect_right(places, number, key=lambda place: place.number) - 1
            if i >= 0 and places[i].number == number:
                return places[i]
        found = self.segments[segment].id.hex()
        raise Damaged(f"data record {number} of segment {found} has no place", self.head.offset)

    def places(self):
        """(segment, place) of all data records that the table lists."""
        for position, (number, _, _) in enumerate(self.records):
            for place in self.table_block(position):
                yield self.segments[number], place


# ----------------------------------------------------------------------------------------------------------------------
# 8 Commit records
# ----------------------------------------------------------------------------------------------------------------------

MOST_DELTAS = 4_095


@dataclass(frozen=True, slots=True)
class TreeReference:
    segment: int
    head: BlockReference
    generation: int
    stored_bytes: int

    @classmethod
    def read(cls, plain):
        return cls(plain.u32(), BlockReference.read(plain), plain.u64(), plain.u64())


@dataclass(frozen=True, slots=True)
class Previous:
    """The commit before, by place, generation and digest."""

    segment: int
    block: BlockReference
    generation: int
    digest: bytes

    @classmethod
    def read(cls, plain):
        return cls(plain.u32(), BlockReference.read(plain), plain.u64(), plain.raw(32))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """8.2: information, and the number by which it is found."""

    number: int
    seconds: int
    nanoseconds: int
    host: str
    user: str
    command_line: list
    sources: list
    tags: list
    files: int
    directories: int
    bytes: int
    stored_bytes: int
    flags: int

    @classmethod
    def read(cls, plain):
        return cls(plain.u64(), plain.i64(), plain.u32(), plain.text(), plain.text(), plain.list(plain.bytes),
                   plain.list(plain.bytes), plain.list(plain.text), plain.u64(), plain.u64(), plain.u64(), plain.u64(),
                   plain.u32())


class Commit:
    """A commit record (8.1)."""

    def __init__(self, data, generation, file_len):
        """`generation`: what refers to the record says."""
        plain = Plain(data)
        flags = plain.u32()
        if flags != 0:
            raise Unsupported(f"flags {flags:#x}")
        self.generation = plain.u64()
        require(self.generation == generation, f"generation {self.generation}, not {generation}")
        self.snapshot = plain.option(lambda: Snapshot.read(plain))
        self.highest_snapshot = plain.u64()
        require(self.snapshot is None or self.snapshot.number <= self.highest_snapshot,
                f"the highest snapshot is {self.highest_snapshot}")
        self.previous = plain.option(lambda: Previous.read(plain))
        self.segments = plain.list(lambda: read_segment_salt(plain))
        self.full = plain.option(lambda: TreeReference.read(plain))
        self.deltas = plain.list(lambda: TreeReference.read(plain))
        self.heads = plain.list(lambda: (plain.u32(), plain.u64()))
        plain.end()
        if self.previous is not None:
            require(self.previous.segment < len(self.segments), "the commit before is in a segment that is not there")
            # Its place is checked by who goes there (7.2).
            require(self.previous.generation < generation, "the commit before is not before it")
        require(len(self.deltas) <= MOST_DELTAS, f"{len(self.deltas)} deltas")
        for tree in self.trees():
            require(tree.segment < len(self.segments), "a tree in a segment that is not there")
            tree.head.check(HEAD, file_len)
        for segment, _ in self.heads:
            require(segment < len(self.segments), "a segment header of a segment that is not there")
        # 8.3
        least = self.full.generation + 1 if self.full else 1
        for i, tree in enumerate(self.deltas):
            require(least <= tree.generation <= generation,
                    f"a delta of generation {tree.generation}, not from {least} to {generation}")
            # Two of one generation may follow each other, a third may not.
            least = tree.generation + (i > 0 and self.deltas[i - 1].generation == tree.generation)
        require(self.full is None or self.full.generation <= generation,
                f"a full index up to generation {self.full and self.full.generation} in commit {generation}")

    def trees(self):
        """References to the full index and the deltas, in the order in which they apply."""
        return ([self.full] if self.full else []) + self.deltas


# ----------------------------------------------------------------------------------------------------------------------
# 9 Merging
# ----------------------------------------------------------------------------------------------------------------------


def merge(trees):
    """The entries of a commit, in order: one pass over its trees side by side, as the end of chapter 9 tells it.

    Trees come in the order in which they apply, and are known by their position in it.
    """
    heads = [_tagged(position, tree) for position, tree in enumerate(trees)]
    above = []  # (path, position) of puts of what is no directory, each below the one before; all at or above `path`
    held = None  # an entry that is no directory waits until the next path is not below it: (path, position, entry)
    items = heapq.merge(*heads, key=lambda item: item[0])
    pending = next(items, None)
    while pending is not None:
        key, same_path = pending[0], []
        while pending is not None and pending[0] == key:
            same_path.append(pending)
            pending = next(items, None)
        path = same_path[0][2]
        while above and not is_below(path, above[-1][0]):
            above.pop()
        if held is not None and not is_below(path, held[0]):
            yield held[2]
            held = None
        # heapq.merge is stable: items of one path come in the order of the trees.
        puts = [(position, entry) for _, position, _, entry in same_path if entry is not None]
        if held is not None and any(position > held[1] for position, _ in puts):
            held = None
        _, position, _, entry = same_path[-1]
        if entry is not None:
            replaced = any(tree.replaces(path) for tree in trees[position + 1:])
            buried = any(later > position for _, later in above)
            if not replaced and not buried:
                if entry.type == DIRECTORY:
                    yield entry
                else:
                    held = path, position, entry
        above += [(path, position) for position, entry in puts if entry.type != DIRECTORY]
    if held is not None:
        yield held[2]


def _tagged(position, tree):
    """Items of a tree with what `merge` sorts and tells them by."""
    for path, entry in tree.items():
        yield order(path), position, path, entry


# ----------------------------------------------------------------------------------------------------------------------
# 11 How to read a vault
# ----------------------------------------------------------------------------------------------------------------------


class Vault:
    """A vault that has been opened with a password: steps 1 to 3 of chapter 11, and the others as methods."""

    def __init__(self, path, password):
        self.file = VaultFile(path)
        self._segments = {}
        self._kept, self._kept_len = collections.OrderedDict(), 0
        self.faults = []  # of the copies that are not needed; damage for `verify`, a warning for everybody else
        self.header, self.master = self._unlock(password)
        self.root = self._choose_root()
        self.state = self._commit(self.root.offset, self.root.length, self.root.number, self.segment(self.root.salt),
                                  self.root.digest, self.root.generation)

    def segment(self, salt):
        """The segment of this salt; one object each, so that its keys are derived once."""
        if salt not in self._segments:
            self._segments[salt] = Segment(self.master, salt)
        return self._segments[salt]

    def _copies(self, places, length, decode):
        """Both copies of a header or root: those that decode, and what is wrong with the others (4.1, 5.2)."""
        good, faults = [], []
        for at in places:
            try:
                good.append(decode(self.file.read(at, length), at))
            except VaultError:
                # It may have been read while it was written.
                with self.file.commit_lock():
                    try:
                        with located("copy", at):
                            good.append(decode(self.file.read(at, length), at))
                    except VaultError as error:
                        faults.append(error)
        return good, faults

    def _unlock(self, password):
        """Steps 1 and 2: headers, the higher sequence first, and the master key."""
        headers, faults = read_headers(self.file, self._copies)
        self.faults += faults
        for header in headers:
            try:
                master = header.unlock(password)
            except Damaged as error:
                self.faults.append(error)
                continue
            for other in headers:
                if other is not header and other.at not in [fault.at for fault in self.faults]:
                    try:
                        other.check_mac(master)
                    except Damaged as error:
                        self.faults.append(error)
            return header, master
        raise self.faults[-1]

    def _choose_root(self):
        """Step 3: the root of the highest generation; A if both have it."""
        roots, faults = self._copies(ROOT_PLACES, ROOT_LEN, lambda raw, at: Root.decode(raw, at, self.master))
        self.faults += faults
        if not roots:
            raise faults[0]
        newest = max(roots, key=lambda root: (root.generation, -root.at))
        # This makes it no less the state: the other root must not be taken instead.
        if newest.end > self.file.length:
            raise Damaged(f"the state reaches to byte {newest.end}, and the file ends", self.file.length)
        return newest

    def _commit(self, offset, length, number, segment, digest, generation):
        """Step 4: a commit record, from what refers to it."""
        with located("commit record", offset):
            raw = self.file.read(offset, length)
            require(same(hashlib.sha256(raw).digest(), digest), "another SHA-256 than what refers to it says")
            return Commit(open_record(raw, COMMIT, segment, number), generation, self.file.length)

    def commits(self):
        """Step 5: all commits, the newest first."""
        commit = self.state
        while True:
            yield commit
            previous = commit.previous
            if previous is None:
                return
            previous.block.check(COMMIT, self.file.length)
            commit = self._commit(previous.block.offset, previous.block.sealed_len, previous.block.number,
                                  self.segment(commit.segments[previous.segment]), previous.digest, previous.generation)

    def commit_of(self, number):
        """The commit that made a snapshot; the newest commit for None."""
        if number is None:
            return self.state
        for commit in self.commits():
            if commit.snapshot is not None and commit.snapshot.number == number:
                return commit
        raise VaultError(f"there is no snapshot {number}")

    def trees(self, commit):
        """Step 6: the trees of a commit, by their heads."""
        trees = []
        for reference in commit.trees():
            tree = Tree(self, self.segment(commit.segments[reference.segment]), reference.head)
            if reference is commit.full and (tree.deletes or tree.replacements):
                raise Damaged("tree head: a full index with deletes or replacements", reference.head.offset)
            trees.append(tree)
        return trees

    def entries(self, commit):
        """Steps 7 and 8: the entries of a commit, in order."""
        return merge(self.trees(commit))

    def data_record(self, segment, place):
        """The plaintext of a data record, which is kept for a while: small files lie many to a record."""
        key = (segment.id, place.number, place.offset)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        with located("data record", place.offset):
            raw = self.file.read(place.offset, place.sealed_len)
            plain = open_record(raw, DATA, segment, place.number, place.plain_len)
        self._kept[key] = plain
        self._kept_len += len(plain)
        while self._kept_len > KEPT_DATA and len(self._kept) > 1:
            self._kept_len -= len(self._kept.popitem(last=False)[1])
        return plain

    def pieces(self, entry):
        """(segment, place, offset in the record, length, offset in the file) of a file's stored bytes, in order."""
        tree, at = entry.tree, 0
        for extent in entry.details.extents():
            if extent.segment is not None:
                piece_at = at
                for number, offset, length in extent.pieces():
                    place = tree.place(extent.segment, number)
                    if offset + length > place.plain_len:
                        raise Damaged(f"{show(entry.path)} needs bytes {offset}..{offset + length} of a data record of "
                                      f"{place.plain_len}", place.offset)
                    yield tree.segments[extent.segment], place, offset, length, piece_at
                    piece_at += length
            at += extent.length

    def content(self, entry):
        """Step 9: (offset in the file, bytes) of what is no hole."""
        for segment, place, offset, length, at in self.pieces(entry):
            yield at, memoryview(self.data_record(segment, place))[offset:offset + length]


def read_headers(file, copies):
    """Both headers that pass all checks that need no key, the higher sequence first, and what is wrong with others."""
    if not any(file.length >= at + 8 and file.read(at, 8) == VAULT_MAGIC for at in HEADER_PLACES):
        raise Damaged(f"{file.path} is no vault, or has lost both headers", HEADER_PLACES[0])
    headers, faults = copies(HEADER_PLACES, HEADER_LEN, Header.decode)
    if not headers:
        raise faults[0]
    headers.sort(key=lambda header: (-header.sequence, header.at))
    return headers, faults


# ----------------------------------------------------------------------------------------------------------------------
# list (docs/JSON.md)
# ----------------------------------------------------------------------------------------------------------------------


def show(path):
    """A path for people: `.` for the root, and nothing in it that a terminal would act on."""
    text = path.decode(errors="backslashreplace") or "."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def utc(seconds, nanoseconds):
    """RFC 3339 with nanoseconds, for any second that an i64 can name.

    Days to dates: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    """
    days, second = divmod(seconds, 86_400)
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted_month + 2) // 5 + 1
    month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
    year = year_of_era + era * 400 + (month <= 2)
    return (f"{year:04}-{month:02}-{day:02}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
            f".{nanoseconds:09}Z")


def lossy(data):
    """Bytes as text; what is not UTF-8 becomes U+FFFD."""
    return data.decode(errors="replace")


def is_utf8(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def entry_json(entry):
    """One line of `list --json`."""
    path = entry.path or b"."
    uid, gid, user, group = entry.owner
    fields = {
        "path": lossy(path),
        "type": TYPE_NAMES[entry.type],
        "size": len(entry.target) if entry.type == SYMLINK else entry.size,
        "mode": f"{entry.mode:04o}",
        "mtime": utc(*entry.mtime),
        "uid": uid,
        "gid": gid,
        "user": user,
        "group": group,
    }
    if entry.type == SYMLINK:
        fields["target"] = lossy(entry.target)
        if not is_utf8(entry.target):
            fields["target_bytes"] = base64.b64encode(entry.target).decode()
    if not is_utf8(path):
        fields["path_bytes"] = base64.b64encode(path).decode()
    return fields


def snapshot_json(snapshot):
    """One line of `list --snapshots --json`."""
    return {
        "snapshot": snapshot.number,
        "time": utc(snapshot.seconds, snapshot.nanoseconds),
        "host": snapshot.host,
        "user": snapshot.user,
        "files": snapshot.files,
        "size": snapshot.bytes,
        "sources": [lossy(source) for source in snapshot.sources],
        "tags": snapshot.tags,
        "command_line": [lossy(word) for word in snapshot.command_line],
        "partial": bool(snapshot.flags & 1),
        "recovered": bool(snapshot.flags & 2),
    }


# What a terminal acts on although JSON lets it stand: DEL and C1 controls, what changes the direction of writing, and
# the line and paragraph separators.
ESCAPED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def print_json(fields):
    """An object on a line of its own."""
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    print(ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


class Selection:
    """The named entries and what is below them; all of them if none is named."""

    def __init__(self, names):
        self.wanted = {}
        for name in names:
            path = name.rstrip(b"/").removeprefix(b"./")
            self.wanted[b"" if path == b"." else path] = False

    def has(self, path):
        if not self.wanted:
            return True
        found = False
        for wanted in self.wanted:
            if path == wanted or is_below(path, wanted):
                self.wanted[wanted] = found = True
        return found

    def missing(self):
        return [path for path, found in self.wanted.items() if not found]


def run_list(vault, arguments):
    """Prints entries or snapshots."""
    if arguments.snapshots:
        for commit in vault.commits():
            snapshot = commit.snapshot
            if snapshot is None:
                continue
            if arguments.json:
                print_json(snapshot_json(snapshot))
            else:
                print(f"{snapshot.number}  {utc(snapshot.seconds, snapshot.nanoseconds)}  {snapshot.files} files  "
                      f"{snapshot.bytes} bytes")
        return 0
    selection = Selection(arguments.paths)
    for entry in vault.entries(vault.commit_of(arguments.at)):
        if selection.has(entry.path):
            if arguments.json:
                print_json(entry_json(entry))
            else:
                print(show(entry.path))
    return complain(f"{show(path)}: not in the vault" for path in selection.missing())


def complain(problems):
    """Names what could not be done; the exit status for it."""
    status = 0
    for problem in problems:
        print(f"flint_reader: {problem}", file=sys.stderr)
        status = 3
    return status


# ----------------------------------------------------------------------------------------------------------------------
# extract (11, steps 9 and 10)
# ----------------------------------------------------------------------------------------------------------------------

ACL_XATTRS = (b"system.posix_acl_access", b"system.posix_acl_default")
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Destination:
    """The directory that is restored into. Every name is resolved beneath it, component by component, and no symlink is
    followed: neither one that was there nor one of the vault."""

    def __init__(self, path):
        os.makedirs(path, exist_ok=True)
        self.top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._last = (b"", os.dup(self.top))

    def directory(self, path):
        """A descriptor of a directory, made with what leads to it where it is not there. Valid until the next call."""
        if path != self._last[0]:
            at = os.dup(self.top)
            for component in path.split(b"/") if path else ():
                try:
                    try:
                        below = os.open(component, DIRECTORY_FLAGS, dir_fd=at)
                    except FileNotFoundError:
                        os.mkdir(component, 0o700, dir_fd=at)
                        below = os.open(component, DIRECTORY_FLAGS, dir_fd=at)
                finally:
                    os.close(at)
                at = below
            os.close(self._last[1])
            self._last = (path, at)
        return self._last[1]

    def parent(self, path):
        """A descriptor of the directory that an entry is in, and its name there."""
        parent, _, name = path.rpartition(b"/")
        return self.directory(parent), name

    def clear(self, path):
        """Takes away what stands under a name and is no directory; returns `parent` of it."""
        at, name = self.parent(path)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(name, dir_fd=at).st_mode):
                raise IsADirectoryError(errno.EISDIR, "a directory is in the way")
            os.unlink(name, dir_fd=at)
        return at, name


class Extraction:
    """Restores entries, and keeps what went wrong: damage ends the file that it concerns, not the run."""

    def __init__(self, vault, destination):
        self.vault, self.to = vault, destination
        self.problems, self.status = [], 0
        self.directories = []  # their attributes come last: restoring what is in them changes their times
        self.links = {}  # link group -> (path that was made for it, what has to be equal)

    def fail(self, path, why, status=3):
        """Something of this entry was not restored."""
        self.problems.append(f"{show(path)}: {why}")
        self.status = max(self.status, status)

    def restore(self, entry):
        """One entry; all but the attributes of a directory."""
        try:
            if entry.type == DIRECTORY:
                self.to.directory(entry.path)
                self.directories.append(entry)
                return
            if self.link(entry):
                return
            at, name = self.to.clear(entry.path)
            if entry.type == FILE:
                self.write(entry, at, name)
            elif entry.type == SYMLINK:
                os.symlink(entry.target, name, dir_fd=at)
            else:
                kind = {FIFO: stat.S_IFIFO, CHAR: stat.S_IFCHR, BLOCK: stat.S_IFBLK}[entry.type]
                os.mknod(name, kind | 0o600, entry.rdev, dir_fd=at)
            self.attributes(entry)
        except VaultError as error:
            self.fail(entry.path, error, error.status)
        except OSError as error:
            self.fail(entry.path, f"cannot be restored: {error.strerror}")

    def write(self, entry, at, name):
        """The content of a file, its holes as holes; none is left where it cannot be had whole."""
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=at)
        try:
            os.ftruncate(fd, entry.size)
            for offset, data in self.vault.content(entry):
                while data:
                    written = os.pwrite(fd, data, offset)
                    data, offset = data[written:], offset + written
        except (VaultError, OSError):
            os.unlink(name, dir_fd=at)
            raise
        finally:
            os.close(fd)

    def link(self, entry):
        """Whether the entry became another name of a file made before: same group, same content (7.3). Segment numbers
        of two trees are not comparable, segment ids are."""
        if entry.link_group is None:
            return False
        ids = [segment.id for segment in entry.tree.segments]
        number, group = entry.link_group
        content = hashlib.sha256()
        for extent in entry.details.extents():
            segment = None if extent.segment is None else ids[extent.segment]
            content.update(repr((segment, extent.first, extent.count, extent.record_len, extent.offset,
                                 extent.length)).encode())
        alike = (entry.type, entry.size, entry.target, entry.rdev, content.digest())
        first, first_alike = self.links.setdefault((ids[number], group), (entry.path, alike))
        if first == entry.path or first_alike != alike:
            return False
        try:
            at, name = self.to.clear(entry.path)
            at = os.dup(at)
            try:
                first_at, first_name = self.to.parent(first)
                os.link(first_name, name, src_dir_fd=first_at, dst_dir_fd=at, follow_symlinks=False)
            finally:
                os.close(at)
        except OSError:
            # The first name was not restored, or the file system has no links: a copy then.
            return False
        return True

    def attributes(self, entry):
        """Owner, extended attributes, mode, ACLs, times: in this order, since each may undo one behind it."""
        if entry.path:
            at, name = self.to.parent(entry.path)
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        else:
            fd = os.dup(self.to.top)
        # Leads to just this inode, whatever its kind, and for a symlink to the symlink.
        inode = f"/proc/self/fd/{fd}"
        try:
            xattrs = list(entry.details.xattrs())
            self._attempt(entry, "owner", os.chown, inode, entry.owner[0], entry.owner[1])
            for name, value in xattrs:
                if name not in ACL_XATTRS:
                    self._attempt(entry, f"extended attribute {show(name)}", os.setxattr, inode, name, value)
            if entry.type != SYMLINK:
                self._attempt(entry, "mode", os.chmod, inode, entry.mode)
            for name, value in xattrs:
                if name in ACL_XATTRS:
                    self._attempt(entry, f"ACL {show(name)}", os.setxattr, inode, name, value)
            mtime = entry.mtime[0] * NANOSECONDS + entry.mtime[1]
            self._attempt(entry, "time", lambda: os.utime(inode, ns=(mtime, mtime)))
        finally:
            os.close(fd)

    def _attempt(self, entry, what, call, *arguments):
        """What cannot be restored is reported, not dropped in silence."""
        try:
            call(*arguments)
        except (OSError, OverflowError) as error:
            self.fail(entry.path, f"{what} not restored: {getattr(error, 'strerror', None) or error}")

    def finish(self):
        """The attributes of directories, from the lowest to the highest."""
        for entry in reversed(self.directories):
            try:
                self.attributes(entry)
            except VaultError as error:
                self.fail(entry.path, error, error.status)
            except OSError as error:
                self.fail(entry.path, f"attributes not restored: {error.strerror}")


def run_extract(vault, arguments):
    """Restores a snapshot or what is named of it."""
    selection = Selection(arguments.paths)
    extraction = Extraction(vault, Destination(os.fsencode(arguments.output)))
    entries, size = 0, 0
    for entry in vault.entries(vault.commit_of(arguments.at)):
        if selection.has(entry.path):
            extraction.restore(entry)
            entries += 1
            size += entry.size
    extraction.finish()
    status = complain(extraction.problems + [f"{show(path)}: not in the vault" for path in selection.missing()])
    print(f"{entries} entries, {size} bytes", file=sys.stderr)
    return max(status, extraction.status)


# ----------------------------------------------------------------------------------------------------------------------
# verify
# ----------------------------------------------------------------------------------------------------------------------


class Verification:
    """Reads and authenticates all that any snapshot needs, each thing once."""

    def __init__(self, vault):
        self.vault = vault
        self.faults = list(vault.faults)
        self.trees = {}  # (segment id, offset of the head) -> whether it is whole
        self.data = {}  # (segment id, number) -> (segment, place)
        self.entries = 0

    def attempt(self, check, *arguments):
        """Notes damage and goes on."""
        try:
            return check(*arguments)
        except Damaged as error:
            self.faults.append(error)
            return None

    def preamble(self):
        """2.1: the reserved ranges are zero."""
        for begin, end in RESERVED_PLACES:
            with located(f"reserved bytes {begin}..{end} of the preamble", begin):
                require(not any(self.vault.file.read(begin, end - begin)), "they are not zero")

    def commit(self, commit):
        """The segment headers and the trees of a commit."""
        for number, at in commit.heads:
            self.attempt(self.segment_header, commit.segments[number], at)
        for reference in commit.trees():
            segment = self.vault.segment(commit.segments[reference.segment])
            key = segment.id, reference.head.offset
            if key not in self.trees:
                self.trees[key] = True
                self.attempt(self.tree, segment, reference.head)
        self.attempt(self.vault.trees, commit)

    def segment_header(self, salt, at):
        with located("segment header", at):
            check_segment_header(self.vault.file.read(at, SEGMENT_HEADER_LEN), self.vault.master.vault_id, salt)

    def tree(self, segment, reference):
        """All blocks of a tree, its sums, and that every entry's bytes have a place."""
        tree = Tree(self.vault, segment, reference)
        for found, place in tree.places():
            _, known = self.data.setdefault((found.id, place.number), (found, place))
            if known != place:
                raise Damaged(f"data record {place.number} has two places, the other at {known.offset}", place.offset)
        puts = deletes = content = 0
        for path, entry in tree.items():
            if entry is None:
                deletes += 1
                continue
            puts += 1
            content += entry.size
            self.attempt(self.content, entry)
        with located("tree head", reference.offset):
            counted, there = (tree.puts, tree.deletes, tree.content_bytes), (puts, deletes, min(content, (1 << 64) - 1))
            require(counted == there, f"it counts puts, deletes and bytes {counted}, and there are {there}")
        self.entries += puts

    def content(self, entry):
        """Extents, xattrs and places of an entry."""
        for _ in self.vault.pieces(entry):
            pass

    def run(self, quick):
        self.attempt(self.preamble)
        commits = self.vault.commits()
        while (commit := self.attempt(next, commits, None)) is not None:
            self.attempt(self.commit, commit)
        # In the order of the file.
        for segment, place in sorted(self.data.values(), key=lambda each: each[1].offset) if not quick else ():
            self.attempt(self.vault.data_record, segment, place)


def run_verify(vault, arguments):
    """Prints what is wrong, and what was read."""
    verification = Verification(vault)
    verification.run(arguments.quick)
    for fault in verification.faults:
        print(f"flint_reader: {fault}", file=sys.stderr)
    print(f"{len(verification.trees)} trees, {verification.entries} entries, {len(verification.data)} data records, "
          f"{len(verification.faults)} faults", file=sys.stderr)
    # A copy of a later version's is as bad as a torn one, where the other opened the vault.
    return Damaged.status if verification.faults else 0


# ----------------------------------------------------------------------------------------------------------------------
# info
# ----------------------------------------------------------------------------------------------------------------------


def run_info(path, password):
    """What stands in clear, and with a password what the newest commit says."""
    file = VaultFile(path)

    def copies(places, length, decode):
        good, faults = [], []
        for at in places:
            try:
                with located("copy", at):
                    good.append(decode(file.read(at, length), at))
            except VaultError as error:
                faults.append(error)
        return good, faults

    headers, faults = read_headers(file, copies)
    header = headers[0]
    print(f"vault id: {header.vault_id.hex()}")
    print(f"format version: {VERSION}")
    print(f"length: {file.length}")
    print(f"header: at {header.at}, sequence {header.sequence}, optional flags {header.optional_flags:#x}")
    for slot in header.slots:
        print(f"password slot {slot.id}: made {utc(slot.created, 0)}, {slot.memory} KiB, {slot.passes} passes, "
              f"{slot.lanes} lanes, label {show(slot.label.encode()) if slot.label else 'none'}")
    if header.other_slots:
        print(f"other slots: {header.other_slots}")
    for fault in faults:
        print(f"fault: {fault}")
    if password is None:
        return 0
    vault = Vault(path, password)
    state = vault.state
    print(f"root: at {vault.root.at}, generation {vault.root.generation}, end {vault.root.end}")
    print(f"commit record: at {vault.root.offset}, highest snapshot {state.highest_snapshot}, "
          f"{'a' if state.full else 'no'} full index, {len(state.deltas)} deltas")
    return 0


# ----------------------------------------------------------------------------------------------------------------------
# The command line
# ----------------------------------------------------------------------------------------------------------------------


def read_password(arguments):
    """From --password-file or FLINT_PASSWORD; None if there is neither."""
    if arguments.password_file is not None:
        try:
            with open(arguments.password_file, "rb") as file:
                password = file.read().split(b"\n", 1)[0]
        except OSError as error:
            raise Usage(f"{arguments.password_file}: {error.strerror}") from None
    else:
        password = os.environb.get(b"FLINT_PASSWORD")
    if password == b"":
        raise Usage("an empty password")
    return password


def parse_arguments(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("vault")
    common.add_argument("--password-file", metavar="FILE")
    commands.add_parser("info", parents=[common])
    one = commands.add_parser("list", parents=[common])
    one.add_argument("--at", type=int, metavar="N")
    one.add_argument("--snapshots", action="store_true")
    one.add_argument("--json", action="store_true")
    one.add_argument("paths", nargs="*", metavar="PATH", type=os.fsencode)
    one = commands.add_parser("extract", parents=[common])
    one.add_argument("-o", "--output", required=True, metavar="DIR")
    one.add_argument("--at", type=int, metavar="N")
    one.add_argument("paths", nargs="*", metavar="PATH", type=os.fsencode)
    one = commands.add_parser("verify", parents=[common])
    one.add_argument("--quick", action="store_true", help="all but the data records")
    return parser.parse_args(words)


def main(words=None):
    """Runs a command, of the process's own command line if there is no other; the exit status."""
    arguments = parse_arguments(words)
    try:
        password = read_password(arguments)
        if arguments.command == "info":
            return run_info(arguments.vault, password)
        if password is None:
            raise Usage("no password: set FLINT_PASSWORD, or give --password-file")
        vault = Vault(arguments.vault, password)
        if arguments.command == "verify":
            return run_verify(vault, arguments)
        for fault in vault.faults:
            print(f"flint_reader: warning: {fault}", file=sys.stderr)
        return {"list": run_list, "extract": run_extract}[arguments.command](vault, arguments)
    except VaultError as error:
        print(f"flint_reader: {arguments.vault}: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        # Whoever read has read enough. The interpreter would complain of standard output when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
