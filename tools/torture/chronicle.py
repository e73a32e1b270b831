"""What must be in a vault that is written anew, or of which the keys change, whatever becomes of that?

`Chronicle` is the oracle of `compact`, `rekey` and `key`: a vault of four snapshots and two passwords that is known byte
by byte. What an operation has answered says in which states it may be afterwards; `Chronicle.check` asks for everything
that one of them promises: passwords, snapshots, their content, no file beside it, and that the next command that writes
works. A file that is still the same byte by byte needs no asking: that was done when it was made.
"""

import json
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from harness import Broken, Program, Tree, is_as_it_was, look

CHEAP = ["--kdf-memory", "19M", "--kdf-time", "2"]
PASSWORDS = ["torture", "second", "new", "third"]
# Where the copies of the header and of the root are in the file: nothing else changes when keys do.
HEADERS = [(0, 16 << 10), (32 << 10, 48 << 10)]
# What `verify` may find after a change of the keys that was cut short.
OF_A_HEADER = "the copy of the header at byte"


@dataclass(frozen=True)
class State:
    """What a vault has: number of a snapshot -> what it holds, and which of PASSWORDS open it."""

    snapshots: dict
    opens: frozenset

    def __str__(self):
        return f"snapshots {sorted(self.snapshots)}, open with {sorted(self.opens)}"


@dataclass(frozen=True)
class Operation:
    """A command that is not to be done by half."""

    arguments: list
    # Which passwords open the vault then.
    opens: tuple = ("torture", "second")
    # How many of the newest snapshots stay.
    keeps: int = 1 << 30
    # A new file takes the place of the old one; otherwise headers are written where they are.
    replaces: bool = False

    def after(self, state):
        """What it makes of a vault."""
        stay = sorted(state.snapshots)[-self.keeps:]
        return State({number: state.snapshots[number] for number in stay}, frozenset(self.opens))


NEW = ["--new-password-file", "new", *CHEAP]
OPERATIONS = {
    "compact --keep-all": Operation(["compact", "--keep-all"], replaces=True),
    "compact --keep-last 2": Operation(["compact", "--keep-last", "2"], keeps=2, replaces=True),
    "rekey": Operation(["rekey", *NEW], opens=("new",), replaces=True),
    "key passwd": Operation(["key", "passwd", *NEW], opens=("new", "second")),
    "key add": Operation(["key", "add", *NEW, "--label", "new"], opens=("torture", "second", "new")),
    "key remove": Operation(["key", "remove", "--label", "second"], opens=("torture",)),
    "key import": Operation(["key", "import", "-i", "saved"], opens=("torture",)),
}


def write_small_files(tree, rng):
    """Files that share a chunk, of which hardly anything stays when most of them are removed."""
    crowd = tree.place / tree.name / "crowd"
    crowd.mkdir()
    for number in range(40):
        (crowd / f"{number}").write_bytes(rng.randbytes(5000))
    tree.sight = {tree.name: ("dir", 0, ""),
                  **{f"{tree.name}/{path}": what for path, what in look(tree.place / tree.name).items()}}


BASE = {}


def base(program, scratch):
    """The bytes of the vault that every chronicle begins with, those of a header from before its second password, and
    its state; made once."""
    if program.path not in BASE:
        with tempfile.TemporaryDirectory(dir=scratch) as directory:
            BASE[program.path] = make_base(program, Path(directory))
    return BASE[program.path]


