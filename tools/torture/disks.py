"""What is left when the disk is full, or loses power?"""

import fcntl
import os
import random
import struct
import subprocess
import threading
import time

from chronicle import OPERATIONS, Chronicle
from harness import Broken, Vault, scenario, unmount
from rewrites import seconds

# ext4's ioctl to stop at once, as a power cut would, and its flags: the journal is written before, or is not.
EXT4_IOC_SHUTDOWN = 0x8004587D
LOGFLUSH, NOLOGFLUSH = 1, 2
# After so many a new file system is made.
CUTS_PER_DISK = 10
# So much more than it says that it needs is enough for anything: room for indexes is taken by the MiB.
PLENTY = 2 << 20
PAGE = 4096


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
        lose_power(place, point)
    finally:
        is_gone.set()
        for thread in writers:
            thread.join()
        os.close(point)
    if failures:
        raise failures[0]


def lose_power(place, point):
    """Stops the file system that this descriptor is of."""
    flag = place.rng.choice([NOLOGFLUSH, NOLOGFLUSH, NOLOGFLUSH, LOGFLUSH])
    fcntl.ioctl(point, EXT4_IOC_SHUTDOWN, struct.pack("I", flag))


def sound(image):
    """The file system itself survived, or what is asked of the vault means nothing."""
    done = subprocess.run(["e2fsck", "-f", "-y", image], capture_output=True, text=True, check=False)
    if done.returncode > 1:
        raise Broken(f"the file system itself is damaged: {done.stdout}{done.stderr}")


@scenario(short=1)
def a_tmpfs_with_room_for_one_vault(place):
    """`compact` and `rekey` where the vault fits once and not twice, and where what they need is there to a few pages:
    they say 1 and how much is missing, and have written nothing; or all is done."""
    disk = place.mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")
    chronicle = Chronicle.begin(place, disk)
    for name in ["compact --keep-all", "rekey"]:
        plan = place.program.run(*chronicle.command(name, "--dry-run", "--json")).expect(0).result()
        need = plan["compaction"]["bytes_after"]
        around = sorted(need + place.rng.choice([-1, 1]) * place.rng.randrange(64 << 10) for _ in range(2))
        for leave in [place.rng.randrange(need // 2), need - PAGE, *around, need + PLENTY]:
            squeeze(place, chronicle, disk, name, need, leave // PAGE * PAGE)
    # Less is kept, so less is needed: that is the way out of a full disk.
    plan = place.program.run(*chronicle.command("compact --keep-last 2", "--dry-run", "--json")).expect(0).result()
    squeeze(place, chronicle, disk, "compact --keep-last 2", plan["compaction"]["bytes_after"],
            len(chronicle.image) // PAGE * PAGE)


def squeeze(place, chronicle, disk, name, need, leave):
    """Runs it with so many bytes left on the disk, of those that it says it needs."""
    with open(disk / "filler", "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, room(disk) - leave)
    before = room(disk)
    outcome = chronicle.run(name, "--json").expect(0, 1)
    if outcome.status:
        figures = "are needed beside it, and " in outcome.err and " are free" in outcome.err
        if not (figures if before < need else figures or "No space left" in outcome.err):
            raise Broken(f"{before} bytes are free, {need} are needed, and it does not say so: {outcome}")
        if before >= need + PLENTY:
            raise Broken(f"{before} bytes are free, {need} are needed, and it fails: {outcome}")
        if room(disk) != before:
            raise Broken(f"{before - room(disk)} bytes were not given back: {outcome}")
    elif before < need:
        raise Broken(f"{before} bytes are free, {need} are needed, and it goes on: {outcome}")
    place.counts["changes that did not fit" if outcome.status else "changes that fitted"] += 1
    (disk / "filler").unlink()
    chronicle.check(name, chronicle.allowed(name, outcome), place.rng)
    chronicle.rewind()


def room(disk):
    """Bytes that are free on a disk that gives back at once."""
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


@scenario(short=1)
def power_cuts_of_changes(place):
    """`compact`, `rekey` and every command that changes keys on a file system that loses power at a random moment of it
    or just after: the vault from before, or the one from after, and that one once it was acknowledged."""
    image = place.image(64)
    disk = place.mount("-o", "loop", image)
    chronicle = Chronicle.begin(place, disk)
    for name, operation in OPERATIONS.items():
        chronicle.rewind()
        moment = place.rng.uniform(0.2, 1.6) * seconds(chronicle, name)
        # What is from before the cut is on the disk.
        os.sync()
        point = os.open(disk, os.O_RDONLY)
        try:
            process = chronicle.program.start(*chronicle.command(name))
            time.sleep(moment)
            lose_power(place, point)
        finally:
            os.close(point)
        outcome = chronicle.program.end(process).expect(0, 1, 10, 13)
        unmount(disk)
        subprocess.run(["mount", "-o", "loop", image, disk], check=True)
        after = operation.after(chronicle.state)
        allowed = [after] if outcome.status == 0 else [chronicle.state, after]
        state = chronicle.check(name, allowed, place.rng, not operation.replaces, True)
        place.counts["power cuts"] += 1
        place.counts["acknowledged changes looked for after a cut"] += outcome.status == 0
        place.counts["the vault as it was" if state is chronicle.state else "the vault as it was to be"] += 1
