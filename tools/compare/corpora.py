"""What is packed: the kernel's sources, noise, one text file. Found if they were made before, else made."""

import os
import pathlib
import random
import stat
import subprocess

#: Lengths of the four files of noise, in MB: the ancestor's own stress test.
NOISE_MB = (400, 550, 700, 800)
#: The archive of Debian's package of the kernel's sources.
KERNEL_ARCHIVE = pathlib.Path("/usr/src/linux-source-6.1.tar.xz")


class Missing(Exception):
    """A corpus is not there and cannot be made; says what would help."""


def _unpack_kernel(place):
    if not KERNEL_ARCHIVE.exists():
        raise Missing(f"{KERNEL_ARCHIVE} is not there: apt-get install linux-source-6.1, or --kernel DIR")
    subprocess.run(["tar", "-C", place, "--strip-components=1", "-xf", KERNEL_ARCHIVE], check=True)


def _write_noise(place):
    rng = random.Random(1)
    for megabytes in NOISE_MB:
        with open(place / f"noise-{megabytes}.bin", "wb") as file:
            for _ in range(megabytes):
                file.write(rng.randbytes(1_000_000))


def _write_text(place, kernel):
    """All sources of the kernel, one behind the other."""
    with open(place / "text", "wb") as text:
        for source in sorted(kernel.rglob("*")):
            if source.is_file() and not source.is_symlink():
                text.write(source.read_bytes())


def _write_small(place, count):
    """Files of some hundred bytes, a hundred to a directory."""
    rng = random.Random(2)
    for number in range(count):
        if number % 100 == 0:
            directory = place / f"{number // 10_000:03}" / f"{number // 100 % 100:02}"
            directory.mkdir(parents=True)
        (directory / f"file{number:07}.txt").write_bytes(rng.randbytes(rng.randint(50, 150)).hex().encode())


def find(name, base, kernel=None):
    """The directory of a corpus below `base`, made if need be; `kernel` stands in for the tree of that name."""
    if name == "kernel" and kernel:
        return kernel
    place = base / name
    if place.exists():
        return place
    # Under another name until it is whole.
    making = base / f"{name}.making"
    subprocess.run(["rm", "-rf", "--", making], check=True)
    making.mkdir(parents=True)
    print(f"making {place}", flush=True)
    if name == "kernel":
        _unpack_kernel(making)
    elif name == "noise":
        _write_noise(making)
    elif name == "text":
        _write_text(making, find("kernel", base, kernel))
    elif name == "million":
        _write_small(making, 1_000_000)
    else:
        raise Missing(f"no corpus is called {name}")
    making.rename(place)
    return place


def size(tree):
    """Bytes of content, and the number of regular files."""
    total = files = 0
    for directory, _, names in os.walk(tree):
        for name in names:
            found = os.lstat(os.path.join(directory, name))
            if stat.S_ISREG(found.st_mode):
                total, files = total + found.st_size, files + 1
    return total, files
