#!/usr/bin/env python3
"""Does a vault live for a year? A year of daily backups in minutes, with all that is done to a vault in a year.

    tools/year.py FLINT-PIPE [--days N] [--seed N] [--files N] [--strict] [--keep-dir]

A made tree of some thousand files (text, a few large ones, hard links, symlinks) is stored once, and then once a day. Each
day about one file in a hundred changes, others come, go and move; now and then a large file is rewritten, a directory goes
or moves, a file becomes a directory. What is done beside that:

    most days        add --mirror; every ninth day without, so that what is gone stays for a day
    every 40 days    remove: in turn of what the source has no longer, and of what it still has
    every month      compact: the last 35 snapshots stay, and those of three old dates whose trees were set aside
    in between       a spare password, a changed one, a new master key

What must hold, or it says what does not and ends with 1:

- every command ends with 0; who comes with a password of before is refused with 12, also after `rekey` with the spare one;
- `add` counts all entries of the source, and reads none that is known to be unchanged: a file whose ctime was within 2 s of
  its last reading is read once more, so days that follow at once on each other read more than real ones would;
- `list` has the source's entries, with their attributes; `list --snapshots` has the snapshots that should be there;
- `verify` finds nothing after each compaction, after `rekey` and at the end;
- the three old dates and the newest come back as they were, byte for byte, with all attributes: rsync finds no difference;
- each byte of the file has a use: what is found by walking the file as docs/FORMAT.md describes it, without the program's
  help, is its length in sum, `verify` counts as unreferenced just what is padding or gap there, and `info --long` says the
  same of each part; little is of no use.

It prints each month's compaction, the bytes of the file by use, and what an `add`, a `list` and the opening of the vault
took in the first week and in the last one, when snapshots of two months have piled up. A machine that others use is not as
fast in one minute as in another: so in the last week a young vault is made of the same source, and lives its first week
beside the old one, in turn. With --strict it is a failure if the old one takes more than 1.5 times as long as the young one;
without it that is only said. Vaults have the cheapest key derivation that there is, so that it does not hide the rest.

The same seed makes the same files and the same changes. Everything happens below one temporary directory in TMPDIR
(default: /var/tmp), some 700 MB; --keep-dir leaves it there. Needs rsync. Python 3.11, standard library only.
"""

import argparse
import collections
import datetime
import json
import mmap
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

# Nothing is to appear beside the sources.
sys.dont_write_bytecode = True

from flip_bits import kinds_of_bytes  # noqa: E402

# A run that is slower than this hangs.
LIMIT_SECS = 300
# The day of the first add. What is made is dated from there on, so that nothing but a ctime is of today.
FIRST_DAY = datetime.date(2020, 1, 1)
DAY_SECS, NANOSECONDS = 86_400, 1_000_000_000
# How near a ctime may be to the reading of a file and the file be read again, with the grain of the kernel's clock.
RACY_NS = 2_050_000_000
LARGE = 1 << 20
KEEP_LAST = 35
TRIES = 5
WORST_RATIO = 1.5
# Whoever changes a password or the master key keeps to this, if nothing else is said.
CHEAPEST = ["--kdf-memory", "19M", "--kdf-time", "2"]


class Broken(Exception):
    """A promise does not hold."""


def require(holds, what):
    if not holds:
        raise Broken(what)


def mib(size):
    return f"{size / (1 << 20):.1f}"


# ----------------------------------------------------------------------------------------------------------------------
# The source
# ----------------------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """What `stat` says of a file, directory or symlink, and where a symlink leads."""

    kind: str
    mode: int
    size: int
    mtime: int
    ctime: int
    inode: int
    target: str

    @classmethod
    def of(cls, path):
        info = os.lstat(path)
        kind = {0o100000: "file", 0o040000: "dir", 0o120000: "symlink"}[info.st_mode & 0o170000]
        size = 0 if kind == "dir" else info.st_size
        target = os.readlink(path) if kind == "symlink" else ""
        return cls(kind, info.st_mode & 0o7777, size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, target)

    def as_listed(self):
        """What `list --json` says of it."""
        seconds, nanoseconds = divmod(self.mtime, NANOSECONDS)
        when = datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return self.kind, self.size, f"{self.mode:04o}", f"{when}.{nanoseconds:09}Z", self.target


