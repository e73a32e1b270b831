"""Which tools are compared, and how is each told to do the same: pack a tree, encrypted, at zstd's level 3, and restore it?

Each packs the directory NAME below PARENT into ARCHIVE and restores it below OUT. What a tool has for a password is the
same word for all; age and openssl are spared a slow key derivation (age has a key, openssl one pass), which is in their favour.
"""

import dataclasses
import pathlib
import shutil
import subprocess

PASSWORD = "compare"


@dataclasses.dataclass
class Contender:
    """A tool. `commands` in what follows are those of one pipe."""

    name: str
    #: Programs that must be there.
    needs: tuple
    #: Whether a second run stores only what changed.
    repeats: bool = False
    #: Whether what it packed is on the disk when it ends.
    syncs: bool = False

    def missing(self):
        """Which of its programs are not there."""
        return [program for program in self.needs if not shutil.which(program)]

    def version(self):
        """The first line that says so."""
        done = subprocess.run([self.needs[-1], "--version"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            done = subprocess.run([self.needs[-1], "version"], capture_output=True, text=True, check=False)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        return lines[0].strip() if lines else "unknown"

    def prepare(self, archive, env):
        """What is done before the first packing and not measured."""

    def pack(self, name, archive):
        """Commands that run in PARENT."""
        raise NotImplementedError

    def restore(self, archive, parent):
        """Commands that run in OUT; `parent` is where the source lay."""
        raise NotImplementedError

    def restored(self, out, parent):
        """Where the tree's parent is, after a restore."""
        return out


class FlintPipe(Contender):
    """The program itself."""

    def __init__(self, program):
        super().__init__("flint-pipe", (str(program),), repeats=True, syncs=True)

    def pack(self, name, archive):
        return [[self.needs[0], "add", "-v", archive, "-s", name, "--progress=never"]]

    def restore(self, archive, parent):
        return [[self.needs[0], "extract", "-v", archive, "-o", ".", "--progress=never"]]


class Tar(Contender):
    """tar and zstd, and a program that encrypts standard input."""

    def __init__(self, name, program, encrypt, decrypt):
        super().__init__(name, ("tar", "zstd", program))
        self.encrypt, self.decrypt = encrypt, decrypt

    def pack(self, name, archive):
        encrypt = [str(archive) if word == "ARCHIVE" else word for word in self.encrypt]
        return [["tar", "-cf", "-", name], ["zstd", "-q", "-3", "-T2"], encrypt]

    def restore(self, archive, parent):
        decrypt = [str(archive) if word == "ARCHIVE" else word for word in self.decrypt]
        return [decrypt, ["zstd", "-q", "-d"], ["tar", "-xpf", "-"]]


class PlainTar(Contender):
    """Neither compressed nor encrypted."""

    def __init__(self):
        super().__init__("tar", ("tar",))

    def pack(self, name, archive):
        return [["tar", "-cf", archive, name]]

    def restore(self, archive, parent):
        return [["tar", "-xpf", archive]]


class Restic(Contender):
    def __init__(self):
        super().__init__("restic", ("restic",), repeats=True, syncs=True)

    def prepare(self, archive, env):
        subprocess.run(["restic", "-q", "-r", archive, "init"], env=env, check=True)

    def pack(self, name, archive):
        return [["restic", "-q", "-r", archive, "backup", name]]

    def restore(self, archive, parent):
        return [["restic", "-q", "-r", archive, "restore", "latest", "--target", "."]]

    def restored(self, out, parent):
        below = pathlib.Path(str(out) + str(parent))
        return below if below.exists() else out


class Rustic(Restic):
    def __init__(self):
        Contender.__init__(self, "rustic", ("rustic",), repeats=True, syncs=True)

    def prepare(self, archive, env):
        subprocess.run(["rustic", "--log-level=warn", "-r", archive, "init"], env=env, check=True)

    def pack(self, name, archive):
        return [["rustic", "--log-level=warn", "-r", archive, "backup", name]]

    def restore(self, archive, parent):
        return [["rustic", "--log-level=warn", "-r", archive, "restore", "latest", "."]]


class Borg(Contender):
    def __init__(self):
        super().__init__("borg", ("borg",), repeats=True, syncs=True)
        self.archives = {}

    def prepare(self, archive, env):
        subprocess.run(["borg", "init", "-e", "repokey-blake2", archive], env=env, check=True, capture_output=True)

    def pack(self, name, archive):
        # Archives are numbered, and the first is the one that is restored.
        self.archives[archive] = self.archives.get(archive, 0) + 1
        return [["borg", "create", "--compression", "zstd,3", f"{archive}::{self.archives[archive]}", name]]

    def restore(self, archive, parent):
        return [["borg", "extract", f"{archive}::1"]]


class Pna(Contender):
    def __init__(self, solid):
        super().__init__("pna solid" if solid else "pna", ("pna",))
        self.solid = ["--solid"] if solid else []

    def pack(self, name, archive):
        return [["pna", "--quiet", "create", *self.solid, "--zstd", "3", "--aes", "ctr", "--password", PASSWORD,
                 "--keep-dir", "--keep-timestamp", "--keep-permission", "-f", archive, "-r", name]]

    def restore(self, archive, parent):
        return [["pna", "--quiet", "extract", "--password", PASSWORD, "--keep-timestamp", "--keep-permission",
                 "--allow-unsafe-links", "-f", archive]]


class SevenZip(Contender):
    """LZMA2 at its fastest: it has no zstd."""

    def __init__(self):
        super().__init__("7zz -mx1", ("7zz",))

    def version(self):
        done = subprocess.run(["7zz"], capture_output=True, text=True, check=False)
        return next(line for line in done.stdout.splitlines() if line.strip()).strip()

    def pack(self, name, archive):
        return [["7zz", "a", "-t7z", "-mx1", "-snl", f"-p{PASSWORD}", "-mhe=on", "-bd", f"{archive}.7z", name]]

    def restore(self, archive, parent):
        return [["7zz", "x", "-snl", f"-p{PASSWORD}", "-bd", f"{archive}.7z"]]


def environment(work):
    """What the tools are told by variables: passwords, and caches of their own."""
    return {
        "FLINT_PASSWORD": PASSWORD, "RESTIC_PASSWORD": PASSWORD, "RUSTIC_PASSWORD": PASSWORD, "BORG_PASSPHRASE": PASSWORD,
        "RESTIC_CACHE_DIR": f"{work}/cache/restic", "RUSTIC_CACHE_DIR": f"{work}/cache/rustic",
        "BORG_BASE_DIR": f"{work}/cache/borg", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes", "RUSTIC_NO_PROGRESS": "true",
        "OPENSSL_PASSWORD": PASSWORD,
    }


def all_of_them(program, work):
    """Every contender, the program itself first."""
    key = work / "age.key"
    recipient = "none"
    if shutil.which("age-keygen"):
        subprocess.run(["age-keygen", "-o", key], check=True, capture_output=True)
        recipient = subprocess.run(["age-keygen", "-y", key], check=True, capture_output=True, text=True).stdout.strip()
    openssl = ["openssl", "enc", "-aes-256-ctr", "-pbkdf2", "-iter", "1", "-pass", "env:OPENSSL_PASSWORD"]
    return [
        FlintPipe(program),
        Tar("tar zstd openssl", "openssl", [*openssl, "-out", "ARCHIVE"], [*openssl, "-d", "-in", "ARCHIVE"]),
        Tar("tar zstd age", "age", ["age", "-r", recipient, "-o", "ARCHIVE"], ["age", "-d", "-i", str(key), "ARCHIVE"]),
        Pna(solid=True), Pna(solid=False), Restic(), SevenZip(), Borg(), Rustic(), PlainTar(),
    ]
