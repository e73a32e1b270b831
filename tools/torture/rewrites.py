"""What is left when `compact`, `rekey` or a change of the keys is killed, interrupted, or has its system calls fail?"""

import os
import signal
import time
from pathlib import Path

from chronicle import OPERATIONS, Chronicle
from faults import BEFORE_MAIN, TEXT
from harness import Broken, calls_of, scenario, strace

# What writes, syncs, makes room or names.
CHANGING = ["pwrite64", "fdatasync", "fsync", "fallocate", "ftruncate", "linkat", "renameat"]
# Whose failure nothing may pass over, and what it fails with.
FATAL = {"pwrite64": ["EIO", "ENOSPC"], "fdatasync": ["EIO", "ENOSPC"], "fsync": ["EIO"], "fallocate": ["EIO", "ENOSPC"],
         "linkat": ["EIO", "ENOSPC"], "renameat": ["EIO", "ENOSPC"]}
# As on a file system where a file cannot be without a name: what proves that it could get one later fails.
NAMED = "?access,?faccessat:error=ENOENT"
# What a run says that was not waited for while it put the new file in its place.
LEFT_ALONE = "interrupted while it was committed"
ENDED = {0: "too late to interrupt", 1: "interrupted while committed", 130: "interrupted runs"}
# So many calls of an operation in a round.
CALLS_A_ROUND = 6
# After so many rounds each operation has had its turn; `key add`, `remove` and `import` have one of them together.
TURNS = 5

KNOWN_CALLS, KNOWN_SECONDS = {}, {}


def one_worker(name):
    """So that calls come in the same order each time."""
    return ["--workers", "1"] if OPERATIONS[name].replaces else []


def calls(chronicle, name):
    """Every call that the operation makes of those that change something, as (call, number); found out once."""
    if name not in KNOWN_CALLS:
        found = calls_of(chronicle.scratch, ",".join(CHANGING),
                         lambda **how: chronicle.run(name, *one_worker(name), **how).expect(0))
        KNOWN_CALLS[name] = [(call, when) for call in CHANGING for when in range(1, found.get(call, 0) + 1)]
        chronicle.rewind()
    return KNOWN_CALLS[name]


def seconds(chronicle, name):
    """About how long the operation takes; found out once."""
    if name not in KNOWN_SECONDS:
        began = time.monotonic()
        chronicle.run(name).expect(0)
        KNOWN_SECONDS[name] = time.monotonic() - began
        chronicle.rewind()
    return KNOWN_SECONDS[name]


def some(place, found):
    """Some of the calls; always those that name, and the sync of the directory."""
    syncs = [entry for entry in found if entry[0] == "fsync"]
    first = [entry for entry in found if entry[0] in ("linkat", "renameat")] + syncs[-1:]
    others = [entry for entry in found if entry not in first]
    return first + place.rng.sample(others, min(len(others), CALLS_A_ROUND - len(first)))


def whose_turn(place):
    """The operation of this round: those that are most alike share one of TURNS."""
    first, alike = list(OPERATIONS)[:TURNS - 1], list(OPERATIONS)[TURNS - 1:]
    return [*first, place.rng.choice(alike)][place.number % TURNS]


def maybe_named(place, name, call):
    """What makes the new file have a name from the beginning, now and then; who has a name is not linked."""
    return [NAMED] if OPERATIONS[name].replaces and call != "linkat" and place.rng.random() < 0.4 else []


def count(place, chronicle, state):
    """For the table."""
    place.counts["the vault as it was" if state is chronicle.state else "the vault as it was to be"] += 1


@scenario(short=1)
def changes_killed_at_a_random_moment(place):
    """SIGKILL somewhere within `compact`, `rekey`, and every command that changes keys."""
    chronicle = Chronicle.begin(place)
    for name, operation in OPERATIONS.items():
        after = place.rng.uniform(0.1, 0.8) * seconds(chronicle, name)
        outcome = chronicle.run(name, run=lambda *words, moment=after: place.program.run_killed(*words, after=moment))
        place.counts["kills" if outcome.status == -signal.SIGKILL else "too late to kill"] += 1
        state = chronicle.check(name, chronicle.allowed(name, outcome), place.rng, not operation.replaces, True)
        count(place, chronicle, state)
        chronicle.rewind()


@scenario(short=TURNS)
def changes_killed_at_a_system_call(place):
    """SIGKILL on the way into calls of one of these that write, sync, make room or name; also where the new file has a
    name from the beginning."""
    name = whose_turn(place)
    chronicle = Chronicle.begin(place)
    for call, when in some(place, calls(chronicle, name)):
        kill = [f"{call}:signal=SIGKILL:when={when}", *maybe_named(place, name, call)]
        outcome = chronicle.run(name, *one_worker(name), prefix=strace(*kill), may_die_of=[signal.SIGKILL])
        place.counts["kills at a call" if outcome.status < 0 else "calls that did not come"] += 1
        place.counts["temporary files that the next run had to remove"] += len(chronicle.beside())
        state = chronicle.check(name, chronicle.allowed(name, outcome), place.rng, not OPERATIONS[name].replaces, True)
        count(place, chronicle, state)
        chronicle.rewind()