class Source:
    """The tree that is stored, and what becomes of it from day to day. `tree` is what is there: path -> Entry."""

    def __init__(self, root, seed, files):
        self.root, self.rng, self.files, self.day, self.made = root, random.Random(seed), files, 0, 0
        letters = "etaoinsrhldcumfpgwybvk_"
        words = ["".join(self.rng.choices(letters, k=self.rng.randint(2, 10))) for _ in range(2000)]
        self.lines = []
        for _ in range(60_000):
            # The early words of the vocabulary far more often.
            picked = (words[int(self.rng.random() * self.rng.random() * 2000)] for _ in range(self.rng.randint(1, 9)))
            line = self.rng.choice([" ", ".", "(", " = "]).join(picked)
            self.lines.append(f"{'    ' * self.rng.randint(0, 3)}{line}\n".encode())
        root.mkdir()
        for number in range(48):
            (root / f"project {number // 6}" / f"part{number % 6}").mkdir(parents=True, exist_ok=True)
        (root / "large").mkdir()
        (root / "empty").mkdir()
        self.tree = {}
        self.settle()
        for _ in range(files):
            self.new_file()
        for number in range(8):
            (root / "large" / f"größe {number}").write_bytes(self.large(number))
        self.settle()
        for path in self.rng.sample(self.small(), 40):
            self.link(path)
        for path in self.rng.sample(self.small(), 40):
            self.symlink(path)
        for path in self.rng.sample(self.small(), 20):
            os.chmod(self.root / path, self.rng.choice([0o600, 0o640, 0o755, 0o4711]))
        for path in self.rng.sample(self.small(), 20):
            self.set_xattr(path)
        self.settle()

    def text(self, length):
        """Lines that no other file has in this order."""
        return b"".join(self.rng.choices(self.lines, k=length // 20 + 1))[:length]

    def large(self, number):
        """Some MiB, of every second file half noise."""
        size = self.rng.randint(2 << 20, 5 << 20)
        return self.text(size // 2) + (self.rng.randbytes(size // 2) if number % 2 else self.text(size // 2))

    def small(self):
        return sorted(path for path, entry in self.tree.items() if entry.kind == "file" and entry.size < LARGE)

    def parts(self):
        """The directories that come and go."""
        return sorted(path for path, entry in self.tree.items() if entry.kind == "dir" and path.startswith("project "))

    def leaves(self):
        """Of these the ones that hold no other directory."""
        holders = {os.path.dirname(path) for path, entry in self.tree.items() if entry.kind == "dir"}
        return [path for path in self.parts() if path not in holders]

    def name(self, directory=None):
        """A path that was never used, in some directory."""
        self.made += 1
        directory = directory or self.rng.choice(self.parts())
        return os.path.join(directory, f"{self.rng.choice(['notes', 'Übung', 'x'])}-{self.made}.txt")

    def new_file(self, directory=None):
        # Mostly a few KiB, sometimes nothing.
        length = min(int(self.rng.expovariate(1 / 14_000)), 400_000) if self.rng.random() > 0.01 else 0
        (self.root / self.name(directory)).write_bytes(self.text(length))

    def new_directory(self, path, files):
        (self.root / path).mkdir(parents=True)
        for _ in range(files):
            self.new_file(path)

    def link(self, path):
        os.link(self.root / path, self.root / self.name())

    def symlink(self, path):
        name = self.name()
        os.symlink(os.path.relpath(path, os.path.dirname(name)), self.root / name)

    def set_xattr(self, path):
        try:
            os.setxattr(self.root / path, "user.day", str(self.day).encode())
        except OSError:
            # Not every file system has them.
            pass

    def change(self, path):
        """A file that is not what it was, in one of the ways in which that happens."""
        place, how = self.root / path, self.rng.randrange(10)
        if how < 4:
            place.write_bytes(self.text(min(int(self.rng.expovariate(1 / 14_000)), 400_000)))
        elif how < 6:
            with open(place, "ab") as file:
                file.write(self.text(self.rng.randint(1, 3000)))
        elif how < 8:
            # As editors do it. Other names of the file keep what it was.
            new = place.with_name("new")
            new.write_bytes(self.text(self.rng.randint(1, 30_000)))
            os.rename(new, place)
        elif how < 9:
            # Its attributes alone.
            os.chmod(place, self.rng.choice([0o600, 0o644, 0o660, 0o755]))
            self.set_xattr(path)
        else:
            os.utime(place)

    def change_large(self):
        """A large file: all of it, a part in its middle, or some more at its end."""
        path = self.rng.choice(sorted(path for path, entry in self.tree.items() if entry.size >= LARGE))
        how = self.rng.randrange(3)
        if how == 0:
            (self.root / path).write_bytes(self.large(self.rng.randrange(2)))
            return
        with open(self.root / path, "r+b") as file:
            file.seek(self.rng.randrange(self.tree[path].size) if how == 1 else 0, os.SEEK_SET if how == 1 else os.SEEK_END)
            file.write(self.rng.randbytes(70_000))

    def live(self):
        """What happens in a day."""
        self.day += 1
        small = self.small()
        share = max(2, len(small) // 100)
        picked = self.rng.sample(small, 3 * share)
        for path in picked[:share]:
            self.change(path)
        for path in picked[share:share + self.rng.randint(0, share)]:
            os.unlink(self.root / path)
        for path in picked[2 * share:2 * share + share // 4 + 1]:
            os.rename(self.root / path, self.root / self.name())
        for _ in range(self.rng.randint(0, share) + max(0, self.files - len(small)) // 20):
            self.new_file()
        rest = [path for path in small if path not in picked]
        if self.day % 4 == 1:
            self.link(self.rng.choice(rest))
            self.symlink(self.rng.choice(rest))
        if self.day % 5 == 2:
            os.unlink(self.root / self.rng.choice(sorted(path for path, entry in self.tree.items() if entry.kind == "symlink")))
        if self.day % 13 == 6:
            self.change_large()
        # Directories, each of these on days of its own, since `tree` is what was there in the morning.
        if self.day % 17 == 9:
            path = self.rng.choice(self.leaves())
            os.rename(self.root / path, self.root / f"{path}, moved on day {self.day}")
        elif self.day % 29 == 3:
            shutil.rmtree(self.root / self.rng.choice(self.leaves()))
        elif self.day % 29 == 5:
            self.new_directory(f"project {self.rng.randrange(8)}/made on day {self.day}", self.files // 60)
        elif self.day % 19 == 11:
            self.become_another(self.rng.choice(rest))
        self.settle()

    def become_another(self, path):
        """A file that is a directory or a symlink, under the same name; or a directory that is a file."""
        how = self.rng.randrange(3)
        if how == 2:
            path = self.rng.choice(self.leaves())
            shutil.rmtree(self.root / path)
            (self.root / path).write_bytes(self.text(5000))
            return
        os.unlink(self.root / path)
        if how == 1:
            os.symlink("somewhere/else", self.root / path)
        else:
            self.new_directory(path, 3)

    def remove(self):
        """A directory less; its path."""
        path = self.rng.choice(self.leaves())
        shutil.rmtree(self.root / path)
        self.settle()
        return path

    def settle(self):
        """Looks at all of it, and dates what is of today to the day that it is about."""
        day = (FIRST_DAY - datetime.date(1970, 1, 1)).days + self.day
        begin, self.tree = day * DAY_SECS * NANOSECONDS, {}

        def take(place, path):
            entry = Entry.of(place)
            if entry.mtime >= begin + DAY_SECS * NANOSECONDS:
                # Directories are listed in any order; times have to follow from the path alone.
                when = begin + random.Random(f"{self.day}/{path}").randrange(DAY_SECS * NANOSECONDS)
                os.utime(place, ns=(when, when), follow_symlinks=False)
                entry = Entry.of(place)
            self.tree[path] = entry

        take(self.root, ".")
        for parent, directories, files in os.walk(self.root):
            prefix = os.path.relpath(parent, self.root)
            for name in directories + files:
                take(os.path.join(parent, name), name if prefix == "." else f"{prefix}/{name}")

    def __str__(self):
        kinds = collections.Counter(entry.kind for entry in self.tree.values())
        size = sum({entry.inode: entry.size for entry in self.tree.values()}.values())
        return f"{kinds['file']} files, {kinds['dir']} directories, {kinds['symlink']} symlinks, {mib(size)} MiB"


# ----------------------------------------------------------------------------------------------------------------------
# The program
# ----------------------------------------------------------------------------------------------------------------------


class Program:
    """The binary, and the password that it is given."""

    def __init__(self, path, password):
        self.path, self.password = path, password

    def run(self, *arguments, expect=(0,), password=None, drop=False):
        """What it printed, and how long it took; complains of any other status than was expected."""
        command = [self.path, *map(str, arguments)]
        environment = {"PATH": os.environ["PATH"], "FLINT_PASSWORD": password or self.password}
        began = time.monotonic()
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL if drop else subprocess.PIPE,
                                  stderr=subprocess.PIPE, env=environment, timeout=LIMIT_SECS, check=False)
        except subprocess.TimeoutExpired:
            raise Broken(f"hangs: not done after {LIMIT_SECS} s: {' '.join(command)}") from None
        seconds = time.monotonic() - began
        said = done.stderr.decode(errors="replace")
        if done.returncode not in expect or "panicked" in said:
            wanted = " or ".join(map(str, expect))
            raise Broken(f"ends with {done.returncode}, not {wanted}: {' '.join(command)}\n{said[-2000:]}")
        return (done.stdout or b"").decode(errors="replace"), seconds, said

    def result(self, *arguments, **how):
        """What --json printed, and how long it took. What it says beside that is passed on."""
        out, seconds, said = self.run(*arguments, "--json", **how)
        for line in said.splitlines():
            print(f"note: {arguments[0]}: {line}", flush=True)
        try:
            return json.loads(out), seconds
        except ValueError:
            raise Broken(f"prints no JSON object: {arguments}: {out[:500]}") from None


class Kept(NamedTuple):
    """A date whose snapshot stays: its day, the snapshot's number, and the tree that was set aside."""

    day: int
    snapshot: int
    tree: Path


# ----------------------------------------------------------------------------------------------------------------------
# The year
# ----------------------------------------------------------------------------------------------------------------------


class Year:
    """The vault, and what must be in it."""

    def __init__(self, options, base):
        self.options, self.base, self.days, self.vault = options, base, options.days, base / "vault.flint"
        self.old_passwords = []
        self.program = Program(options.program, "of the first day")
        self.source = Source(base / "source", options.seed, options.files)
        # What the newest snapshot was made of, and when its run began: what may count as unchanged the next time.
        self.before, self.began = {}, 0
        self.snapshots, self.kept = [], []
        self.young = base / "young.flint"
        # What took how long: what -> seconds, by the column of the table at the end.
        self.times = collections.defaultdict(lambda: {"first": [], "last": [], "young": []})
        self.counts = collections.Counter()
        self.notes = []
        # When what happens; of 365 days these are 18, 109, 219; 60, 182, 200; 250.
        self.chosen = [self.days * part // 100 for part in (5, 30, 60)]
        self.spare_day, self.change_day, self.use_day = (self.days * part // 1000 for part in (167, 500, 550))
        self.rekey_day = self.days * 250 // 365
        # A month's end, and the last day.
        self.month_ends = [*(round(month * 365 / 12) for month in range(1, self.days * 12 // 365 + 1)), self.days]
        self.month_ends = sorted(set(end for end in self.month_ends if end <= self.days))

    # What is done to the vault -----------------------------------------------------------------------------------------

    def run(self, command, *arguments, **how):
        return self.program.run(*command.split(), "-v", self.vault, *arguments, **how)

    def result(self, command, *arguments, **how):
        return self.program.result(*command.split(), "-v", self.vault, *arguments, **how)

    def add(self, mirror=True):
        """Stores the source, and holds what was counted against what is there."""
        tree, began = self.source.tree, time.time_ns()
        result, seconds = self.result("add", "-C", self.source.root, "-s", ".", *(["--mirror"] if mirror else []))
        files = {path: entry for path, entry in tree.items() if entry.kind != "dir"}
        counted = result["total_files"], result["directories"], result["failed_files"]
        require(counted == (len(files), len(tree) - len(files), 0),
                f"add counts {counted} of files, directories and failures, not {len(files)}, {len(tree) - len(files)} and 0")
        # Whoever is stored takes its other names along, so that they stay one file.
        inodes = {entry.inode for path, entry in files.items()
                  if entry != self.before.get(path) or entry.ctime >= self.began - RACY_NS}
        may = sum(entry.inode in inodes for entry in files.values())
        must = sum(entry.kind == "file" and entry[2:4] != self.before.get(path, entry)[2:4] or path not in self.before
                   for path, entry in files.items())
        taken = len(files) - result["unchanged_files"]
        require(must <= taken <= may, f"add takes {taken} entries for new or changed; {must} are, and {may} may look so")
        self.before, self.began = tree, began
        self.took_snapshot(result)
        self.counts["adds"] += 1
        self.counts["read"] += taken
        self.counts["of"] += len(files)
        return seconds

    def took_snapshot(self, result):
        number, last = result["snapshot"], self.snapshots[-1] if self.snapshots else 0
        require(isinstance(number, int) and number > last, f"{result['command']} makes snapshot {number} after {last}")
        self.snapshots.append(number)

    def remove(self, path):
        """Takes a path, and all that is below it, out of the newest snapshot."""
        listed = self.listed()
        gone = [name for name in listed if name == path or name.startswith(f"{path}/")]
        require(len(gone) > 1, f"{path} and what was in it are not listed before they are removed")
        result, _ = self.result("remove", "-t", path)
        self.took_snapshot(result)
        removed = result["removed_files"] + result["removed_directories"]
        require(removed == len(gone), f"remove takes out {removed} entries, not {len(gone)}")
        left = self.listed()
        require(left == {name: what for name, what in listed.items() if name not in gone},
                f"after remove of {path} something else is there than before without it")
        self.before = {name: entry for name, entry in self.before.items() if name not in gone}
        self.counts["removes"] += 1

    def listed(self, *options):
        """What is in the newest snapshot: path -> what Entry.as_listed says."""
        entries = map(json.loads, self.run("list", "--json", *options)[0].splitlines())
        return {entry["path"]: (entry["type"], entry["size"], entry["mode"], entry["mtime"], entry.get("target", ""))
                for entry in entries}

    def check_listing(self):
        """The newest snapshot has what the source has, and after a mirror nothing else."""
        listed, there = self.listed(), {path: entry.as_listed() for path, entry in self.source.tree.items()}
        if listed == there:
            return
        for path in sorted(listed.keys() | there.keys()):
            if listed.get(path) != there.get(path):
                raise Broken(f"{path} is listed as {listed.get(path)}, and is {there.get(path)}")

    def check_snapshots(self):
        found = sorted(json.loads(line)["snapshot"] for line in self.run("list", "--snapshots", "--json")[0].splitlines())
        require(found == self.snapshots, f"there are the snapshots {found}, not {self.snapshots}")

    def verify(self):
        self.counts["verifies"] += 1
        return self.result("verify")[0]

    # A day --------------------------------------------------------------------------------------------------------------

    def live(self, day):
        """One day of the year."""
        self.source.live()
        is_last = day == self.days
        takes_out = day % 40 == 0 and not is_last
        # In turn what the source has no longer, which is still there after an add that does not mirror, and what it has.
        of_the_gone = takes_out and day % 80 == 40 and day not in self.chosen
        gone = self.source.remove() if of_the_gone else None
        mirror = not of_the_gone and (day % 9 != 5 or day in self.chosen or day in self.month_ends)
        vaults = self.measured(day)
        for column, vault in vaults:
            self.times["add"][column].append(self.add(mirror) if vault == self.vault else self.add_to_young(mirror))
        if not vaults:
            self.add(mirror)
        for _ in range(TRIES):
            for column, vault in vaults:
                for name, arguments in (("list", ["list"]), ("open (list --snapshots)", ["list", "--snapshots"])):
                    password = "of the young one" if vault == self.young else None
                    _, seconds, _ = self.program.run(*arguments, "-v", vault, password=password, drop=True)
                    self.times[name][column].append(seconds)
        if day == self.days - 7:
            self.program.run("create", "-v", self.young, *CHEAPEST, password="of the young one")
            self.add_to_young()
        if mirror and (day % 10 == 1 or day in self.month_ends):
            self.check_listing()
        if day in self.chosen:
            self.set_aside(day)
        if takes_out:
            self.remove(gone or self.source.rng.choice(self.source.leaves()))
        if not self.options.without_keys:
            self.change_keys(day)
        if day in self.month_ends:
            self.compact(day)

    def measured(self, day):
        """The columns that this day's times go into, and the vaults that they are of, in the order of their turns."""
        if day <= 7:
            return [("first", self.vault)]
        if day <= self.days - 7:
            return []
        both = [("last", self.vault), ("young", self.young)]
        return both if day % 2 else both[::-1]

    def add_to_young(self, mirror=True):
        arguments = ["-C", self.source.root, "-s", ".", *(["--mirror"] if mirror else [])]
        return self.program.run("add", "-v", self.young, *arguments, password="of the young one")[1]

    def set_aside(self, day):
        tree = self.base / f"day{day}"
        subprocess.run(["cp", "-a", "--no-target-directory", self.source.root, tree], check=True)
        self.kept.append(Kept(day, self.snapshots[-1], tree))

    def compact(self, day):
        """Gives back the room of what is not kept; a line of the table."""
        held, listed = self.snapshots, self.listed()
        self.check_snapshots()
        if self.counts["compactions"] == 0:
            self.run("compact", expect=(2,))
        chosen = [option for kept in self.kept for option in ("--keep-snapshot", kept.snapshot)]
        wanted = {*held[-KEEP_LAST:], *(kept.snapshot for kept in self.kept)}
        before = self.size()
        _, seconds = self.result("compact", "--keep-last", KEEP_LAST, *chosen)
        after = self.size()
        self.snapshots = [number for number in held if number in wanted]
        self.check_snapshots()
        require(self.listed() == listed, "compact changes what is listed")
        for number in [number for number in held if number not in wanted][:1]:
            self.run("list", "--at", number, expect=(1, 2))
        verified = self.verify()
        self.account(verified)
        print(f"{day:5} {len(held):6} {len(self.snapshots):6} {mib(before):>9} {mib(after):>9} {mib(before - after):>10} "
              f"{seconds:9.2f} {mib(after / seconds):>7}", flush=True)
        self.counts["compactions"] += 1
        self.counts["given back"] += before - after

    def size(self):
        return os.stat(self.vault).st_size

    # Keys ---------------------------------------------------------------------------------------------------------------

    def password_file(self, password):
        path = self.base / "password"
        path.write_text(f"{password}\n", encoding="utf-8")
        return path

    def change_keys(self, day):
        """The days on which passwords come, change and go."""
        if day == self.spare_day:
            self.result("key add", "--label", "spare", "--new-password-file", self.password_file("of the spare key"))
            require([key["label"] for key in self.keys()] == ["", "spare"], f"after key add there are the keys {self.keys()}")
        if day == self.change_day:
            present, data = self.base / "present", self.content()
            present.write_text(f"{self.program.password}\n", encoding="utf-8")
            self.result("key passwd", "--password-file", present, "--new-password-file", self.password_file("of summer"))
            self.old_passwords.append(self.program.password)
            self.program.password = "of summer"
            require(self.content() == data, "key passwd changes more than the headers")
            self.check_refused()
            require(len(self.keys()) == 2, f"after key passwd there are the keys {self.keys()}")
        if day == self.use_day:
            self.run("list", password="of the spare key")
            require([key["label"] for key in self.keys("of the spare key") if key["current"]] == ["spare"],
                    "the spare password does not open with its own key")
        if day == self.rekey_day:
            self.rekey(day)

    def rekey(self, day):
        identity, before, listed = self.identity(), self.size(), self.listed()
        # Its notes name the keys that are lost: that is what it is run for.
        seconds = self.run("rekey", "--new-password-file", self.password_file("of autumn"), "--json")[1]
        self.old_passwords += [self.program.password, "of the spare key"]
        self.program.password = "of autumn"
        self.check_refused()
        require(len(self.keys()) == 1, f"after rekey there are the keys {self.keys()}")
        require(self.identity() != identity, "rekey leaves the vault its id")
        self.check_snapshots()
        require(self.listed() == listed, "rekey changes what is listed")
        self.account(self.verify())
        self.notes.append(f"day {day}: rekey: {mib(before)} to {mib(self.size())} MiB in {seconds:.2f} s, "
                          f"{mib(self.size() / seconds)} MiB/s")

    def check_refused(self):
        for password in self.old_passwords:
            self.run("list", "--snapshots", password=password, expect=(12,))
            self.counts["passwords refused"] += 1

    def keys(self, password=None):
        return list(map(json.loads, self.run("key list", "--json", password=password)[0].splitlines()))

    def identity(self):
        return re.search(r"^id +(\w+)$", self.run("info")[0], re.MULTILINE).group(1)

    def content(self):
        """All but the two headers, which lie before the first root and have room behind each."""
        with open(self.vault, "rb") as file:
            file.seek(48 << 10)
            return file.read()

    # Bytes --------------------------------------------------------------------------------------------------------------

    def account(self, verified):
        """The bytes of the file by use, as the file itself shows them. What the program says of them has to be the same."""
        size, use = self.size(), collections.Counter()
        with open(self.vault, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for kind, ranges in kinds_of_bytes(content).items():
                use[kind] = sum(end - begin for begin, end in ranges)
        of = lambda *kinds: sum(use[kind] for kind in kinds)
        parts = {
            "headers, roots, their room": of("header A", "header B", "root", "reserved"),
            "heads of segments": of("segment header"),
            "data": of("data record header", "data record", "data tag"),
            "indexes and commits": of("metadata record header", "metadata record", "metadata tag"),
            "padding": of("padding"),
            "gaps": of("gap"),
        }
        require(sum(parts.values()) == sum(use.values()) == size,
                f"the parts are {sum(parts.values())} bytes, the file {size}: {parts}")
        unreferenced = parts["padding"] + parts["gaps"]
        require(verified["unreferenced_bytes"] == unreferenced,
                f"verify counts {verified['unreferenced_bytes']} bytes as unreferenced; padding and gaps are {unreferenced}")
        # It was written anew: what is left of that is the ends of blocks.
        require(unreferenced <= size // 100, f"of {size} bytes {unreferenced} are of no use")
        self.check_info(size, parts)
        return parts

    def check_info(self, size, parts):
        """`info --long` says the same, to the byte."""
        out = self.run("info", "--long")[0]
        require(f"({size} bytes)" in out, f"info does not say that the file has {size} bytes:\n{out}")
        said = {name: int(length) for name, length in re.findall(r"^  (\S.*?) +[\d.]+ \w+ +[\d.]+% +(\d+)$", out, re.MULTILINE)}
        walked = {
            ("data, newest snapshot", "data, older ones alone"): parts["data"],
            ("indexes",): parts["indexes and commits"],
            ("headers",): parts["headers, roots, their room"] + parts["heads of segments"],
            ("unreferenced",): parts["padding"] + parts["gaps"],
        }
        require(sorted(said) == sorted(name for names in walked for name in names) and sum(said.values()) == size,
                f"the lines of info --long are not those of all {size} bytes:\n{out}")
        for names, length in walked.items():
            require(sum(said[name] for name in names) == length, f"{' and '.join(names)} are {length} bytes; info --long says\n{out}")

    # The end ------------------------------------------------------------------------------------------------------------

    def restore(self, what, original, *options):
        """Restores a snapshot, and compares it with what it was made of."""
        out = self.base / "restored"
        self.run("extract", "-o", out, *options)
        differs = subprocess.run(["rsync", "-aHAXSn", "--delete", "--checksum", "--itemize-changes", f"{original}/", f"{out}/"],
                                 capture_output=True, text=True, errors="replace", check=False)
        require(differs.returncode == 0, f"rsync ends with {differs.returncode}: {differs.stderr}")
        require(not differs.stdout, f"{what} comes back otherwise than it was:\n{differs.stdout[:4000]}")
        shutil.rmtree(out)
        self.counts["restores"] += 1

    def finish(self):
        """What is left to be seen at the end of the year; whether the last week is much slower than the first."""
        verified = self.verify()
        for kept in self.kept:
            self.restore(f"day {kept.day} (snapshot {kept.snapshot})", kept.tree, "--at", kept.snapshot)
        self.restore("the newest", self.source.root)
        for note in self.notes:
            print(note)
        size = self.size()
        print(f"\n{'bytes of the file by use':30} {'bytes':>12} {'':6}")
        for part, length in [*self.account(verified).items(), ("the file's length", size)]:
            print(f"{part:30} {length:12,} {length * 100 / size:5.1f}%")
        alone, fresh = self.newest_alone()
        print(f"the newest snapshot alone: {mib(alone)} MiB; made anew: {mib(fresh)} MiB; ratio {alone / fresh:.2f}")
        # A record moves as it is while half of it is needed.
        require(alone <= 2 * fresh + (1 << 20), "what is not needed any more stays")
        slow = self.print_weeks()
        counts = self.counts
        print(f"\nsource at the end: {self.source}")
        print(f"{counts['adds']} adds, which took {counts['read'] * 100 / counts['of']:.1f} % of the entries for new or changed, "
              f"{counts['removes']} removes, {counts['compactions']} compactions that gave back {mib(counts['given back'])} MiB, "
              f"{counts['verifies']} verifies, {counts['passwords refused']} old passwords refused, "
              f"{counts['restores']} restores compared")
        return slow

    def newest_alone(self):
        """The length of the vault without its older snapshots, and of one that never had any."""
        copy, fresh = self.base / "copy.flint", self.base / "fresh.flint"
        shutil.copyfile(self.vault, copy)
        self.program.run("compact", "-v", copy, "--keep-last", "1")
        self.program.run("verify", "-v", copy)
        self.program.run("add", "-v", fresh, "-C", self.source.root, "-s", ".")
        return os.stat(copy).st_size, os.stat(fresh).st_size

    def print_weeks(self):
        """Medians of the two weeks, and of the young vault. Answers what has become too slow."""
        slow = []
        print(f"\n{'':26} {'first':>8} {'last':>8} {'':>7} {'young vault':>12}")
        print(f"{'median seconds':26} {'week':>8} {'week':>8} {'ratio':>7} {'meanwhile':>12} {'ratio':>7}")
        for name, columns in self.times.items():
            first, last, young = (statistics.median(columns[column]) for column in ("first", "last", "young"))
            print(f"{name:26} {first:8.3f} {last:8.3f} {last / first:7.2f} {young:12.3f} {last / young:7.2f}")
            if last / young > WORST_RATIO:
                slow.append(f"{name} takes {last / young:.2f} times as long with the old vault as with a young one")
        return slow


def play(options, base):
    """The whole year."""
    began = time.monotonic()
    year = Year(options, base)
    print(f"source: {year.source}; seed {options.seed}, {options.days} days", flush=True)
    year.run("create", *CHEAPEST)
    # Else all of it would be read again on the next day.
    time.sleep(RACY_NS / NANOSECONDS)
    first = year.add()
    print(f"first add: {first:.2f} s, {mib(year.size())} MiB\n")
    print("        snapshots           MiB in the file  given back  compact")
    print("  day before  after    before     after        MiB   seconds   MiB/s", flush=True)
    day = 0
    try:
        for day in range(1, options.days + 1):
            year.live(day)
        slow = year.finish()
    except Broken as broken:
        raise Broken(f"day {day} (--seed {options.seed} --days {options.days} --files {options.files}): {broken}") from None
    print(f"{time.monotonic() - began:.0f} s")
    for words in slow:
        print(f"{'BROKEN' if options.strict else 'note'}: {words}")
    return bool(slow and options.strict)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=os.path.abspath, metavar="FLINT-PIPE")
    parser.add_argument("--days", type=int, default=365, help="at least 40")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=3000, help="at least 500")
    parser.add_argument("--strict", action="store_true", help=f"a ratio above {WORST_RATIO} is a failure")
    parser.add_argument("--keep-dir", action="store_true", help="leave everything where it is")
    parser.add_argument("--without-keys", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.days < 40 or options.files < 500:
        parser.error("less than 40 days or 500 files are no year")
    if shutil.which("rsync") is None:
        sys.exit("year.py: there is no rsync, which compares what comes back")
    # As exceptions, so that everything is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    base = Path(tempfile.mkdtemp(prefix="flint-year.", dir=os.environ.get("TMPDIR", "/var/tmp")))
    try:
        return play(options, base)
    except Broken as broken:
        print(f"BROKEN {broken}", flush=True)
        return 1
    finally:
        if options.keep_dir:
            print(f"{base} is kept")
        else:
            shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
