"""What do all scenarios stand on? The program run under a time limit, trees to store, and the oracle.

The oracle is `Vault`: it knows which trees the program has said are stored, and what each of them holds. After whatever
was done to the program, `Vault.check` asks whether that is still true.
"""

import collections
import contextlib
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

# A program that is slower than this hangs: nothing here takes it a tenth of that, on two busy cores.
LIMIT_SECS = 120


class Broken(Exception):
    """A promise does not hold."""


class Skip(Exception):
    """Something is missing here that the scenario needs."""


@dataclass
class Outcome:
    """How a run of the program ended; a negative status is a signal."""

    status: int
    out: str
    err: str
    command: list

    def expect(self, *allowed):
        """Complains of any status but these."""
        if self.status not in allowed:
            raise Broken(f"ends with {self.status}, not {' or '.join(map(str, allowed))}: {self}")
        return self

    def result(self):
        """What --json printed; an empty object where the run did not come to that."""
        try:
            return json.loads(self.out.splitlines()[-1])
        except (IndexError, ValueError):
            return {}

    def __str__(self):
        return f"{' '.join(map(str, self.command))}\n{self.err[-2000:]}"


class Program:
    """The binary under torture."""

    def __init__(self, path, environment=None):
        self.path = path
        self.environment = {"PATH": os.environ["PATH"], "FLINT_PASSWORD": "torture", **(environment or {})}

    def start(self, *arguments, prefix=()):
        """Starts it, in a process group of its own, so that what it is run by ends with it."""
        command = [*map(str, prefix), self.path, *map(str, arguments)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=self.environment, start_new_session=True)

    def end(self, process, may_die_of=(), limit=LIMIT_SECS):
        """Waits for it. What no run may do is looked for here: hang, panic, die of a signal that nobody sent."""
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise Broken(f"hangs: not done after {limit} s: {' '.join(process.args)}") from None
        outcome = Outcome(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"), process.args)
        # Where memory may be missing for anything, the runtime itself panics, as when it starts a thread.
        if "panicked" in outcome.err and signal.SIGABRT not in may_die_of:
            raise Broken(f"panics: {outcome}")
        # A shell's and strace's way of telling is 128 and the signal.
        died_of = -outcome.status if outcome.status < 0 else outcome.status - 128 if outcome.status > 130 else None
        if died_of is not None and died_of not in may_die_of:
            raise Broken(f"dies of signal {died_of}: {outcome}")
        if outcome.status == 1 and "flint-pipe: error:" not in outcome.err:
            raise Broken(f"fails and does not say why: {outcome}")
        return outcome

    def run(self, *arguments, prefix=(), may_die_of=(), limit=LIMIT_SECS):
        """All of the above."""
        return self.end(self.start(*arguments, prefix=prefix), may_die_of, limit)

    def run_killed(self, *arguments, after):
        """Runs it for `after` seconds and kills it, unless it is done by then."""
        process = self.start(*arguments)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        return self.end(process, [signal.SIGKILL])


def look(root):
    """What is below `root`: name -> (type, size, what tells one content from another)."""
    found = {}
    for parent, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(parent, name)
            info = os.lstat(path)
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, root)] = ("file", info.st_size,
                                                         hashlib.file_digest(file, "sha256").hexdigest())
            elif stat.S_ISLNK(info.st_mode):
                found[os.path.relpath(path, root)] = ("symlink", 0, os.readlink(path))
            else:
                found[os.path.relpath(path, root)] = ("dir", 0, "")
    return found


class Tree:
    """A directory with a bit of everything, its content drawn from `rng`; read-only from then on."""

    def __init__(self, place, name, rng, large=600_000):
        self.place, self.name = Path(place), name
        root = self.place / name
        (root / "sub" / "empty").mkdir(parents=True)
        for number in range(rng.randrange(1, 5)):
            (root / "sub" / f"small{number}").write_bytes(b"a line of text\n" * rng.randrange(2000))
        (root / "noise").write_bytes(rng.randbytes(rng.randrange(large)))
        (root / "link").symlink_to("sub/nowhere")
        self.sight = {name: ("dir", 0, ""), **{f"{name}/{path}": what for path, what in look(root).items()}}

    @property
    def sources(self):
        """The arguments that name it."""
        return ["-C", self.place, "-s", self.name]


