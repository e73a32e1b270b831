"""Is anything lost where two commands run on one vault at once, of which one wants it alone or changes its keys?"""

import contextlib
import json
import subprocess

from chronicle import CHEAP, OPERATIONS, Chronicle, State, is_same
from harness import Broken, Tree, look, scenario


def beside(place, chronicle, first, second, statuses=(0,)):
    """Runs two commands at once, either of them first by a random while; answers how they ended.

    - `statuses`: how the second one may end; the first one ends with 0.
    """
    commands, processes = [first, second], {}
    for position in place.rng.sample([0, 1], 2):
        processes[position] = chronicle.program.start(*commands[position])
        with contextlib.suppress(subprocess.TimeoutExpired):
            processes[position].wait(place.rng.choice([0, place.rng.uniform(0, 0.06)]))
    outcomes = [chronicle.program.end(processes[position]) for position in (0, 1)]
    outcomes[0].expect(0)
    outcomes[1].expect(*statuses)
    place.counts["pairs"] += 1
    return outcomes


def settle(place, chronicle, name, state):
    """All of this is there, and the vault goes on; then it is what it was before."""
    chronicle.check(name, [state], place.rng)
    chronicle.rewind()


@scenario(short=1)
def pairs_with_compact(place):
    """Each of `add`, `key add`, `extract`, `list`, `compact` beside a `compact`: both are done, and nothing is lost."""
    chronicle = Chronicle.begin(place)
    old, name = chronicle.state, "compact --keep-all"
    compact = chronicle.command(name)

    tree = Tree(place.directory / "source", "beside", place.rng, large=300_000)
    beside(place, chronicle, compact, ["add", "-v", chronicle.path, *tree.sources])
    settle(place, chronicle, name, State({**old.snapshots, 5: old.snapshots[4] | tree.sight}, old.opens))

    beside(place, chronicle, compact, chronicle.command("key add"))
    settle(place, chronicle, name, OPERATIONS["key add"].after(old))

    shorter, kept = chronicle.command("compact --keep-last 2"), OPERATIONS["compact --keep-last 2"].after(old)
    number, out = place.rng.choice([3, 4]), place.directory / "beside"
    beside(place, chronicle, shorter, ["extract", "-v", chronicle.path, "-o", out, "--at", number])
    is_same(old.snapshots[number], look(out), "restored beside a compact")
    settle(place, chronicle, name, kept)

    _, read = beside(place, chronicle, shorter, ["list", "-v", chronicle.path, "--json", "--at", number])
    if {json.loads(line)["path"] for line in read.out.splitlines()} != old.snapshots[number].keys():
        raise Broken(f"a reader beside a compact is told of something else: {read.out}")
    settle(place, chronicle, name, kept)

    beside(place, chronicle, compact, shorter)
    settle(place, chronicle, name, kept)


@scenario(short=1)
def pairs_of_keys(place):
    """Two `key add` at once both hold; an `add` beside a `rekey` is done, or says that it is not."""
    chronicle = Chronicle.begin(place)
    old = chronicle.state
    third = chronicle.command(["key", "add", "--new-password-file", "third", "--label", "third", *CHEAP])
    beside(place, chronicle, chronicle.command("key add"), third)
    settle(place, chronicle, "key add", State(old.snapshots, old.opens | {"new", "third"}))

    tree = Tree(place.directory / "source", "beside", place.rng, large=300_000)
    # Who has opened it with the old keys is refused once there are new ones; who comes later has the wrong password.
    _, added = beside(place, chronicle, chronicle.command("rekey"), ["add", "-v", chronicle.path, *tree.sources],
                      statuses=(0, 1, 12))
    if added.status == 1 and "another vault has been put in the place" not in added.err:
        raise Broken(f"does not say why: {added}")
    place.counts[f"adds beside a rekey that end with {added.status}"] += 1
    more = {5: old.snapshots[4] | tree.sight} if added.status == 0 else {}
    settle(place, chronicle, "rekey", State({**old.snapshots, **more}, frozenset(["new"])))
