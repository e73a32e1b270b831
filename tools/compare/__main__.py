#!/usr/bin/env python3
"""Is flint-pipe faster than what people use instead, and how near is it to what the machine allows?

    tools/compare FLINT-PIPE BARE [--only CORPUS,...] [--tools NAME,...] [--turns N] [--json FILE]
                  [--corpora DIR] [--kernel DIR] [--work DIR]

FLINT-PIPE and BARE are `target/release/flint-pipe` and `target/release/examples/bare` (cargo build --release --example
bare). The corpora: `kernel` (Debian's linux-source-6.1: 84,000 entries, 1.3 GB), `noise` (four files, 2.45 GB), `text`
(one file, 1.4 GB), and only if asked for `million` (a million small files). They are made below --corpora
(default: /var/tmp/flint-pipe-corpora) and kept there. Tools that are not installed are left out, and said so.

How it keeps from fooling itself, and where it cannot:
- The tools run one after another in each turn; medians with least and most. A turn in which other programs took more than
  a tenth of the cores is marked with `!`.
- The source is read right before packing, the archive right before restoring: the page cache is warm for all alike.
- Each restore of many files goes onto a fresh ext4 in a loop device where that can be had (root), else into a fresh
  directory: file systems step over inodes that were deleted lately. Large files are restored to the disk itself.
- A `sync` follows each run; for a tool that does not make durable what it packs it counts as part of packing.
- Peak memory is sampled 50 times a second over the process tree, the anonymous part apart from mapped files.
- What the machine allows is measured in the same turn: each stage alone (`flint-pipe profile --roofline`), and bare
  programs that only write, walk, sync, create (BARE).
- The last turn's trees are compared with the source by rsync; what differs is shown.

Needs room for five times the corpus on the file system of --work (default: /var/tmp). Python 3.11, standard library only.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

# Nothing is to appear beside the sources.
sys.dont_write_bytecode = True

import contenders  # noqa: E402
import corpora  # noqa: E402
import floors  # noqa: E402
import report  # noqa: E402
from clock import Failed, run  # noqa: E402

#: More entries than this are restored onto a file system of their own.
MANY_ENTRIES = 1000


class Scratch:
    """Directories for restores, and what is to be given back in the end."""

    def __init__(self, work, many_bytes):
        self.work, self.mounted = work, []
        self.image_bytes = many_bytes * 3 + (1 << 30)
        self.can_mount = os.geteuid() == 0 and shutil.which("mkfs.ext4") is not None

    def fresh(self, name, many):
        """An empty directory that held nothing before, below one whose name begins like this."""
        out = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".out", dir=self.work))
        if many and self.can_mount:
            image = out.with_suffix(".ext4")
            with open(image, "wb") as file:
                file.truncate(self.image_bytes)
            subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-i", "8192", "-E", "lazy_itable_init=0,lazy_journal_init=0",
                            image], check=True)
            done = subprocess.run(["mount", "-o", "loop", image, out], check=False, capture_output=True)
            if done.returncode == 0:
                self.mounted.append((out, image))
                (out / "lost+found").rmdir()
                inner = out / "out"
                inner.mkdir()
                return inner
            self.can_mount = False
            image.unlink()
        return out

    def give_back(self):
        """Unmounts, and empties what cannot be deleted without disturbing what comes after."""
        for out, image in self.mounted:
            subprocess.run(["umount", out], check=True)
            image.unlink()
        self.mounted.clear()
        for path in self.work.glob("*.out"):
            subprocess.run(["find", path, "-type", "f", "-size", "+1M", "-exec", "truncate", "-s", "0", "{}", "+"],
                           check=True)


def warm(path):
    """Reads all of it, so that it is in the page cache."""
    with subprocess.Popen(["tar", "-C", path.parent, "-cf", "-", path.name], stdout=subprocess.PIPE) as tar:
        while tar.stdout.read(1 << 20):
            pass


def difference(tree, restored):
    """What rsync finds different, a few lines of it."""
    done = subprocess.run(["rsync", "-aHn", "--delete", "--checksum", "--itemize-changes", f"{tree}/", f"{restored}/"],
                          capture_output=True, text=True, check=False)
    return "\n".join((done.stdout + done.stderr).splitlines()[:10])


class Comparison:
    """All figures of one corpus."""

    def __init__(self, options, work, corpus, tree, tools):
        self.options, self.work, self.corpus, self.tree = options, work, corpus, tree
        self.env = contenders.environment(work)
        self.bytes, self.files = corpora.size(tree)
        self.scratch = Scratch(work, self.bytes + self.files * 4096)
        self.many = self.files > MANY_ENTRIES
        self.figures = {}
        self.left_out = {}
        self.syncing = {tool.name for tool in tools if tool.syncs}

    def note(self, tool, work, figure):
        """Keeps one figure, and says it."""
        self.figures.setdefault(work, {}).setdefault(tool, []).append(figure)
        text = figure if isinstance(figure, float) else figure.wall
        print(f"  {self.corpus:8} {work:22} {tool:18} {text:8.3f}", flush=True)

    def measure(self, tool, work, commands, **how):
        """Runs and keeps."""
        done = run(commands, env=self.env, **how)
        self.note(tool, work, done)
        return done

    def turn(self, number, tools):
        """One turn of all tools, and of what the machine allows."""
        archives = {}
        for tool in tools:
            archive = self.work / f"{self.corpus}-{tool.name.replace(' ', '-')}-{number}"
            try:
                tool.prepare(archive, {**os.environ, **self.env})
                warm(self.tree)
                self.measure(tool.name, "pack", tool.pack(self.tree.name, archive), cwd=self.tree.parent)
                archives[tool.name] = archive
                self.note(tool.name, "output", float(stored(archive)))
                if tool.repeats:
                    warm(self.tree)
                    self.measure(tool.name, "again", tool.pack(self.tree.name, archive), cwd=self.tree.parent)
            except (Failed, subprocess.CalledProcessError) as error:
                self.left_out[tool.name] = str(error)
                print(f"  {tool.name}: {error}", flush=True)
        for name, seconds in floors.packing(self, archives["flint-pipe"]):
            self.note(name, "floor", seconds)
        for tool in tools:
            if tool.name in archives:
                self.restore(tool, archives[tool.name], number == self.options.turns)
        for name, seconds in floors.restoring(self, archives["flint-pipe"]):
            self.note(name, "floor", seconds)
        self.ways_of_reading(archives["flint-pipe"])
        for archive in self.work.glob(f"{self.corpus}-*-{number}*"):
            subprocess.run(["rm", "-rf", "--", archive], check=True)
        self.scratch.give_back()

    def restore(self, tool, archive, is_last):
        """One tool's way back."""
        out = self.scratch.fresh("restored", self.many)
        warm(next(iter(sorted(archive.parent.glob(f"{archive.name}*")))))
        try:
            self.measure(tool.name, "restore", tool.restore(archive, self.tree.parent), cwd=out)
        except (Failed, subprocess.CalledProcessError) as error:
            self.left_out[tool.name] = str(error)
            print(f"  {tool.name}: {error}", flush=True)
            return
        if is_last:
            restored = tool.restored(out, self.tree.parent) / self.tree.name
            differs = difference(self.tree, restored)
            if differs:
                print(f"  {tool.name} restored something else:\n{differs}", flush=True)
                self.left_out[f"{tool.name}: restored something else"] = differs
        self.scratch.give_back()

    def ways_of_reading(self, archive):
        """What only flint-pipe is asked: verify, a file, a directory, all names; less memory."""
        flint = [str(self.options.flint_pipe)]
        warm(archive)
        self.measure("flint-pipe", "verify", [[*flint, "verify", "-v", archive, "--progress=never"]])
        if self.corpus == "kernel":
            file = f"{self.tree.name}/kernel/sched/core.c"
            self.measure("flint-pipe", "one file", [[*flint, "get", "-v", archive, "-t", file, "--stdout"]])
            self.measure("flint-pipe", "list a directory", [[*flint, "list", "-v", archive, f"{self.tree.name}/kernel/sched"]])
        if self.many:
            self.measure("flint-pipe", "list all", [[*flint, "list", "-v", archive]])
        warm(self.tree)
        small = self.work / f"{self.corpus}-64M-{self.options.turns}"
        self.measure("flint-pipe", "pack, 64M", [[*flint, "add", "-v", small, "-s", self.tree.name, "--memory", "64M",
                                                 "--progress=never"]], cwd=self.tree.parent)
        small.unlink()


