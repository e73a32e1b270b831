#!/usr/bin/env python3
"""Makes a tree of files for trying flint-pipe on, always the same one for the same seed.

    tools/corpus.py DIR [--seed N] [--text-mib N] [--noise-mib N] [--entries N] [--chunk-kib N]
                        [--only PART[,PART...]]

The parts, each a directory below DIR, which must not exist yet:

    text    source-like text, thousands of small files and a few large ones (compresses to a third)
    noise   four files of random bytes (does not compress)
    sparse  files with holes: at the front, at the end, all hole, data islands, 8 GiB with a few bytes
    links   hard links within and across directories, symlinks: relative, absolute, dangling, to a directory
    names   names of any bytes: not UTF-8, newlines, escapes, 255 bytes long, leading dashes, glob characters
    attrs   modes with setuid and sticky, times before 1970 and with nanoseconds, xattrs, owners (as root)
    kinds   empty files and directories, a FIFO, files of one chunk (--chunk-kib) plus and minus a byte
    wide    one directory with --entries files

It says what it made, and which attributes this system or user does not permit. Python 3.11, standard library only.
"""

import argparse
import errno
import os
import random
import stat
import sys
from pathlib import Path

def words(rng):
    letters = "etaoinsrhldcumfpgwybvk_"
    return ["".join(rng.choices(letters, k=rng.randint(2, 10))) for _ in range(2000)]


def text(rng, vocabulary, length):
    """Lines of words, the early ones of the vocabulary far more often."""
    lines, size = [], 0
    while size < length:
        count = rng.randint(1, 9)
        picked = (vocabulary[int(rng.random() * rng.random() * len(vocabulary))] for _ in range(count))
        line = " " * (4 * rng.randint(0, 3)) + rng.choice([" ", ".", "(", " = "]).join(picked) + "\n"
        lines.append(line)
        size += len(line)
    return "".join(lines).encode()[:length]


