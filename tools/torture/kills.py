"""What is left when the program is killed, stopped, or one of a crowd?"""

import os
import random
import signal
import threading
import time
from pathlib import Path

from harness import Broken, Skip, Vault, calls_of, scenario, strace

# What changes the vault, and what else an operation is made of.
CHANGING = ["pwrite64", "fdatasync", "fsync", "fallocate", "ftruncate", "linkat", "renameat2"]
CALLS = ",".join([*CHANGING, "openat", "openat2", "pread64", "fcntl", "mmap", "clone3", "process_vm_readv"])


def operations(vault, rng):
    """What may be killed: name -> the vault that it works on, and what does it."""
    tree = vault.tree(rng)
    new = Vault(vault.program, vault.path.with_name("new.flint"), vault.scratch)
    return {
        "add": (vault, lambda **how: vault.add(tree, "--workers", "1", **how)),
        "add to none": (new, lambda **how: new.add(tree, "--workers", "1", **how)),
        "remove": (vault, lambda **how: vault.remove(next(iter(vault.may_be)), **how)),
    }


KNOWN_CALLS = {}


def counted(place, name):
    """How many of the calls the operation of that name makes, found out once on a vault of its own."""
    if name not in KNOWN_CALLS:
        directory = place.directory / "counted"
        directory.mkdir()
        _, operation = operations(place.vault(directory / "vault.flint"), random.Random(0))[name]
        KNOWN_CALLS[name] = calls_of(directory, CALLS, operation)
    return KNOWN_CALLS[name]


@scenario(short=5)
def killed_at_a_random_moment(place):
    """SIGKILL somewhere within an `add`, an `add` that makes the vault, a `remove`."""
    vault = place.vault()
    for name in ["add", "add to none", "add", "remove"]:
        touched, operation = operations(vault, place.rng)[name]
        after = place.rng.uniform(0.005, 0.07)
        outcome = operation(run=lambda *arguments, moment=after: place.program.run_killed(*arguments, after=moment))
        place.counts["kills" if outcome.status == -signal.SIGKILL else "too late to kill"] += 1
        touched.check()
        touched.path.with_name("new.flint").unlink(missing_ok=True)


@scenario(short=6)
def killed_at_a_system_call(place):
    """SIGKILL on the way into the N-th call that writes, syncs, makes room, names, opens, reads, locks or takes memory."""
    name = place.rng.choice(["add", "add to none", "remove"])
    calls = counted(place, name)
    vault, operation = operations(place.vault(), place.rng)[name]
    call = place.rng.choice(sorted(calls))
    when = place.rng.randint(1, calls[call])
    outcome = operation(prefix=strace(f"{call}:signal=SIGKILL:when={when}"), may_die_of=[signal.SIGKILL])
    place.counts["kills at a call" if outcome.status < 0 else "calls that did not come"] += 1
    vault.check()


@scenario(short=1)
def killed_at_every_write_and_sync(place):
    """SIGKILL at each of the calls of an operation that change the vault or its directory, one after the other."""
    base = place.vault()
    name = ["add to none", "remove", "add"][place.number % 3]
    calls = counted(place, name)
    for call in CHANGING:
        for when in range(1, calls.get(call, 0) + 1):
            vault, operation = operations(base.copy(place.directory / "killed.flint"), place.rng)[name]
            operation(prefix=strace(f"{call}:signal=SIGKILL:when={when}"), may_die_of=[signal.SIGKILL])
            place.counts["kills at a call"] += 1
            vault.check()
            vault.path.unlink(missing_ok=True)


@scenario(short=1)
def a_stopped_holder_of_the_lock(place):
    """SIGSTOP of an `add` that holds the lock: others end with 11 or wait, readers read; after SIGCONT all is well."""
    vault = place.vault()
    slow, other, patient = (vault.tree(place.rng) for _ in range(3))
    # The second sync is the one under the commit lock.
    stopped = threading.Thread(target=vault.add, args=(slow,),
                               kwargs={"prefix": strace("fdatasync:signal=SIGSTOP:when=2")})
    stopped.start()
    process = wait_for_stopped(vault.path)
    try:
        outcome = vault.add(other, "--lock-timeout", "2s").expect(11)
        if "--lock-timeout" not in outcome.err:
            raise Broken(f"does not say what can be done: {outcome}")
        place.program.run("verify", "-v", vault.path).expect(0)
        place.program.run("list", "-v", vault.path).expect(0)
        waiting = threading.Thread(target=vault.add, args=(patient,))
        waiting.start()
        time.sleep(0.5)
        if not waiting.is_alive():
            raise Broken("an add went on while another held the lock")
    finally:
        os.kill(process, signal.SIGCONT)
        stopped.join()
    waiting.join()
    place.counts["stopped holders"] += 1
    if [vault.may_be[tree] for tree in (slow, other, patient)] != [{True}, {False}, {True}]:
        raise Broken(f"after SIGCONT: {vault.may_be}")
    vault.check()


def wait_for_stopped(path):
    """The process that was stopped while it worked on that vault."""
    for _ in range(300):
        for process in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (process / "cmdline").read_bytes()
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                # It has ended meanwhile.
                continue
            if os.fsencode(path) in arguments and state in "Tt" and not arguments.startswith(b"strace"):
                return int(process.name)
        time.sleep(0.1)
    raise Skip("the process did not stop: signals of the tracer do not stop it here")


@scenario(short=2)
def a_crowd_of_which_some_are_killed(place):
    """Eight writers and two readers at once, on one vault; some of the writers are killed."""
    vault = place.vault()
    trees = [vault.tree(place.rng) for _ in range(8)]
    moments = [place.rng.uniform(0.02, 0.4) if place.rng.random() < 0.4 else None for _ in trees]
    done, failures = threading.Event(), []

    def guarded(work, *arguments):
        try:
            work(*arguments)
        except Exception as error:  # pylint: disable=broad-except
            failures.append(error)

    def write(tree, after):
        if after is None:
            vault.add(tree, "--workers", "1").expect(0)
        else:
            outcome = vault.add(tree, run=lambda *arguments: place.program.run_killed(*arguments, after=after))
            place.counts["kills in a crowd"] += outcome.status == -signal.SIGKILL

    def read():
        while not done.is_set():
            for name, entries in vault.listed().items():
                tree = next(tree for tree in vault.may_be if tree.name == name)
                if len(entries) != len(tree.sight):
                    raise Broken(f"a reader sees {len(entries)} of {len(tree.sight)} entries of {name}")
            place.program.run("verify", "-v", vault.path).expect(0)
            place.counts["rounds of readers"] += 1

    # Known before anybody may see them.
    vault.may_be.update({tree: {True, False} for tree in trees})
    writers = [threading.Thread(target=guarded, args=(write, *work)) for work in zip(trees, moments)]
    readers = [threading.Thread(target=guarded, args=(read,)) for _ in range(2)]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    if failures:
        raise failures[0]
    place.counts["writers in a crowd"] += len(writers)
    vault.check()