THERE, ABSENT = True, False


def is_as_it_was(outcome):
    """Whether the program says that it has not changed the vault: it ended by itself, and not of a root half written."""
    return outcome.status > 0 and "may or may not" not in outcome.err


@dataclass
class Vault:
    """A vault, and what must be in it."""

    program: Program
    path: Path
    scratch: Path
    # Which of THERE and ABSENT a tree may be: both only until the next check.
    may_be: dict = field(default_factory=dict)
    # Names that a run has said it could not store.
    holes: set = field(default_factory=set)
    additions: int = 0

    def create(self):
        """Makes it, with the cheapest key derivation that there is."""
        arguments = ["create", "-v", self.path, "--kdf-memory", "19M", "--kdf-time", "2"]
        self.program.run(*arguments).expect(0)
        return self

    def copy(self, path):
        """Another vault of the same content."""
        shutil.copyfile(self.path, path)
        return Vault(self.program, Path(path), self.scratch, dict(self.may_be), set(self.holes), self.additions)

    def tree(self, rng, name=None, **how):
        """A new tree to be added."""
        self.additions += 1
        place = self.scratch / f"source{time.monotonic_ns()}"
        return Tree(place, name or f"tree{self.additions}", rng, **how)

    def add(self, tree, *options, run=None, **how):
        """Adds it in some way, and remembers what was answered."""
        self.may_be[tree] = {THERE, ABSENT}
        arguments = ["add", "-v", self.path, "--json", "--chunk-size", "256K", *tree.sources, *options]
        outcome = (run or self.program.run)(*arguments, **how)
        self.took(tree, outcome)
        return outcome

    def took(self, tree, outcome):
        """What an `add` has said of a tree."""
        if outcome.status in (0, 3):
            self.may_be[tree] = {THERE}
            self.holes |= {str(error["path"]) for error in outcome.result().get("errors", [])}
        elif is_as_it_was(outcome):
            self.may_be[tree] = {ABSENT}

    def remove(self, tree, run=None, **how):
        """Removes a tree, and remembers what was answered."""
        self.may_be[tree] = {THERE, ABSENT}
        outcome = (run or self.program.run)("remove", "-v", self.path, "-t", tree.name, **how)
        if outcome.status == 0:
            self.may_be[tree] = {ABSENT}
        elif is_as_it_was(outcome):
            self.may_be[tree] = {THERE}
        return outcome

    def listed(self):
        """What the newest snapshot has: tree -> name -> (type, size)."""
        trees = {}
        for line in self.program.run("list", "-v", self.path, "--json").expect(0).out.splitlines():
            entry = json.loads(line)
            size = entry["size"] if entry["type"] == "file" else 0
            trees.setdefault(entry["path"].split("/")[0], {})[entry["path"]] = (entry["type"], size)
        return trees

    def is_hole(self, tree, path):
        """A run has said that it could not store this, or something above it."""
        full = str(tree.place / path)
        return any(full == hole or full.startswith(f"{hole}/") or path == hole for hole in self.holes)

    def check(self):
        """Everything that was acknowledged is there and whole, nothing is there by half, and the next `add` works."""
        if not self.path.exists():
            lost = [tree.name for tree, may_be in self.may_be.items() if ABSENT not in may_be]
            if lost:
                raise Broken(f"the vault is gone, and with it {lost}")
            return
        self.program.run("verify", "-v", self.path).expect(0)
        listed = self.listed()
        for tree, may_be in self.may_be.items():
            there = tree.name in listed
            if there not in may_be:
                raise Broken(f"{tree.name} is {'there' if there else 'lost'}, against what was answered")
            self.may_be[tree] = {there}
            if there:
                self.is_whole(tree, {path: what[:2] for path, what in tree.sight.items()}, listed[tree.name], "listed")
        strangers = listed.keys() - {tree.name for tree in self.may_be}
        if strangers:
            raise Broken(f"nobody added {sorted(strangers)}")
        self.check_content()
        after = self.tree(random.Random(0), f"after{self.additions}", large=5000)
        self.add(after).expect(0)
        if after.name not in self.listed():
            raise Broken("what was added after it is not there")

    def check_content(self):
        """What comes back is what was stored, byte for byte."""
        out = self.scratch / f"out{time.monotonic_ns()}"
        try:
            self.program.run("extract", "-v", self.path, "-o", out).expect(0)
            found = look(out)
            for tree, may_be in self.may_be.items():
                if may_be == {THERE}:
                    restored = {path: what for path, what in found.items() if path.split("/")[0] == tree.name}
                    self.is_whole(tree, tree.sight, restored, "restored")
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def is_whole(self, tree, expected, found, how):
        for path in expected.keys() | found.keys():
            if expected.get(path) != found.get(path) and not self.is_hole(tree, path):
                raise Broken(f"{path} is {how} as {found.get(path)}, not as {expected.get(path)}")