def stored(archive):
    """Bytes of an archive: the lengths of its files."""
    return sum(path.lstat().st_size for found in archive.parent.glob(f"{archive.name}*") for path in
               ([found] if found.is_file() else found.rglob("*")) if path.is_file())


def main():
    """Makes what is needed, runs the turns, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flint_pipe", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("bare", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--only", default="kernel,noise,text")
    parser.add_argument("--tools", help="names of contenders, by commas; flint-pipe is always among them")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--corpora", type=pathlib.Path, default=pathlib.Path("/var/tmp/flint-pipe-corpora"))
    parser.add_argument("--kernel", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/var/tmp"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flint-pipe-compare.", dir=options.work) as directory:
        work = pathlib.Path(directory)
        everyone = contenders.all_of_them(options.flint_pipe, work)
        wanted = set(options.tools.split(",")) | {"flint-pipe"} if options.tools else {tool.name for tool in everyone}
        tools = [tool for tool in everyone if tool.name in wanted and not tool.missing()]
        absent = {tool.name: f"{', '.join(tool.missing())} not installed" for tool in everyone if tool.missing()}
        found, versions = [], {tool.name: tool.version() for tool in tools}
        for corpus in options.only.split(","):
            tree = corpora.find(corpus, options.corpora, options.kernel)
            comparison = Comparison(options, work, corpus, tree, tools)
            comparison.left_out.update(absent)
            try:
                for number in range(1, options.turns + 1):
                    print(f"{corpus}, turn {number} of {options.turns}", flush=True)
                    comparison.turn(number, tools)
            finally:
                comparison.scratch.give_back()
            found.append(comparison)
            print(report.table(comparison), flush=True)
            # After each, so that nothing is lost of what was measured.
            if options.json:
                options.json.write_text(json.dumps(report.as_json(found, versions), indent=1) + "\n", encoding="utf-8")
        print("\n".join(f"{name}: {version}" for name, version in versions.items()))


if __name__ == "__main__":
    main()
