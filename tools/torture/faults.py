"""What is left when system calls fail? Errors are put in by strace, once or from some call on, for every N in turn."""

from harness import Broken, scenario, strace
from kills import counted, operations

TEXT = {"EIO": "Input/output error", "ENOSPC": "No space left on device", "EDQUOT": "Disk quota exceeded",
        "ENOMEM": "Cannot allocate memory", "EMFILE": "Too many open files", "EAGAIN": "Resource temporarily unavailable",
        "EPERM": "Operation not permitted"}

# Whose failure nothing may pass over, and what it fails with.
FATAL = {"pwrite64": ["EIO", "ENOSPC", "EDQUOT"], "fdatasync": ["EIO", "ENOSPC"], "fsync": ["EIO"],
         "fallocate": ["EIO", "ENOSPC"], "linkat": ["EIO", "ENOSPC"]}
# Whose failure may cost a note, a file of the source, or the run.
OTHER = {"ftruncate": ["EIO"], "pread64": ["EIO"], "process_vm_readv": ["EIO", "EPERM"], "openat": ["EIO", "EMFILE"],
         "openat2": ["EIO"], "fcntl": ["EIO"], "clone3": ["EAGAIN"], "statx": ["EIO"], "getdents64": ["EIO"],
         "lseek": ["EIO"], "sync_file_range": ["EIO"]}
# The loader and the runtime call these before `main`, where nobody can say anything yet.
BEFORE_MAIN = {"pread64": 2, "openat": 6, "mmap": 30, "statx": 0}


@scenario(short=1)
def every_write_and_sync_fails(place):
    """EIO, ENOSPC and EDQUOT at each call that writes, syncs, makes room or names, once and from then on."""
    base = place.vault()
    name = ["add to none", "remove", "add"][place.number % 3]
    for call, errors in FATAL.items():
        for when in range(1, counted(place, name).get(call, 0) + 1):
            error = place.rng.choice(errors)
            # For ever: with what comes after the failure, the giving back, failing as well.
            when = f"{when}{place.rng.choice(['', '+'])}"
            vault, operation = operations(base.copy(place.directory / "failing.flint"), place.rng)[name]
            log = place.directory / "log"
            outcome = operation(prefix=strace(f"{call}:error={error}:when={when}", output=log))
            injected = [line for line in log.read_text(errors="replace").splitlines() if "INJECTED" in line]
            if injected:
                place.counts["injected faults"] += 1
                is_told(outcome, call, when, error, injected[0])
            else:
                # How many there are depends a little on the tree.
                place.counts["calls that did not come"] += 1
                outcome.expect(0)
            vault.check()
            vault.path.unlink(missing_ok=True)


def is_told(outcome, call, when, error, injected=""):
    """A failure of what the vault stands on ends the run with 1 and its reason, but for some that cost nothing."""
    where = f"{call} number {when} fails with {error}"
    if outcome.status == 0 and call == "pwrite64" and "second copy of the root" in outcome.err:
        return
    makes_room = call == "fallocate" or "FLINTSG1" in injected
    if outcome.status == 0 and makes_room and error != "EIO" and not when.endswith("+"):
        # It asks for less room than it would like to have, or for other room, which begins with a head.
        return
    if outcome.status != 1:
        raise Broken(f"{where}, and it ends with {outcome.status}: {outcome}")
    if TEXT[error] not in outcome.err:
        raise Broken(f"{where}, which it does not say: {outcome}")


@scenario(short=8)
def any_call_fails(place):
    """EIO and others at the N-th call of any other kind: what is said is true, nothing is lost."""
    name = place.rng.choice(["add", "add to none", "remove"])
    vault, operation = operations(place.vault(), place.rng)[name]
    call = place.rng.choice(sorted(OTHER))
    error = place.rng.choice(OTHER[call])
    when = BEFORE_MAIN.get(call, 0) + place.rng.randint(1, 16)
    outcome = operation(prefix=strace(f"{call}:error={error}:when={when}"))
    place.counts["injected faults"] += 1
    outcome.expect(0, 1, 3)
    if outcome.status == 3 and not outcome.result().get("errors"):
        raise Broken(f"{call} {when} {error}: something is missing, and nothing is named: {outcome}")
    vault.check()


@scenario(short=1)
def interrupted_calls_are_repeated(place):
    """EINTR at the N-th call that reads, writes or syncs is no failure."""
    base = place.vault()
    for call in ["pread64", "pwrite64", "fdatasync", "fallocate", "ftruncate"]:
        when = BEFORE_MAIN.get(call, 0) + place.rng.randint(1, 3)
        vault, operation = operations(base.copy(place.directory / "interrupted.flint"), place.rng)["add"]
        operation(prefix=strace(f"{call}:error=EINTR:when={when}")).expect(0)
        place.counts["injected interruptions"] += 1
        vault.check()


@scenario(short=2)
def reading_fails(place):
    """EIO at the N-th read of `verify`, `list` and `extract`: they end, say so, and restore nothing that is wrong."""
    vault = place.vault(trees=3)
    out = place.directory / "out"
    for arguments in [["verify"], ["list"], ["extract", "-o", out]]:
        when = 2 + place.rng.randint(1, 12)
        prefix = strace(f"pread64:error=EIO:when={when}{place.rng.choice(['', '+'])}")
        outcome = place.program.run(arguments[0], "-v", vault.path, *arguments[1:], prefix=prefix).expect(0, 1, 3, 13)
        place.counts["injected faults"] += 1
        if outcome.status and TEXT["EIO"] not in outcome.err:
            raise Broken(f"read number {when} fails, which it does not say: {outcome}")
    vault.check()