class Place:
    """What a round of a scenario has: a directory of its own, a seeded generator, the program, counters, its number."""

    def __init__(self, program, directory, rng, counts, number):
        self.program, self.directory, self.rng, self.counts = program, Path(directory), rng, counts
        self.number = number
        self.cleanup = contextlib.ExitStack()

    def vault(self, path=None, trees=1):
        """A new vault that holds so many trees."""
        vault = Vault(self.program, Path(path or self.directory / "vault.flint"), self.directory / "scratch").create()
        for _ in range(trees):
            vault.add(vault.tree(self.rng)).expect(0)
        return vault

    def mount(self, *arguments):
        """Mounts something on a new directory, until the round ends."""
        if os.geteuid() != 0:
            raise Skip("only root may mount")
        point = self.directory / f"mount{time.monotonic_ns()}"
        point.mkdir()
        done = subprocess.run(["mount", *map(str, arguments), point], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Skip(f"nothing can be mounted here: {done.stderr.strip()}")
        self.cleanup.callback(unmount, point)
        return point

    def image(self, mib):
        """An ext4 file system in a file."""
        if shutil.which("mkfs.ext4") is None:
            raise Skip("there is no mkfs.ext4 (Debian: e2fsprogs)")
        image = self.directory / f"image{time.monotonic_ns()}"
        with open(image, "wb") as file:
            file.truncate(mib << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        return image


def unmount(point):
    """Unmounts it, busy or not; a loop device that `mount -o loop` made goes with it."""
    if not os.path.ismount(point):
        return
    for _ in range(50):
        if subprocess.run(["umount", point], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "--lazy", point], check=False)


@functools.cache
def why_no_strace():
    """What keeps strace from working here; None where it works."""
    if shutil.which("strace") is None:
        return "there is no strace"
    probe = subprocess.run(["strace", "--quiet=all", "--output=/dev/null", "true"], capture_output=True, check=False)
    return f"strace cannot trace here: {probe.stderr.decode().strip()}" if probe.returncode else None


def strace(*injections, output="/dev/null", trace=None):
    """What the program is run by so that things go wrong with its system calls.

    An injection is `CALL:what=..:when=N`, where N counts the calls of one thread.
    """
    if why_no_strace():
        raise Skip(why_no_strace())
    names = trace or ",".join(injection.split(":")[0] for injection in injections)
    return ["strace", "--follow-forks", "--quiet=all", f"--output={output}", f"--trace={names}",
            *(f"--inject={injection}" for injection in injections)]


def calls_of(directory, names, operation):
    """How often an operation makes each of these system calls, at most in one thread: that is how strace counts them."""
    log = directory / "calls"
    operation(prefix=strace(output=log, trace=names))
    calls, most = collections.Counter(), collections.Counter()
    for line in log.read_text(errors="replace").splitlines():
        thread, call = line.split(None, 1)
        # Calls that strace has no name for come unasked.
        if (name := call.split("(")[0]) in names.split(","):
            calls[name, thread] += 1
    for (name, _), count in calls.items():
        most[name] = max(most[name], count)
    return dict(most)


SCENARIOS = []


def scenario(short):
    """Enters a function into the list of scenarios; its name and first line are the scenario's.

    - `short`: how many rounds the short form has.
    """
    def enter(function):
        SCENARIOS.append((function, short))
        return function
    return enter
