#!/usr/bin/env python3
"""Writes what the fuzz targets begin with: a corpus for each, from the golden vectors.

    fuzz_seeds.py DIR                DIR/TARGET/NAME, for `cargo fuzz run TARGET DIR/TARGET`

What is in the vectors' records before they are sealed comes from tools/vectors.py, which makes them. The same files every
time. Python 3.11 and the packages of tools/requirements.txt.
"""

import random
import struct
import sys
from pathlib import Path

import vectors

TESTS = Path(__file__).resolve().parent.parent / "tests"
# The targets' own numbers for what is in a record (fuzz/fuzz_targets/index.rs).
WAYS = {vectors.LEAF: 0, vectors.NODE: 1, vectors.TABLE: 2, vectors.HEAD: 3, vectors.COMMIT: 4}
READ_ALL = 0b11111


def made():
    """Every case: its name, its records (kind, plaintext, packed, header), and the vault's bytes."""
    for case in vectors.CASES:
        vault = vectors.Vault(case.name)
        records, original = [], vault.record

        def record(kind, plain, *, packed=None, codec=vectors.STORE, **options):
            reference = original(kind, plain, packed=packed, codec=codec, **options)
            head = bytes(vault.image[reference.offset:reference.offset + 64])
            records.append((kind, plain, plain if packed is None else packed, head))
            return reference

        vault.record = record
        case.make(vault)
        yield case.name, records, bytes(vault.image)


def header_seeds():
    for name, _, image in made():
        for what, at, length in (("header", vectors.HEADER_A, 16_348), ("root", vectors.ROOT_A, 476),
                                 ("segment", vectors.EXTENTS, 252)):
            yield f"{name}-{what}", image[at:at + length].rstrip(b"\0")


def record_seeds():
    for name, records, _ in made():
        for i, (kind, plain, packed, head) in enumerate(records):
            if len(packed) > 4096:
                continue
            yield f"{name}-{i}-sealed", b"\1" + head + packed
            if packed != plain:
                yield f"{name}-{i}-frame", b"\2" + head[32:36] + packed
        if records:
            kind, plain, packed, head = records[-1]
            yield f"{name}-framed", b"\0" + head + packed[:1000] + bytes(16)
            yield f"{name}-plain", b"\3" + plain[:4096]


def tree(blocks, heads=1):
    """An input of several blocks, which refer to each other by their positions."""
    return bytes([6 | heads - 1 << 3]) + b"".join(struct.pack("<H", len(block)) + block for block in blocks)


def reference(position):
    return vectors.encoded(vectors.Reference(position, 65_792, 80))


def tree_head(top, height=0, items=(), replacements=(), tables=()):
    sums = (sum(item.body is not None for item in items), sum(item.body is None for item in items),
            sum(item.size for item in items))
    segment = bytes(32) + vectors.blob(b"")
    return b"".join([vectors.varint(0), vectors.sequence([segment]), bytes([height]),
                     vectors.option(None if top is None else reference(top)), *map(vectors.varint, sums),
                     vectors.sequence(list(tables)), vectors.varint(1000), vectors.sequence(list(replacements))])


def index_seeds():
    for name, records, _ in made():
        for i, (kind, plain, _, _) in enumerate(records):
            if kind in WAYS and len(plain) <= 8192:
                yield f"{name}-{i}", bytes([WAYS[kind]]) + plain
    v = vectors
    one = [v.put(b"a", v.DIRECTORY), v.put(b"a/1"), v.put(b"b"), v.put(b"c", v.DIRECTORY)]
    two = [v.put(b"a"), v.delete(b"b"), v.put(b"c/1"), v.put(b"d", v.SYMLINK, target=b"a")]
    three = [v.put(b"", v.DIRECTORY), v.put(b"b/1", size=5, extents=[v.hole(5)])]
    yield "tree-one", tree([tree_head(1, items=one), v.leaf(one)])
    yield "tree-two", tree([tree_head(2, items=one), tree_head(3, items=two), v.leaf(one), v.leaf(two)], heads=2)
    yield "tree-three", tree([tree_head(3, items=one), tree_head(4, items=two, replacements=[v.replacement(b"a")]),
                              tree_head(5, items=three), v.leaf(one), v.leaf(two), v.leaf(three)], heads=3)
    node = v.sequence([v.blob(item.path) + reference(i + 2) for i, item in enumerate(one)])
    yield "tree-node", tree([tree_head(1, height=1, items=one), node] + [v.leaf([item]) for item in one])
    overflow = v.put(b"f", size=5, overflow=[reference(2), reference(3)])
    bulk = v.sequence([v.hole(5)]) + v.sequence([v.xattr(b"user.a", b"1")])
    yield "tree-overflow", tree([tree_head(1, items=[overflow]), v.leaf([overflow]), bulk[:2], bulk[2:]])
    place = v.sequence([b"".join(map(v.varint, (0, 65_792, 90, 10)))])
    table = v.varint(0) + v.varint(0) + reference(2)
    yield "tree-table", tree([tree_head(1, items=one, tables=[table]), v.leaf(one), place])


def open_vault_seeds():
    count = len(list((TESTS / "vectors").iterdir())) + len(list((TESTS / "vaults").glob("*.flint")))
    dice = random.Random(4)
    for number in range(count):
        base = struct.pack("<HB", number, READ_ALL)
        for recover in (64, 64 | 128):
            yield f"{number:03}-recover-{recover}", struct.pack("<HB", number, recover)
        yield f"{number:03}", base
        # Kind, structure, place, bytes that go, bytes that come (fuzz/fuzz_targets/open_vault.rs).
        for kind in range(4):
            edit = struct.pack("<BBHBB", kind, dice.randrange(4, 16), dice.randrange(200), kind % 2, 1)
            yield f"{number:03}-{kind}", base + edit + dice.randbytes(1)
        yield f"{number:03}-raw", base + struct.pack("<BIB", 4, dice.randrange(65_536, 70_000) << 2 | 1, 1) + b"\x55"


def operations_seeds():
    dice = random.Random(5)
    for number in range(200):
        yield f"{number:03}", dice.randbytes(dice.randrange(8, 160))


def main(directory):
    every = {"header": header_seeds, "record": record_seeds, "index": index_seeds, "open_vault": open_vault_seeds,
             "operations": operations_seeds}
    for target, seeds in every.items():
        place = Path(directory) / target
        place.mkdir(parents=True, exist_ok=True)
        count = 0
        for name, data in seeds():
            (place / f"seed-{name}").write_bytes(data)
            count += 1
        print(f"{target}: {count} seeds")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
