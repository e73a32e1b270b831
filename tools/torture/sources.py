"""What is stored of files that change while they are read?"""

import os
import shutil
import threading

from harness import Broken, Vault, scenario

BLOCK = 4096


def block(version, number):
    """A block of a file that says which version it is of; its other bytes depend on its place alone."""
    return version.to_bytes(8, "little") + bytes([number % 251 + 1]) * (BLOCK - 8)


def is_state(content):
    """Whether a file that is always written from its beginning on ever held just this: newer blocks, then older ones."""
    versions = []
    for number in range(0, len(content), BLOCK):
        piece = content[number:number + BLOCK]
        version = int.from_bytes(piece[:8].ljust(8, b"\0"), "little")
        if piece != block(version, number // BLOCK)[:len(piece)]:
            return False
        versions.append(version)
    return all(a >= b for a, b in zip(versions, versions[1:])) and (not versions or versions[0] - versions[-1] <= 1)


class Mutator(threading.Thread):
    """Rewrites, cuts, fills, replaces and removes files below a directory until it is told to stop."""

    def __init__(self, root, rng):
        super().__init__()
        self.root, self.rng, self.version = root, rng, 1
        self.is_over = threading.Event()

    def run(self):
        while not self.is_over.is_set():
            self.version += 1
            try:
                self.rewrite("rewritten", 300)
                self.rewrite("small", 3)
                self.change("changing")
                if self.rng.random() < 0.05:
                    shutil.rmtree(self.root / "sub", ignore_errors=True)
                (self.root / "sub" / "deep").mkdir(parents=True, exist_ok=True)
                (self.root / "sub" / "deep" / "file").write_bytes(block(self.version, 0))
            except OSError:
                # Its own doing: what it has just replaced is no file any more.
                pass
            self.is_over.wait(self.rng.uniform(0, 0.003))

    def rewrite(self, name, blocks):
        """A new version, in place, block by block from the beginning on."""
        file = os.open(self.root / name, os.O_WRONLY | os.O_CREAT)
        for number in range(blocks):
            os.pwrite(file, block(self.version, number), number * BLOCK)
        os.close(file)

    def change(self, name):
        """Something else each time."""
        path = self.root / name
        what = self.rng.randrange(6)
        if what < 2 and path.is_file() and not path.is_symlink():
            os.truncate(path, self.rng.choice([0, 1, 5000, 900_000]))
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        if what == 2:
            os.mkfifo(path)
        elif what == 3:
            path.symlink_to("/etc/passwd")
        elif what == 4:
            path.mkdir()
        else:
            path.write_bytes(block(self.version, 0) * 200)


@scenario(short=2)
def a_tree_that_changes(place):
    """Files are rewritten, cut, replaced and removed under an `add`: what it does not name is one state of the file."""
    source = place.directory / "source"
    source.mkdir()
    vault = Vault(place.program, place.directory / "vault.flint", place.directory / "scratch").create()
    mutator = Mutator(source, place.rng)
    mutator.start()
    try:
        for _ in range(6):
            mode, workers = place.rng.choice(["mmap", "read"]), place.rng.choice(["1", "2", "8"])
            outcome = place.program.run("add", "-v", vault.path, "--json", "-C", source, "-s", ".", "--chunk-size", "256K",
                                        "--read-mode", mode, "--workers", workers).expect(0, 3)
            place.counts["adds of a tree that changes"] += 1
            named = {os.path.basename(error["path"]) for error in outcome.result()["errors"]}
            place.counts["files named as changed or gone"] += len(named)
            place.program.run("verify", "-v", vault.path).expect(0)
            for name in ["rewritten", "small"]:
                out = place.directory / "out"
                stored = place.program.run("get", "-v", vault.path, "-t", name, "-o", out)
                if stored.status == 0 and name not in named and not is_state((out / name).read_bytes()):
                    raise Broken(f"{name} is stored as a mixture that it never was, and is not named: {outcome}")
    finally:
        mutator.is_over.set()
        mutator.join()
    place.program.run("add", "-v", vault.path, "-C", source, "-s", ".").expect(0)
    place.program.run("verify", "-v", vault.path).expect(0)
