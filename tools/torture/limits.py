"""What happens where the system gives little: file sizes, descriptors, memory?"""

import signal

from harness import Broken, scenario
from kills import operations


@scenario(short=1)
def small_files_only(place):
    """RLIMIT_FSIZE: a write beyond it is a failed write, not the death that SIGXFSZ is."""
    base = place.vault()
    for name in ["add", "add to none", "remove"]:
        for limit in [0, 1, 4096, 70_000, 1 << 20, place.rng.randrange(1 << 20)]:
            vault, operation = operations(base.copy(place.directory / "limited.flint"), place.rng)[name]
            limited = limit if name == "add to none" else min(limit, vault.path.stat().st_size)
            outcome = operation(prefix=["prlimit", f"--fsize={limited}"]).expect(0, 1)
            if outcome.status == 1 and "File too large" not in outcome.err:
                raise Broken(f"does not say that the file is too large: {outcome}")
            place.counts["runs with a limit"] += 1
            vault.check()
            vault.path.unlink(missing_ok=True)


@scenario(short=1)
def few_descriptors(place):
    """RLIMIT_NOFILE: with 64 all works, with fewer it works or says what it cannot open."""
    base = place.vault()
    for limit in [*range(4, 16), 16, 20, 24, 32, 48, 64]:
        vault, operation = operations(base.copy(place.directory / "limited.flint"), place.rng)["add"]
        outcome = operation(prefix=["prlimit", f"--nofile={limit}"]).expect(*([0] if limit == 64 else [0, 1, 3, 127]))
        place.counts[f"runs that end with {outcome.status}"] += 1
        vault.check()


@scenario(short=1)
def little_memory(place):
    """RLIMIT_AS: works, or says what it cannot have. Where a small allocation fails Rust aborts; the vault is whole."""
    base = place.vault()
    for _ in range(6):
        vault, operation = operations(base.copy(place.directory / "limited.flint"), place.rng)["add"]
        limit = place.rng.randrange(24 << 20, 256 << 20)
        outcome = operation(prefix=["prlimit", f"--as={limit}"], may_die_of=[signal.SIGABRT]).expect(0, 1, -signal.SIGABRT)
        ended = {0: "runs that work", 1: "runs that say why not"}
        place.counts[ended.get(outcome.status, "runs that abort")] += 1
        vault.check()
