#!/usr/bin/env python3
"""Is one command faster than another? Both in turn, and the ratio pair by pair: what a noisy machine leaves to be said.

    paired.py [--turns N] [--before COMMAND] 'COMMAND A' 'COMMAND B'

Each turn runs A and B one after the other, every second turn B first; before each of them COMMAND of --before, which is
not measured (removing what the last run made, reading the source into the page cache). Commands are given to a shell, what
they print is dropped, and one that fails ends it all. At the end: wall and CPU seconds, median with least and most, and the
ratio A / B of wall seconds: its median, and between which ratios the true median lies with 95 % probability (by the ranks
of the pairs, no distribution assumed; this needs six turns). Below 1: A is faster.
"""

import argparse
import math
import resource
import subprocess
import sys
import time


def run(command):
    """Wall and CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    done = subprocess.run(command, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"ended with {done.returncode}: {command}\n{done.stderr.decode(errors='replace')}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def median(values):
    """The middle value, or the mean of the two."""
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def interval(values):
    """The two values between which the median lies with 95 % probability; None if there are too few."""
    values, count = sorted(values), len(values)
    below, rank = 0.0, 0
    # The most ranks that may be cut off at each end for 2.5 % at most.
    while below + math.comb(count, rank) / 2**count <= 0.025:
        below += math.comb(count, rank) / 2**count
        rank += 1
    return (values[rank - 1], values[count - rank]) if rank > 0 else None


def row(name, values, form):
    """A line: median, least and most."""
    print(f"{name:10} {form % median(values):>9} {form % min(values):>9} {form % max(values):>9}")


def main():
    """Runs the turns and prints what they came to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--before", default="true")
    parser.add_argument("a")
    parser.add_argument("b")
    args = parser.parse_args()
    figures = {"A": [], "B": []}
    for turn in range(args.turns):
        order = [("A", args.a), ("B", args.b)]
        for name, command in order if turn % 2 == 0 else reversed(order):
            subprocess.run(args.before, shell=True, stdout=subprocess.DEVNULL, check=True)
            figures[name].append(run(command))
    print(f"{args.turns} turns  {'median':>9} {'least':>9} {'most':>9}")
    for name, values in figures.items():
        row(f"{name} wall s", [wall for wall, _ in values], "%.3f")
        row(f"{name} CPU s", [cpu for _, cpu in values], "%.3f")
    ratios = [a[0] / b[0] for a, b in zip(figures["A"], figures["B"])]
    row("A / B", ratios, "%.3f")
    within = interval(ratios)
    print("95 %%       %9.3f to %.3f" % within if within else "95 %       too few turns to say")


if __name__ == "__main__":
    main()