def make_base(program, directory):
    """The same, made there."""
    rng = random.Random(0)
    path, second = directory / "vault.flint", directory / "second"
    program.run("create", "-v", path, *CHEAP).expect(0)
    program.run("key", "export", "-v", path, "-o", directory / "saved").expect(0)
    second.write_text("second\n")
    program.run("key", "add", "-v", path, "--new-password-file", second, "--label", "second", *CHEAP).expect(0)
    stays, partly, late = (Tree(directory / name, name, rng, large=400_000) for name in ["stays", "partly", "late"])
    write_small_files(partly, rng)
    gone = [f"partly/crowd/{number}" for number in range(2, 40)]
    for arguments in [["add", *stays.sources], ["add", *partly.sources],
                      ["remove", *(word for name in gone for word in ("-t", name))], ["add", *late.sources]]:
        level = ["--chunk-size", "256K"] if arguments[0] == "add" else []
        program.run(arguments[0], "-v", path, *arguments[1:], *level).expect(0)
    rest = {name: what for name, what in partly.sight.items() if name not in gone}
    snapshots = {1: stays.sight, 2: stays.sight | partly.sight, 3: stays.sight | rest,
                 4: stays.sight | rest | late.sight}
    state = State(snapshots, frozenset(["torture", "second"]))
    # Asked once of what everything is compared with.
    made = Chronicle(program, path, directory, b"", state)
    made.find([state])
    made.is_sound("torture")
    made.holds(state, "torture")
    return path.read_bytes(), (directory / "saved").read_bytes(), state


