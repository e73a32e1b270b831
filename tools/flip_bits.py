#!/usr/bin/env python3
"""Is every flipped bit of a vault found? Flips one bit at a time in a copy and asks `verify`, and sometimes `extract`.

    tools/flip_bits.py FLINT-PIPE [--flips N] [--slack-flips N] [--seed N] [--extract-every N] [--jobs N]
                                   [--keep DIR]

Makes a small tree (tools/corpus.py) and a vault of it with two snapshots, then flips N bits, one after another, each in
an undamaged copy. They are shared out evenly over the kinds of bytes that the vault needs, and fall at random within
each: a bit drawn from the whole file would hardly ever hit a header. --slack-flips more fall where nothing should be
needed. What the kinds are is found by walking the file as docs/FORMAT.md describes it, without the program's help:
headers, segment headers, record headers and lengths are in clear.

What must hold, or the tool names the bit and ends with 1:

    anything but padding   `verify` says 13, or 12; nothing else
    padding, gaps          `verify` says 0, or 13; with 0 `extract` says 0 too
    extract, always        says 0, 12 or 13; every file that it leaves has the original's bytes; with 0 all are there
    always                 no panic, no signal, no run beyond --timeout seconds, no run beyond --memory MiB

It prints a table of kinds and verdicts. Python 3.11, standard library only.
"""

import argparse
import collections
import concurrent.futures
import hashlib
import os
import queue
import random
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

# docs/FORMAT.md, chapters 2.1, 6.2 and 6.3.
PREAMBLE = [("header A", 0, 16 << 10), ("reserved", 16 << 10, 32 << 10), ("header B", 32 << 10, 48 << 10),
            ("root", 48 << 10, (48 << 10) + 512), ("reserved", (48 << 10) + 512, 56 << 10),
            ("root", 56 << 10, (56 << 10) + 512), ("reserved", (56 << 10) + 512, 64 << 10)]
SEGMENT_MAGIC, SEGMENT_LEN = b"FLINTSG1", 256
RECORD_MAGIC, RECORD_LEN, TAG_LEN, ALIGNMENT = b"FLRC", 64, 16, 64
DATA_KIND = 1
SLACK = {"padding", "gap"}


