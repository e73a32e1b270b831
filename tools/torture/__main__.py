#!/usr/bin/env python3
"""Does the program keep its promises when the system does not? Kills it, takes its disk, changes what it reads.

    tools/torture FLINT-PIPE [--short | --minutes N] [--only NAME] [--seed N] [--round N] [--keep] [--list]

Each scenario ends with the same questions: is everything that was acknowledged there, byte for byte, does `verify` say
0, does the next `add` work? And of every run: did it end in time, with the right status, without a panic or a signal?

A round is replayed by its scenario's name, the seed and its number, as far as the system plays along: what is drawn is
the same, when threads run is not. What needs root, loop devices or strace is skipped where there is none, and said so.
Everything happens below one temporary directory in TMPDIR (default: /var/tmp). Python 3.11, standard library only.
"""

import argparse
import collections
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

# Nothing is to appear beside the sources.
sys.dont_write_bytecode = True

import disks  # noqa: E402,F401
import faults  # noqa: E402,F401
import kills  # noqa: E402,F401
import limits  # noqa: E402,F401
import pairs  # noqa: E402,F401
import rewrites  # noqa: E402,F401
import sources  # noqa: E402,F401
from harness import SCENARIOS, Broken, Place, Program, Skip  # noqa: E402


def play(options, base, function, number, counts):
    """One round; answers what is wrong, or None."""
    directory = base / f"{function.__name__}-{number}"
    directory.mkdir()
    rng = random.Random(f"{options.seed}/{function.__name__}/{number}")
    place = Place(Program(options.program), directory, rng, counts, number)
    wrong = None
    try:
        with place.cleanup:
            function(place)
    except Broken as broken:
        wrong = str(broken)
    finally:
        if not (wrong and options.keep):
            shutil.rmtree(directory, ignore_errors=True)
    if wrong:
        place_kept = f"\n{directory} is kept" if options.keep else ""
        print(f"BROKEN {function.__name__} (--only {function.__name__} --seed {options.seed} --round {number}):\n"
              f"{wrong}{place_kept}", flush=True)
    return wrong


class Tally:
    """What ran, for how long, and what came of it."""

    def __init__(self):
        self.rounds, self.seconds = collections.Counter(), collections.Counter()
        self.counts, self.skipped, self.broken = collections.defaultdict(collections.Counter), {}, 0

    def play(self, options, base, function, number):
        name = function.__name__
        if name in self.skipped:
            return
        began = time.monotonic()
        try:
            self.broken += play(options, base, function, number, self.counts[name]) is not None
            self.rounds[name] += 1
        except Skip as skip:
            self.skipped[name] = str(skip)
        self.seconds[name] += time.monotonic() - began

    def print(self):
        for name, rounds in self.rounds.items():
            if rounds:
                counts = ", ".join(f"{count} {what}" for what, count in sorted(self.counts[name].items()) if count)
                print(f"{self.seconds[name]:7.1f} s  {name}: {rounds} rounds: {counts}")
        for name, why in self.skipped.items():
            print(f"note: skipped {name}: {why}")
        ran = sum(name not in self.skipped for name in self.rounds)
        print(f"{ran} scenarios ran, {len(self.skipped)} were skipped, {self.broken} rounds found something broken")


def play_all(options, base, tally):
    """The short form has a number of rounds for each scenario; the long one takes turns until its time is up."""
    chosen = [(function, short) for function, short in SCENARIOS if options.only in (None, function.__name__)]
    if options.round is not None:
        for function, _ in chosen:
            tally.play(options, base, function, options.round)
    elif options.minutes is None:
        for function, short in chosen:
            for number in range(short):
                tally.play(options, base, function, number)
    else:
        end = time.monotonic() + options.minutes * 60
        turn = 0
        while time.monotonic() < end:
            for function, short in chosen:
                for number in range(turn * short, (turn + 1) * short):
                    if time.monotonic() < end:
                        tally.play(options, base, function, number)
            turn += 1


def main():
    parser = argparse.ArgumentParser(prog="tools/torture", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=os.path.abspath, metavar="FLINT-PIPE")
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--short", action="store_true", help="a minute or so (default)")
    how_long.add_argument("--minutes", type=float, metavar="N", help="every scenario in turn, over and over")
    parser.add_argument("--only", choices=[function.__name__ for function, _ in SCENARIOS], metavar="NAME")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--round", type=int, metavar="N", help="this round alone")
    parser.add_argument("--keep", action="store_true", help="leave what was found broken where it is")
    parser.add_argument("--list", action="store_true", help="say what scenarios there are, and end")
    options = parser.parse_args()
    if options.list:
        for function, short in SCENARIOS:
            print(f"{function.__name__} ({short}): {function.__doc__}")
        return 0
    # As an exception, so that everything is unmounted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    base = Path(tempfile.mkdtemp(prefix="flint-torture.", dir=os.environ.get("TMPDIR", "/var/tmp")))
    tally = Tally()
    try:
        play_all(options, base, tally)
    except Exception:
        traceback.print_exc()
        tally.broken += 1
    finally:
        if not (options.keep and tally.broken):
            shutil.rmtree(base, ignore_errors=True)
        tally.print()
    return 1 if tally.broken else 0


if __name__ == "__main__":
    sys.exit(main())