def make_text(root, rng, options):
    vocabulary, left, number = words(rng), options.text_mib << 20, 0
    pool = text(rng, vocabulary, min(left, 8 << 20)) or b"\n"
    while left > 0:
        # Mostly a few KiB, now and then something of a chunk or more.
        length = rng.randint(5 << 20, 9 << 20) if number % 400 == 399 else int(rng.expovariate(1 / 9000))
        length = min(length, left)
        parent = root / f"module{number // 60:03}" / f"part{number // 12 % 5}"
        parent.mkdir(parents=True, exist_ok=True)
        start = rng.randrange(len(pool))
        content = (pool[start:] + pool * (length // len(pool) + 1))[:length]
        (parent / f"file{number:05}.txt").write_bytes(content)
        left, number = left - max(length, 1), number + 1


def make_noise(root, rng, options):
    for number in range(4):
        with open(root / f"noise{number}.bin", "wb") as file:
            left = (options.noise_mib << 20) // 4
            while left > 0:
                left -= file.write(rng.randbytes(min(left, 1 << 20)))


def make_sparse(root, rng, options):
    chunk = options.chunk_kib << 10

    def sparse(name, size, pieces):
        with open(root / name, "wb") as file:
            for offset, length in pieces:
                file.seek(offset)
                file.write(rng.randbytes(length))
            file.truncate(size)

    sparse("hole-first", 3 << 20, [(2 << 20, 1 << 20)])
    sparse("hole-last", 3 << 20, [(0, 70_001)])
    sparse("all-hole", 1 << 30, [])
    sparse("one-page-hole", 4096, [])
    sparse("islands", 64 << 20, [(n * (1 << 20) + 4096 * n, 1000 + n) for n in range(60)])
    sparse("across-chunks", 5 * chunk + 5, [(chunk - 4096, 8192), (3 * chunk, 1), (5 * chunk, 5)])
    sparse("eight-gib", 8 << 30, [(0, 3), (4 << 30, 4096), ((8 << 30) - 1, 1)])


def make_links(root, rng, options):
    (root / "a").mkdir()
    (root / "b").mkdir()
    for number in range(20):
        first = root / "a" / f"one{number:02}"
        first.write_bytes(rng.randbytes(rng.choice([0, 1, 5000, (options.chunk_kib << 10) + 1])))
        for copy in range(number % 4 + 1):
            os.link(first, root / rng.choice("ab") / f"other{number:02}-{copy}")
    os.symlink("a/one01", root / "relative")
    os.symlink("../links/a/one02", root / "upwards")
    os.symlink("/etc/hostname", root / "absolute")
    os.symlink("nowhere/at all", root / "dangling")
    os.symlink("a", root / "directory")
    os.symlink("loop", root / "loop")
    os.symlink(b"not\xff utf-8", os.fsencode(root / "odd-target"))
    os.link(root / "dangling", root / "dangling-again", follow_symlinks=False)


def make_names(root, rng, _options):
    base = os.fsencode(root)
    names = [b"plain", b" leading space", b"trailing space ", b"new\nline", b"tab\tand\x1b[31mescape", b"-rf", b"--",
             b"*?[a-z]{x,y}!", b"#comment", b"back\\slash", b"quote'\"`$(x)", b"comma,name", b"colon:name", b"...",
             b"..a", b"\xff\xfe\x80", b"caf\xc3\xa9", b"cafe\xcc\x81", b"\xe2\x80\xae rtl", b"x" * 255,
             "日本語".encode(), "🦀".encode(), b"\x01\x02\x7f"]
    for name in names:
        with open(os.path.join(base, name), "wb") as file:
            file.write(rng.randbytes(10))
    os.mkdir(os.path.join(base, b"dir\xff\n"))
    with open(os.path.join(base, b"dir\xff\n", b"in it"), "wb") as file:
        file.write(b"content\n")
    # 12 levels of 250 bytes: a long path that one system call still takes (PATH_MAX is 4096).
    deep = base
    for _ in range(12):
        deep = os.path.join(deep, b"deep" + b"y" * 246)
        os.mkdir(deep)
    with open(os.path.join(deep, b"file"), "wb") as file:
        file.write(b"far down\n")


def make_attrs(root, rng, _options):
    skipped = []

    def permitted(what, call, *arguments, **keywords):
        try:
            call(*arguments, **keywords)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOTSUP):
                raise
            skipped.append(what)

    for mode in (0o000, 0o400, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o6711, 0o1644):
        path = root / f"mode{mode:04o}"
        path.write_bytes(b"mode\n")
        if os.geteuid() == 0:
            permitted("owner", os.chown, path, rng.randrange(1 << 16), rng.randrange(1 << 16))
        permitted("mode", os.chmod, path, mode)
    for mode in (0o700, 0o1777, 0o2775):
        path = root / f"dir{mode:04o}"
        path.mkdir()
        permitted("mode", os.chmod, path, mode)
    for number, when in enumerate([0, -1, -1_500_000_000, 1, 123_456_789_012_345_678, 4_102_444_800_999_999_999]):
        path = root / f"time{number}"
        path.write_bytes(b"time\n")
        os.utime(path, ns=(when, when))
    os.symlink("time0", root / "link-time")
    os.utime(root / "link-time", ns=(-5, -5), follow_symlinks=False)
    path = root / "xattrs"
    path.write_bytes(b"xattrs\n")
    for name, value in [("user.empty", b""), ("user.zero", b"\0\xff"), ("user.long", rng.randbytes(1000))]:
        permitted("xattrs", os.setxattr, path, name, value)
    path = root / "capability"
    path.write_bytes(b"capability\n")
    # cap_net_raw+ep, version 2.
    capability = b"\x01\x00\x00\x02" + (1 << 13).to_bytes(4, "little") + bytes(12)
    permitted("capabilities", os.setxattr, path, "security.capability", capability)
    for what in sorted(set(skipped)):
        print(f"not permitted here: {what}", file=sys.stderr)


def make_kinds(root, rng, options):
    chunk = options.chunk_kib << 10
    (root / "empty").write_bytes(b"")
    (root / "empty-dir").mkdir()
    os.mkfifo(root / "fifo")
    for name, length in [("one", 1), ("page", 4096), ("less", chunk - 1), ("chunk", chunk), ("more", chunk + 1),
                         ("two-chunks", 2 * chunk)]:
        (root / name).write_bytes(rng.randbytes(length))


def make_wide(root, rng, options):
    for number in range(options.entries):
        (root / f"{number:06x}").write_bytes(b"%d\n" % rng.randrange(1 << 30) if number % 3 else b"")


PARTS = {"text": make_text, "noise": make_noise, "sparse": make_sparse, "links": make_links, "names": make_names,
         "attrs": make_attrs, "kinds": make_kinds, "wide": make_wide}


def fix_times(root):
    """Gives whatever was made today a time that follows from its name, bottom up: the same tree, the same listing."""
    today = root.stat().st_mtime - 86_400
    for parent, dirs, files in os.walk(os.fsencode(root), topdown=False):
        for name in files + dirs + [b"."]:
            path = os.path.join(parent, name)
            info = os.lstat(path)
            if info.st_mtime > today and info.st_mtime < today + 2 * 86_400:
                when = 1_600_000_000_000_000_000 + sum(name) * 1_000_003
                os.utime(path, ns=(when, when), follow_symlinks=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, metavar="DIR")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--text-mib", type=int, default=16)
    parser.add_argument("--noise-mib", type=int, default=16)
    parser.add_argument("--entries", type=int, default=5000)
    parser.add_argument("--chunk-kib", type=int, default=4096)
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART[,PART...]")
    options = parser.parse_args()
    chosen = options.only.split(",")
    unknown = [part for part in chosen if part not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}")
    options.dir.mkdir()
    for part in chosen:
        root = options.dir / part
        root.mkdir()
        # A generator of its own for each part: the same content whatever else was chosen.
        PARTS[part](root, random.Random(f"{options.seed}/{part}"), options)
    fix_times(options.dir)
    count, size, stored = 0, 0, 0
    for parent, dirs, files in os.walk(os.fsencode(options.dir)):
        for name in files + dirs:
            info = os.lstat(os.path.join(parent, name))
            count += 1
            stored += info.st_blocks * 512
            size += info.st_size if stat.S_ISREG(info.st_mode) else 0
    print(f"{options.dir}: {count} entries, {size} bytes, {stored} on the disk")


if __name__ == "__main__":
    main()