def kinds_of_bytes(vault):
    """Ranges of the file by what they are: kind -> [(begin, end)]."""
    ranges = collections.defaultdict(list)
    for kind, begin, end in PREAMBLE:
        ranges[kind].append((begin, end))
    at = PREAMBLE[-1][2]
    while at < len(vault):
        if vault[at:at + 8] == SEGMENT_MAGIC:
            ranges["segment header"].append((at, at + SEGMENT_LEN))
            at += SEGMENT_LEN
        elif vault[at:at + 4] == RECORD_MAGIC:
            name = "data" if vault[at + 5] == DATA_KIND else "metadata"
            text = at + RECORD_LEN
            tag = text + int.from_bytes(vault[at + 36:at + 40], "little")
            end = tag + TAG_LEN
            after = min(-(-end // ALIGNMENT) * ALIGNMENT, len(vault))
            for kind, begin, stop in [(f"{name} record header", at, text), (f"{name} record", text, tag),
                                      (f"{name} tag", tag, end), ("padding", end, after)]:
                if begin < stop:
                    ranges[kind].append((begin, stop))
            at = after
        else:
            ranges["gap"].append((at, min(at + ALIGNMENT, len(vault))))
            at += ALIGNMENT
    return ranges


def draw(ranges, rng):
    """A bit of these ranges: every record is as likely as every other, as long as it may be."""
    begin, end = rng.choice(ranges)
    return rng.randrange(begin * 8, end * 8)


def tree_of(root):
    """What is below `root`: name -> kind and content, links by their target."""
    found, base = {}, os.fsencode(root)
    for parent, dirs, files in os.walk(base):
        for name in dirs + files:
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    what = ("file", hashlib.file_digest(file, "sha256").digest())
            else:
                what = (stat.S_IFMT(mode), os.readlink(path) if stat.S_ISLNK(mode) else b"")
            found[os.path.relpath(path, base)] = what
    return found


class Tester:
    """Runs the program on copies of the vault, one copy for each thread."""

    def __init__(self, options, scratch, vault, original):
        self.options, self.scratch, self.original = options, scratch, original
        self.copies = queue.SimpleQueue()
        for number in range(options.jobs):
            copy = scratch / f"copy{number}.flint"
            shutil.copyfile(vault, copy)
            self.copies.put(copy)

    def run(self, *arguments):
        """Exit status, what was said, and the complaints that hold for any run."""
        command = [self.options.program, *map(str, arguments)]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            try:
                process.wait(self.options.timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return None, "", [f"{arguments[0]} ran beyond {self.options.timeout} s"]
            said.seek(0)
            text = said.read().decode(errors="replace")
        complaints = []
        if process.returncode not in (0, 12, 13):
            complaints.append(f"{arguments[0]} ends with {process.returncode}")
        if "panicked" in text:
            complaints.append(f"{arguments[0]} panics")
        return process.returncode, text, complaints

    def extract(self, copy, number):
        """Restores all that can be had, and compares it."""
        out = self.scratch / f"out{number}"
        status, _, complaints = self.run("extract", "-v", copy, "-o", out)
        restored = tree_of(out) if out.exists() else {}
        wrong = [name for name, what in restored.items() if self.original.get(name) != what]
        if wrong:
            complaints.append(f"extract ({status}) leaves wrong bytes in {len(wrong)} files: {wrong[0]!r}")
        if status == 0 and len(restored) != len(self.original):
            complaints.append(f"extract says 0 and restores {len(restored)} of {len(self.original)} entries")
        shutil.rmtree(out, ignore_errors=True)
        return status, complaints

    def flip(self, number, kind, bit):
        """One bit: the verdicts of verify and extract, and what is wrong with them."""
        copy = self.copies.get()
        try:
            with open(copy, "r+b", buffering=0) as file:
                byte = os.pread(file.fileno(), 1, bit // 8)[0]
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit % 8]), bit // 8)
            verified, _, complaints = self.run("verify", "-v", copy)
            if verified == 0 and kind not in SLACK:
                complaints.append("verify finds nothing")
            extracted = None
            if verified == 0 or number % self.options.extract_every == 0:
                extracted, more = self.extract(copy, number)
                complaints += more
                if verified == 0 and extracted not in (0, None):
                    complaints.append(f"verify says 0 and extract {extracted}")
            with open(copy, "r+b", buffering=0) as file:
                os.pwrite(file.fileno(), bytes([byte]), bit // 8)
            return kind, bit, verified, extracted, complaints
        finally:
            self.copies.put(copy)


def make_vault(options, scratch):
    """The tree and the vault; both snapshots stay needed, since `verify` checks all."""
    source, vault = scratch / "source", scratch / "vault.flint"
    source.mkdir()
    corpus = Path(__file__).with_name("corpus.py")
    parts = "text,noise,links,names,kinds,wide"
    subprocess.run([sys.executable, corpus, source / "tree", "--only", parts, "--seed", str(options.seed),
                    "--text-mib", "2", "--noise-mib", "2", "--entries", "600", "--chunk-kib", "256"], check=True)
    for sources in (["tree/text", "tree/names"], ["tree"]):
        arguments = [argument for source in sources for argument in ("-s", source)]
        # Small chunks: more records of both kinds.
        subprocess.run([options.program, "add", "-v", vault, "-C", source, "--chunk-size", "256K", *arguments],
                       check=True, stdout=subprocess.DEVNULL)
    return source, vault


def print_table(verdicts):
    columns = ["flips", "12", "13", "0", "other", "extract 0", "extract 12", "extract 13"]
    width = max(map(len, [*verdicts, "kind of byte"]))
    print("kind of byte".ljust(width), *(column.rjust(10) for column in columns))
    total = collections.Counter()
    for kind, counts in verdicts.items():
        total += counts
        print(kind.ljust(width), *(str(counts[column]).rjust(10) for column in columns))
    print("all".ljust(width), *(str(total[column]).rjust(10) for column in columns))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=os.path.abspath, metavar="FLINT-PIPE")
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--slack-flips", type=int, default=40, metavar="N", help="flips in padding and gaps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--extract-every", type=int, default=10, metavar="N", help="extract after every Nth flip")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="the most that any run may take")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the tree and the vault in this new directory")
    options = parser.parse_args()
    os.environ["FLINT_PASSWORD"] = "flip_bits"
    if options.keep:
        options.keep.mkdir()
    scratch = options.keep or Path(tempfile.mkdtemp(prefix="flip_bits."))
    try:
        return flip_all(options, scratch.absolute())
    finally:
        if not options.keep:
            shutil.rmtree(scratch, ignore_errors=True)


def flip_all(options, scratch):
    source, vault = make_vault(options, scratch)
    tester = Tester(options, scratch, vault, tree_of(source))
    clean, said, complaints = tester.run("verify", "-v", vault)
    extracted, more = tester.extract(vault, "-clean")
    if (clean, extracted) != (0, 0) or complaints or more:
        print(f"the vault is not whole before anything was flipped: {clean}, {extracted}, {complaints + more}\n{said}")
        return 1

    rng = random.Random(options.seed)
    ranges = kinds_of_bytes(vault.read_bytes())
    kinds = list(ranges)
    print(f"a vault of {vault.stat().st_size} bytes; bytes by kind:",
          ", ".join(f"{kind} {sum(end - begin for begin, end in ranges[kind])}" for kind in kinds))
    flips = []
    for wanted, among in [(options.flips, [kind for kind in kinds if kind not in SLACK]),
                          (options.slack_flips, [kind for kind in kinds if kind in SLACK])]:
        flips += [(kind := among[number % len(among)], draw(ranges[kind], rng)) for number in range(wanted) if among]
    verdicts = {kind: collections.Counter() for kind in kinds}
    failures = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for kind, bit, verified, extracted, complaints in pool.map(tester.flip, range(len(flips)), *zip(*flips)):
            counts = verdicts[kind]
            counts["flips"] += 1
            counts[str(verified) if verified in (0, 12, 13) else "other"] += 1
            if extracted is not None:
                counts[f"extract {extracted}"] += 1
            failures += [f"bit {bit % 8} of byte {bit // 8} ({kind}): {complaint}" for complaint in complaints]
    print_table(verdicts)
    peak = peak_of_children_mib()
    if peak > options.memory:
        failures.append(f"a run took {peak} MiB")
    for failure in failures:
        print(failure)
    print(f"{len(flips)} flips, {len(failures)} failures, at most {peak} MiB in one run")
    return 1 if failures else 0


def peak_of_children_mib():
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10


if __name__ == "__main__":
    sys.exit(main())
