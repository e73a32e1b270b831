"""What is left when the disk is full, or loses power?"""

import fcntl
import os
import random
import struct
import subprocess
import threading
import time

from harness import Broken, Vault, scenario, unmount

# ext4's ioctl to stop at once, as a power cut would, and its flags: the journal is written before, or is not.
EXT4_IOC_SHUTDOWN = 0x8004587D
LOGFLUSH, NOLOGFLUSH = 1, 2
# After so many a new file system is made.
CUTS_PER_DISK = 10


@scenario(short=1)
def a_full_tmpfs(place):
    """More than fits into a small tmpfs, then next to nothing left; once there is room, the next `add` works."""
    fill_up(place, place.mount("-t", "tmpfs", "-o", "size=12m", "tmpfs"), 12)


@scenario(short=1)
def a_full_ext4(place):
    """The same on a small ext4."""
    fill_up(place, place.mount("-o", "loop", place.image(48)), 48)


def fill_up(place, disk, mib):
    """Adds what does not fit, to a vault that is there and to one that is not; then at the last free bytes."""
    vault = Vault(place.program, disk / "vault.flint", place.directory / "scratch").create()
    vault.add(vault.tree(place.rng)).expect(0)
    large = vault.tree(place.rng, large=1)
    (large.place / large.name / "noise").write_bytes(place.rng.randbytes((mib + 4) << 20))
    before = free(disk)
    for target in [vault, Vault(place.program, disk / "new.flint", vault.scratch)]:
        outcome = target.add(large, "--level", "store").expect(1)
        if "No space left" not in outcome.err:
            raise Broken(f"does not say that there is no space left: {outcome}")
        place.counts["adds that did not fit"] += 1
    if (disk / "new.flint").exists():
        raise Broken("a vault that nothing was added to is left on a full disk")
    if free(disk) < before - (64 << 10):
        raise Broken(f"{before - free(disk)} bytes were not given back")
    for _ in range(4):
        # Little is left, of which a commit takes some: whether it fits is the program's to find out in time.
        filler = disk / "filler"
        leave = place.rng.randrange(1 << 20)
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free(disk) - leave, 1))
        outcome = vault.add(vault.tree(place.rng)).expect(0, 1)
        place.counts["adds on the last bytes that failed" if outcome.status else "adds on the last bytes that fitted"] += 1
        place.program.run("verify", "-v", vault.path).expect(0)
        filler.unlink()
        vault.check()


def free(disk):
    """Bytes that are free there, once what was given back has been taken back."""
    os.sync()
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


@scenario(short=1)
def power_cuts(place):
    """One to four writers on a file system that loses power at a random moment, again and again on the same vault."""
    image = place.image(192)
    disk = place.mount("-o", "loop", image)
    vault = Vault(place.program, disk / "vault.flint", place.directory / "scratch")
    if place.rng.random() < 0.7:
        vault.create()
    for _ in range(CUTS_PER_DISK):
        cut(place, vault, disk)
        # Whatever is still to be written is lost; the journal is replayed.
        unmount(disk)
        if place.rng.random() < 0.2:
            sound(image)
        subprocess.run(["mount", "-o", "loop", image, disk], check=True)
        acknowledged = sum(may_be == {True} for may_be in vault.may_be.values())
        vault.check()
        place.counts["power cuts"] += 1
        place.counts["acknowledged commits looked for after a cut"] += acknowledged


def cut(place, vault, disk):
    """Writers add tree after tree until the power is gone, and a while beyond."""
    is_gone, failures = threading.Event(), []

    def write(seed):
        rng = random.Random(seed)
        try:
            while not is_gone.is_set():
                tree = vault.tree(rng, name=f"tree{rng.getrandbits(48):x}", large=100_000)
                was_gone = is_gone.is_set()
                outcome = vault.add(tree)
                # Its answer may have come too late for us to see that the power was still there: then it may be 1.
                if outcome.status != 0 and not is_gone.is_set() and not was_gone:
                    raise Broken(f"fails while there is power: {outcome}")
                outcome.expect(0, 1, 10, 13)
                place.counts["acknowledged commits"] += outcome.status == 0
        except Exception as error:  # pylint: disable=broad-except
            failures.append(error)

    writers = [threading.Thread(target=write, args=(place.rng.getrandbits(64),))
               for _ in range(place.rng.choice([1, 1, 2, 4]))]
    point = os.open(disk, os.O_RDONLY)
    try:
        for thread in writers:
            thread.start()
        time.sleep(place.rng.uniform(0, 0.5))
        is_gone.set()
        flag = place.rng.choice([NOLOGFLUSH, NOLOGFLUSH, NOLOGFLUSH, LOGFLUSH])
        fcntl.ioctl(point, EXT4_IOC_SHUTDOWN, struct.pack("I", flag))
    finally:
        is_gone.set()
        for thread in writers:
            thread.join()
        os.close(point)
    if failures:
        raise failures[0]


def sound(image):
    """The file system itself survived, or what is asked of the vault means nothing."""
    done = subprocess.run(["e2fsck", "-f", "-y", image], capture_output=True, text=True, check=False)
    if done.returncode > 1:
        raise Broken(f"the file system itself is damaged: {done.stdout}{done.stderr}")