@scenario(short=TURNS)
def changes_whose_calls_fail(place):
    """EIO and ENOSPC at calls of one of these that write, sync, make room or name, once and from then on; and EINTR,
    which is no failure. Now and then the new file has a name from the beginning, and loses it."""
    name = whose_turn(place)
    chronicle = Chronicle.begin(place)
    found = [entry for entry in calls(chronicle, name) if entry[0] in FATAL]
    last_sync = max(when for call, when in found if call == "fsync")
    for call, when in some(place, found):
        error, forever = place.rng.choice(FATAL[call]), place.rng.choice(["", "+"])
        log = place.directory / "log"
        faults = [f"{call}:error={error}:when={when}{forever}", *maybe_named(place, name, call)]
        outcome = chronicle.run(name, *one_worker(name), prefix=strace(*faults, output=log))
        injected = [line for line in log.read_text(errors="replace").splitlines() if "INJECTED" in line and call in line]
        if not injected:
            raise Broken(f"{call} number {when} of {name} did not come, though it did before: {outcome}")
        place.counts["injected faults"] += 1
        allowed = chronicle.allowed(name, outcome)
        is_told(outcome, call, f"{when}{forever}", error)
        is_directory = OPERATIONS[name].replaces and (call, when) == ("fsync", last_sync)
        if OPERATIONS[name].replaces and outcome.status and not is_directory and allowed != [chronicle.state]:
            raise Broken(f"says that the new file may be there, where it cannot: {outcome}")
        state = chronicle.check(name, allowed, place.rng, not OPERATIONS[name].replaces)
        count(place, chronicle, state)
        chronicle.rewind()
    for call in ["pread64", "pwrite64", "fdatasync", "fsync", "fallocate", "ftruncate"]:
        possible = sum(known == call for known, _ in calls(chronicle, name)) or 3 * (call == "pread64")
        if possible and place.rng.random() < 0.2:
            when = BEFORE_MAIN.get(call, 0) + place.rng.randint(1, possible)
            outcome = chronicle.run(name, *one_worker(name), prefix=strace(f"{call}:error=EINTR:when={when}")).expect(0)
            place.counts["injected interruptions"] += 1
            chronicle.check(name, chronicle.allowed(name, outcome), place.rng)
            chronicle.rewind()


def is_told(outcome, call, when, error):
    """A failure of what the change stands on ends it with 1 and its reason, but for room that may come in smaller pieces."""
    where = f"{call} number {when} fails with {error}"
    if outcome.status == 0 and call == "fallocate" and error == "ENOSPC" and not when.endswith("+"):
        return
    if outcome.status != 1:
        raise Broken(f"{where}, and it ends with {outcome.status}: {outcome}")
    if TEXT[error] not in outcome.err:
        raise Broken(f"{where}, which it does not say: {outcome}")


@scenario(short=1)
def changes_interrupted_by_signals(place):
    """SIGINT and SIGTERM, once and twice, while a new file is written: 130, the old one, and nothing beside it. Who says it
    twice while the new file is just put in its place is told, with 1, that either may be there."""
    chronicle = Chronicle.begin(place)
    for name in [name for name, operation in OPERATIONS.items() if operation.replaces]:
        for which in [signal.SIGINT, signal.SIGTERM]:
            for ways in [signalled_at_a_call, signalled_once, signalled_twice]:
                outcome = ways(place, chronicle, name, which).expect(0, 130, *([1] if ways is signalled_twice else []))
                if outcome.status == 1 and LEFT_ALONE not in outcome.err:
                    raise Broken(f"fails of a signal, and does not say so: {outcome}")
                place.counts[ENDED[outcome.status]] += 1
                # Left between the two steps in which the new file gets its name, it has the other one.
                state = chronicle.check(name, chronicle.allowed(name, outcome), place.rng,
                                        may_lie_beside=outcome.status == 1)
                count(place, chronicle, state)
                chronicle.rewind()


def signalled_at_a_call(place, chronicle, name, which):
    """Once, on the way into one of its calls before the new file has a name."""
    call, when = place.rng.choice([entry for entry in calls(chronicle, name) if entry[0] not in ("fsync", "renameat")])
    prefix = strace(f"{call}:signal={which.name}:when={when}")
    return chronicle.run(name, *one_worker(name), prefix=prefix)


def signalled_once(place, chronicle, name, which, times=1):
    """At a random moment from when it listens on."""
    rest = place.rng.uniform(0, 0.8) * seconds(chronicle, name)
    process = chronicle.program.start(*chronicle.command(name))
    until_it_listens(process, which)
    time.sleep(rest)
    for _ in range(times):
        if process.poll() is None:
            process.send_signal(which)
        time.sleep(place.rng.uniform(0, 0.003))
    return chronicle.program.end(process)


def signalled_twice(place, chronicle, name, which):
    """And again soon after."""
    return signalled_once(place, chronicle, name, which, times=2)


def until_it_listens(process, which):
    """Waits until a process has something to say about a signal; before, it would just die of it."""
    mask = 1 << (which - 1)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        words = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if any(int(words.get(of, "0"), 16) & mask for of in ("SigCgt", "SigBlk")):
            return
        os.sched_yield()