class Chronicle:
    """A vault, and what must be in it."""

    def __init__(self, program, path, scratch, image, state):
        self.program, self.path, self.scratch, self.image, self.state = program, Path(path), Path(scratch), image, state

    @classmethod
    def begin(cls, place, directory=None):
        """A fresh one in a directory of its own, or in this one."""
        directory = Path(directory or place.directory / "chronicle")
        directory.mkdir(exist_ok=True)
        image, saved, state = base(place.program, place.directory)
        for name, content in [("new", b"new\n"), ("third", b"third\n"), ("saved", saved)]:
            (place.directory / name).write_bytes(content)
        chronicle = cls(place.program, directory / "vault.flint", place.directory, image, state)
        chronicle.rewind()
        return chronicle

    def rewind(self):
        """It is what it was, whatever has been done to it."""
        for path in self.beside():
            path.unlink()
        self.path.unlink(missing_ok=True)
        self.path.write_bytes(self.image)
        self.path.chmod(0o600)

    def command(self, name, *options):
        """The arguments that run an operation of that name on it."""
        files = {"new", "third", "saved"}
        words = OPERATIONS[name].arguments if isinstance(name, str) else name
        words = [self.scratch / word if word in files and before in ("-i", "--new-password-file") else word
                 for before, word in zip(["", *words], words)]
        verb = 2 if words[0] == "key" else 1
        return [*words[:verb], "-v", self.path, *words[verb:], *options]

    def run(self, name, *options, run=None, **how):
        """Runs an operation; see `allowed`."""
        return (run or self.program.run)(*self.command(name, *options), **how)

    def allowed(self, name, outcome):
        """In which states the vault may be after an operation that was answered so."""
        after = OPERATIONS[name].after(self.state)
        if outcome.status == 0 or "the keys are changed, but" in outcome.err:
            return [after]
        return [self.state] if is_as_it_was(outcome) else [self.state, after]

    def beside(self):
        """Temporary files of this vault."""
        return sorted(self.path.parent.glob(f".{self.path.name}.*.tmp"))

    def opened_by(self, password):
        """The program, run with that password."""
        return Program(self.program.path, {**self.program.environment, "FLINT_PASSWORD": password})

    def check(self, name, allowed, rng, spare_may_be_bad=False, may_lie_beside=False):
        """The vault is whole, in one of these states, and goes on from there; answers which.

        - `spare_may_be_bad`: the run was cut short, in which one copy of the header may have been on its way.
        - `may_lie_beside`: it was killed, so a file without its final name may have stayed until the next run.
        """
        image, beside = self.path.read_bytes(), self.beside()
        if beside and not may_lie_beside:
            raise Broken(f"{[path.name for path in beside]} is left beside the vault")
        if image == self.image:
            if self.state not in allowed:
                raise Broken(f"{name} was acknowledged, and the file is byte by byte what it was")
            if not beside:
                return self.state
            state, is_mended = self.state, True
        elif OPERATIONS[name].replaces and all(state is self.state for state in allowed):
            raise Broken(f"{name} has said that all is as it was, and the file is another one")
        else:
            state = self.find(allowed)
            password = rng.choice(sorted(state.opens))
            if not OPERATIONS[name].replaces:
                self.changed_only_in_headers(image)
            is_mended = self.is_sound(password, spare_may_be_bad)
            if OPERATIONS[name].replaces:
                self.holds(state, password)
        self.goes_on(state, rng, is_mended)
        return state

    def find(self, allowed):
        """Which of the states it is in, by its passwords and the numbers of its snapshots."""
        opens, numbers = set(), None
        # A third one is only tried where there may be one.
        for password in PASSWORDS if any("third" in state.opens for state in allowed) else PASSWORDS[:3]:
            outcome = self.opened_by(password).run("list", "-v", self.path, "--snapshots", "--json").expect(0, 12)
            if outcome.status == 0:
                opens.add(password)
                numbers = sorted(json.loads(line)["snapshot"] for line in outcome.out.splitlines())
        for state in allowed:
            if state.opens == opens and sorted(state.snapshots) == numbers:
                return state
        raise Broken(f"it has snapshots {numbers} and opens with {sorted(opens)}, where was allowed: "
                     f"{' or '.join(map(str, allowed))}")

    def is_sound(self, password, spare_may_be_bad=False):
        """`verify` says 0; or, where that is allowed, that one copy of the header is bad: answers whether it said 0."""
        outcome = self.opened_by(password).run("verify", "-v", self.path)
        outcome.expect(0, *([13] if spare_may_be_bad else []))
        errors = [line for line in outcome.err.splitlines() if line.startswith("flint-pipe: error:")]
        if outcome.status and not (len(errors) == 1 and OF_A_HEADER in errors[0]):
            raise Broken(f"verify finds more than a spare copy of the header: {outcome}")
        return outcome.status == 0

    def changed_only_in_headers(self, image):
        """A change of the keys writes nothing but the two copies of the header."""
        def rest(whole):
            (_, first), (begins, ends) = HEADERS
            return whole[first:begins] + whole[ends:]
        if rest(image) != rest(self.image):
            raise Broken("a change of the keys has written to more than the headers")

    def holds(self, state, password):
        """Every snapshot comes back as it was stored, byte for byte."""
        for number, sight in state.snapshots.items():
            self.restores(sight, password, "--at", number)

    def restores(self, sight, password, *options):
        """What comes back is this."""
        out = self.scratch / f"out{time.monotonic_ns()}"
        try:
            self.opened_by(password).run("extract", "-v", self.path, "-o", out, *options).expect(0)
            is_same(sight, look(out), f"restored with {' '.join(map(str, options))}")
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def goes_on(self, state, rng, is_mended=True):
        """The next command that writes works, and takes away what a killed one has left; the next change of the keys
        writes both copies of the header."""
        program = self.opened_by(rng.choice(sorted(state.opens)))
        numbers = sorted(state.snapshots)
        if rng.random() < 0.5:
            (self.scratch / "afterwards").write_bytes(b"afterwards")
            done = program.run("add", "-v", self.path, "--json", "-C", self.scratch, "-s", "afterwards").expect(0)
            found, expected = done.result()["snapshot"], numbers[-1] + 1
        else:
            done = program.run("compact", "-v", self.path, "--json", "--keep-all").expect(0)
            found, expected = done.result()["compaction"]["kept"], numbers
            # It writes both copies of the header.
            is_mended = True
        if found != expected:
            raise Broken(f"snapshot {found}, not {expected}, comes of the next command that writes: {done}")
        if self.beside():
            raise Broken(f"{[path.name for path in self.beside()]} is still there after the next command that writes: {done}")
        if not is_mended:
            program.run(*self.command(["key", "add", "--new-password-file", "third", *CHEAP])).expect(0)
        program.run("verify", "-v", self.path).expect(0)


def is_same(expected, found, how):
    """No name more or less, and of each the same content."""
    for path in expected.keys() | found.keys():
        if expected.get(path) != found.get(path):
            raise Broken(f"{path} is {how} as {found.get(path)}, not as {expected.get(path)}")
